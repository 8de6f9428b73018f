"""The corruptions, one file each; a file named ``gaussian_noise.py`` is the corruption ``gaussian-noise``."""

from robustbench_cli.core.registry import Registry

__all__ = ["BENCHMARK", "SEVERITIES", "registry"]

registry = Registry(kind="corruption", package=__name__, base=f"{__name__}.base.corruption:Corruption")

BENCHMARK = (
    *("gaussian-noise", "shot-noise", "impulse-noise", "defocus-blur", "glass-blur", "motion-blur", "zoom-blur"),
    *("snow", "frost", "fog", "brightness", "contrast", "elastic-transform", "pixelate", "jpeg-compression"),
)
"""The 15 corruptions of the benchmark, in the order of the paper. Means are over them; the paper keeps the other four for the
tuning of a method.
"""

SEVERITIES = (1, 2, 3, 4, 5)
"""The severities, the weakest first."""

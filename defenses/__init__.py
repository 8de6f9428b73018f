"""Floor 2: the defenses, one file each, training included. ``base`` holds what they are built from."""

from robustbench_cli.core.registry import Registry

__all__ = ["registry"]

registry = Registry(
    kind="defense",
    package=__name__,
    base=f"{__name__}.base.defense:Defense",
    instead=" (docs/extending.md), or, for a model that is random by itself, --model {name} (docs/randomized-defense.md)",
)

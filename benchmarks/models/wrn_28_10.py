"""WRN-28-10."""

from __future__ import annotations

from torch import nn

from robustbench_cli.benchmarks.models.base.wide_resnet import wide_resnet

__all__ = ["wrn_28_10"]


def wrn_28_10(*, shape: tuple[int, int, int], classes: int, argument: str | None = None) -> nn.Module:
    """WRN-28-10 of Zagoruyko and Komodakis (BMVC 2016): 36.5 M parameters; options silu, deepmind.

    The weights have the names of the TRADES repository. ``wrn-28-10:silu`` has SiLU instead of ReLU.
    ``wrn-28-10:deepmind`` is the network of Gowal et al. (arXiv 2010.03593), with SiLU, TensorFlow's padding and the names of
    their files.

    Args:
        shape: ``(C, H, W)``.
        classes: K.
        argument: The option.

    Raises:
        UserError: The option is unknown.
    """
    return wide_resnet("wrn-28-10", depth=28, width=10, shape=shape, classes=classes, argument=argument)

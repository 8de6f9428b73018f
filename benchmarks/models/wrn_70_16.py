"""WRN-70-16."""

from __future__ import annotations

from torch import nn

from robustbench_cli.benchmarks.models.base.wide_resnet import wide_resnet

__all__ = ["wrn_70_16"]


def wrn_70_16(*, shape: tuple[int, int, int], classes: int, argument: str | None = None) -> nn.Module:
    """WRN-70-16, as in Gowal et al. (arXiv 2010.03593): 266.8 M parameters; options silu, deepmind.

    Published weights of this size are nearly all of ``wrn-70-16:deepmind``. The options are those of ``wrn-28-10``.

    Args:
        shape: ``(C, H, W)``.
        classes: K.
        argument: The option.

    Raises:
        UserError: The option is unknown.
    """
    return wide_resnet("wrn-70-16", depth=70, width=16, shape=shape, classes=classes, argument=argument)

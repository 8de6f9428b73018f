"""WRN-34-10."""

from __future__ import annotations

from torch import nn

from robustbench_cli.benchmarks.models.base.wide_resnet import wide_resnet

__all__ = ["wrn_34_10"]


def wrn_34_10(*, shape: tuple[int, int, int], classes: int, argument: str | None = None) -> nn.Module:
    """WRN-34-10, as in TRADES (Zhang et al., ICML 2019): 46.2 M parameters; options silu, deepmind.

    The weights have the names of the TRADES repository. The options are those of ``wrn-28-10``.

    Args:
        shape: ``(C, H, W)``.
        classes: K.
        argument: The option.

    Raises:
        UserError: The option is unknown.
    """
    return wide_resnet("wrn-34-10", depth=34, width=10, shape=shape, classes=classes, argument=argument)

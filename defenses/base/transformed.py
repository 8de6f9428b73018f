"""Input transformations in front of an unchanged model."""

from __future__ import annotations

from torch import nn

__all__ = ["Transformed"]


class Transformed(nn.Sequential):
    """A sequence of input transformations, followed by the model as its last element."""

    @property
    def unwrapped_model(self) -> nn.Module:
        """See :class:`~robustbench_cli.attacks.base.models.unwrap.Wrapper`."""
        return self[-1]

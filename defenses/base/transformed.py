"""A transformation of the images before a model that is left as it is."""

from __future__ import annotations

from torch import nn

__all__ = ["Transformed"]


class Transformed(nn.Sequential):
    """A model with transformations of its images before it, the model last."""

    @property
    def unwrapped_model(self) -> nn.Module:
        """See :class:`~robustbench_cli.attacks.base.models.unwrap.Wrapper`."""
        return self[-1]

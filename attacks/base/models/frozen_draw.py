"""A randomized model with one frozen draw, which makes it deterministic."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import vmap

from robustbench_cli.attacks.base.rng import seeded
from robustbench_cli.core.errors import UserError, is_out_of_memory, one_line

__all__ = ["FrozenDraw"]


class FrozenDraw(nn.Module):
    """A randomized model that uses the same single draw for all images and all passes.

    ``torch.func.vmap`` runs the model on each row as a batch of one, with the same random numbers. A row's logits
    therefore do not depend on its position in the batch or on the other rows.

    Args:
        model: Draws from torch's global generators, and consists of operations that ``vmap`` supports. It is not copied.
        seed: The seed of the draw.
    """

    def __init__(self, model: nn.Module, *, seed: int) -> None:
        super().__init__()
        self.model = model
        self.seed = seed

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the frozen draw.

        Args:
            images: ``(N, C, H, W)`` in [0, 1].

        Returns:
            ``(N, K)``.

        Raises:
            UserError: ``vmap`` does not support an operation of the model.
        """
        try:
            with seeded(self.seed), _ready_for_vmap():
                logits: Tensor = vmap(lambda image: self.model(image[None])[0], randomness="same")(images)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            raise UserError(
                f"one frozen draw needs a model that torch.func.vmap can run, and this one it cannot ({one_line(error)}): "
                "give another decision, or another --eot"
            ) from error
        return logits


@contextmanager
def _ready_for_vmap() -> Iterator[None]:
    """Makes attention differentiable under ``vmap``, and hides the warning about operations that run row by row."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="There is a performance drop", category=UserWarning)
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)

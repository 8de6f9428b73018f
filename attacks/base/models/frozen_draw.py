"""One random draw of a randomized model, frozen: a deterministic model."""

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
    """A randomized model that has drawn once, for all images and all passes, and so is deterministic.

    Each row is drawn for as if it were alone in its batch, with the same random numbers: what a row gets is independent
    of where it stands and of what stands beside it.

    Args:
        model: Draws from torch's global generators; it is held as it is. Its operations must be known to
            ``torch.func.vmap``.
        seed: Of the draw.

    Raises:
        UserError: In a pass, where they are not.
    """

    def __init__(self, model: nn.Module, *, seed: int) -> None:
        super().__init__()
        self.model = model
        self.seed = seed

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(N, K)`` of images ``(N, C, H, W)``."""
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
    """Within it, attention has a derivative under ``vmap``, and operations that it takes row by row are no matter."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="There is a performance drop", category=UserWarning)
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)

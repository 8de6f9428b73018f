"""What the attacks ask of a model, and how it is kept still while it is attacked."""

from __future__ import annotations

import logging
import math
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.losses import rounding
from robustbench_cli.attacks.base.models.passes import BatchSize, logits_of, single_pass
from robustbench_cli.attacks.base.rng import seeded

_logger = logging.getLogger(__name__)

__all__ = ["EDGE_OFFSET", "cut_at_edges", "is_randomized"]


EDGE_OFFSET = 1e-6
"""How far from 0 and 1 a pixel is inside the box: more than single precision rounds, and less than a model sees."""


def cut_at_edges(model: nn.Module, images: Tensor, *, size: BatchSize | None = None) -> bool:
    """Whether any pixel at 0 or 1 has no gradient although it would have one a little further inside.

    A model that cuts its input to [0, 1] passes none back where the input is at an end, as many pixels are: an attack that
    followed it would leave them where they are.

    Args:
        model: In ``eval()`` mode.
        images: ``(N, C, H, W)`` in [0, 1], N >= 1; the first eight are used, with every pixel at an end.
        size: Rows that pass through the model at once.
    """
    edges, rows = images[:8].round(), size or BatchSize()

    def cut() -> bool:
        alive = _has_slope(model, edges.clamp(EDGE_OFFSET, 1 - EDGE_OFFSET), rows)
        return bool((alive & ~_has_slope(model, edges, rows)).any())

    return rows.retry_smaller(len(edges), cut)


def _has_slope(model: nn.Module, images: Tensor, size: BatchSize) -> Tensor:
    """Which pixels ``(N, C, H, W)`` the logits depend on."""
    with seeded(0):
        return torch.cat([_pixels_with_slope(model, images[rows]) for rows in size.slices(len(images))])


def _pixels_with_slope(model: nn.Module, images: Tensor) -> Tensor:
    leaf = images.detach().requires_grad_()
    with torch.enable_grad():
        logits = single_pass(model, leaf)
        if not logits.requires_grad:
            return torch.zeros_like(images, dtype=torch.bool)
        weights = torch.arange(1, logits.shape[1] + 1, device=logits.device)
        (logits * weights).sum().backward()
    return torch.zeros_like(images, dtype=torch.bool) if leaf.grad is None else leaf.grad != 0


@torch.no_grad()
def is_randomized(model: nn.Module, images: Tensor, *, size: BatchSize | None = None) -> bool:
    """Whether the same images get different logits, by more than float rounding explains.

    Randomness is measured, not declared, so that a defense cannot hide it by mistake. Two passes are compared, in each
    of which every image stands several times: two rows alone could have drawn the same of a few switches. So could two
    passes whose rows share a draw: a model that takes numbers from any generator that is in reach is asked 30 times more,
    so that one of two paths is overlooked with a chance of 1e-9, and every other one eight times, since it may have a
    generator of its own.

    Args:
        model: In ``eval()`` mode.
        images: ``(N, C, H, W)`` in [0, 1], N >= 1; the first eight are used.
        size: Rows that pass through the model at once.
    """
    probe, size = images[:8], size or BatchSize()
    copies = math.ceil(16 / len(probe))
    rows = probe.repeat(copies, *[1] * (probe.dim() - 1))
    before = _generators()
    logits = torch.cat([logits_of(model, rows, size) for _ in range(2)]).unflatten(0, (2 * copies, len(probe)))
    tolerance = rounding(logits).amax(0).unsqueeze(-1)
    if bool(((logits - logits[0]).abs() > tolerance).any()):
        return True
    again = 8 if _generators() == before else 30
    one = probe[:1]
    return any(bool(((logits_of(model, one, size) - logits[0, :1]).abs() > tolerance[:1]).any()) for _ in range(again))


def _generators() -> list[Any]:
    """The states of the generators that a model can reach without one of its own: torch's, Python's and NumPy's."""
    on_devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    name, words, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 - a model may use the older interface
    states = [state.numpy().tobytes() for state in (torch.get_rng_state(), *on_devices)]
    return [*states, random.getstate(), name, np.asarray(words).tobytes(), *rest]

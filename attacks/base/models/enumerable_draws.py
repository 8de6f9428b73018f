"""Models whose random draws can be enumerated, and whether the enumeration is right."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.losses import rounding
from robustbench_cli.attacks.base.models.passes import BatchSize, logits_of
from robustbench_cli.attacks.base.models.precision import full_float32

__all__ = ["EnumerableDraws", "cost_of_all_draws", "enumeration_is_wrong"]


@runtime_checkable
class EnumerableDraws(Protocol):
    """A randomized model whose draws can be counted: D of them, all equally likely.

    Attributes:
        number_of_draws: D.
        cost_of_all_draws: What :meth:`all_draws` costs an image, in forward passes of one draw; less than D where draws
            share work.
    """

    number_of_draws: int
    cost_of_all_draws: float

    def all_draws(self, images: Tensor) -> Tensor:
        """Logits ``(D, N, K)`` of every draw on images ``(N, C, H, W)``."""
        ...


@torch.no_grad()
def cost_of_all_draws(model: nn.Module, images: Tensor, *, size: BatchSize | None = None) -> float | None:
    """What all draws of a model cost an image, in forward passes of one draw; ``None`` where they cannot be counted.

    They cannot be, whatever the model says, where a layer inside draws for itself too: then the draws that are counted
    are not all there are, which is measured by counting them twice. Nor can they where they are
    :func:`others <enumeration_is_wrong>` than the model makes.

    Args:
        model: In ``eval()`` mode.
        images: ``(N, C, H, W)`` in [0, 1], N >= 1; the first two are used.
        size: Rows that pass through the model at once; draws that are counted together pass together.
    """
    if not isinstance(model, EnumerableDraws) or enumeration_is_wrong(model, images, size=size):
        return None
    first, second = (_all_draws(model, images[:2]) for _ in range(2))
    same = bool((_apart(first, second) <= rounding(first).unsqueeze(-1)).all())
    return model.cost_of_all_draws if same else None


_MOST_DRAWS = 256
"""Draws that are compared with those that a model enumerates."""


@torch.no_grad()
def enumeration_is_wrong(model: nn.Module, images: Tensor, *, size: BatchSize | None = None) -> bool:
    """Whether a model that says that its draws can be counted makes other draws, or makes some more often than others.

    An exact expectation over draws that the model does not make is one over another model. Every draw must be one of those
    enumerated; and each of these must be drawn equally often (chi-squared test at a level of 1e-9).

    Args:
        model: In ``eval()`` mode.
        images: ``(N, C, H, W)`` in [0, 1], N >= 1; the first is used.
        size: Rows that pass through the model at once.
    """
    if not isinstance(model, EnumerableDraws):
        return False
    size = size or BatchSize()
    counted = _all_draws(model, images[:1])[:, 0]
    number = min(_MOST_DRAWS, max(32, 4 * len(counted)))
    made = logits_of(model, images[:1].expand(number, *images.shape[1:]), size)
    tolerance = 2 * (rounding(made) + rounding(counted).amax(0))
    distances = torch.stack([_apart(made, draw).amax(-1) for draw in counted])
    if bool((distances.amin(0) > tolerance).any()):
        return True
    # Draws that cannot be told from each other are drawn as often as there are of them.
    alike = torch.stack([_apart(counted, draw).amax(-1) for draw in counted]) <= tolerance.amax()
    expected = number * alike.sum(1) / len(counted)
    often = ((distances <= tolerance).sum(1) - expected).square() / expected
    statistic = (often / alike.sum(1)).sum(0)
    return bool(torch.special.gammaincc(torch.tensor(len(counted) / 2), statistic.float().cpu() / 2) < 1e-9)


def _apart(first: Tensor, second: Tensor) -> Tensor:
    """How far logits are apart; those of a class that both mask by -inf are not."""
    return (first - second).abs().nan_to_num(0, posinf=torch.inf)


def _all_draws(model: EnumerableDraws, images: Tensor) -> Tensor:
    with full_float32(images.device):
        return model.all_draws(images.clone())

"""Models that can enumerate their random draws, and tests of that enumeration."""

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
    """A randomized model with D equally likely draws, which it can enumerate.

    Attributes:
        number_of_draws: D.
        cost_of_all_draws: The cost of :meth:`all_draws` per image, in forward passes of one draw. It is less than D
            where draws share work.
    """

    number_of_draws: int
    cost_of_all_draws: float

    def all_draws(self, images: Tensor) -> Tensor:
        """Logits ``(D, N, K)`` of every draw on images ``(N, C, H, W)``."""
        ...


@torch.no_grad()
def cost_of_all_draws(
    model: nn.Module, images: Tensor, *, size: BatchSize | None = None, wrong: bool | None = None
) -> float | None:
    """The cost of all draws of a model per image, if its enumeration is complete and right.

    The enumeration is incomplete if another layer inside the model also draws. Two enumerations then differ, which is
    measured. It is wrong if it differs from the draws that the model makes; see :func:`enumeration_is_wrong`.

    Args:
        model: In ``eval()`` mode.
        images: ``(N, C, H, W)`` in [0, 1], N >= 1; the first two are used.
        size: The batch size; all draws of one image always run as one batch.
        wrong: The result of :func:`enumeration_is_wrong`, if it is known.

    Returns:
        Forward passes of one draw; ``None`` if the model cannot enumerate its draws.
    """
    if not isinstance(model, EnumerableDraws):
        return None
    if enumeration_is_wrong(model, images, size=size) if wrong is None else wrong:
        return None
    first, second = (_all_draws(model, images[:2], size or BatchSize()) for _ in range(2))
    same = bool((_difference(first, second) <= rounding(first).unsqueeze(-1)).all())
    return model.cost_of_all_draws if same else None


_MAX_SAMPLES = 256
"""The largest number of sampled draws that are compared with the enumerated ones."""


@torch.no_grad()
def enumeration_is_wrong(model: nn.Module, images: Tensor, *, size: BatchSize | None = None) -> bool:
    """Whether a model's enumeration disagrees with the draws that the model makes.

    The exact expectation over a wrong enumeration belongs to another model. So draws are sampled, and two conditions are
    tested: each sample equals one of the enumerated draws, and all enumerated draws are equally likely (chi-squared test
    at a level of 1e-9).

    Args:
        model: In ``eval()`` mode.
        images: ``(N, C, H, W)`` in [0, 1], N >= 1; the first is used.
        size: The batch size.

    Returns:
        ``False`` also for a model that does not enumerate its draws.
    """
    if not isinstance(model, EnumerableDraws):
        return False
    size = size or BatchSize()
    enumerated = _all_draws(model, images[:1], size)[:, 0]
    number = min(_MAX_SAMPLES, max(32, 4 * len(enumerated)))
    sampled = logits_of(model, images[:1].expand(number, *images.shape[1:]), size)
    tolerance = 2 * (rounding(sampled) + rounding(enumerated).amax(0))
    distances = torch.stack([_difference(sampled, draw).amax(-1) for draw in enumerated])
    if bool((distances.amin(0) > tolerance).any()):
        return True
    # Enumerated draws with equal logits form a group. Each draw is compared with its group's expected count, and each
    # group counts once in the statistic.
    alike = torch.stack([_difference(enumerated, draw).amax(-1) for draw in enumerated]) <= tolerance.amax()
    expected = number * alike.sum(1) / len(enumerated)
    deviation = ((distances <= tolerance).sum(1) - expected).square() / expected
    statistic = (deviation / alike.sum(1)).sum(0)
    p_value = torch.special.gammaincc(torch.tensor(len(enumerated) / 2), statistic.float().cpu() / 2)
    return bool(p_value < 1e-9)


def _difference(first: Tensor, second: Tensor) -> Tensor:
    """The absolute differences of logits; 0 for a class that both mask by -inf."""
    return (first - second).abs().nan_to_num(0, posinf=torch.inf)


def _all_draws(model: EnumerableDraws, images: Tensor, size: BatchSize) -> Tensor:
    cost = model.cost_of_all_draws

    def compute() -> Tensor:
        with full_float32(images.device):
            parts = size.slices(len(images), cost=cost)
            return torch.cat([model.all_draws(images[part].clone()) for part in parts], dim=1)

    return size.retry_smaller(len(images) * cost, compute)

"""Branch and bound over the signs of ReLU inputs, which proves what one linear relaxation leaves open."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count

import torch
from torch import Tensor

from robustbench_cli.benchmarks.certification.bounds.activations import Rectifier
from robustbench_cli.benchmarks.certification.bounds.linear_bounds import Relaxation, margin_rows
from robustbench_cli.benchmarks.certification.bounds.rows import Rows

__all__ = ["prove"]

_STEPS = 20
"""Steps that tighten the bounds of one batch of subproblems."""

_CANDIDATES = 4
"""Neurons that are tried before one is split."""

_VALUES = 2**21
"""The most values of a network, times subproblems, in one batch."""

_MOST = 128
"""The most subproblems in one batch."""


@dataclass(frozen=True)
class _Subproblems:
    """B subproblems: the margin to one class, with assumptions about the signs of some ReLU inputs.

    Attributes:
        target: ``(B,)`` the index of the margin.
        signs: ``(B, U)`` 1 or -1 where the input of one of U unstable neurons is assumed to be positive or negative, else 0.
        slopes: ``(B, U)`` the slopes of the lines below, in [0, 1].
        multipliers: ``(B, U)`` of the assumptions, at least 0.
        bound: ``(B,)`` lower bounds of the margins.
    """

    target: Tensor
    signs: Tensor
    slopes: Tensor
    multipliers: Tensor
    bound: Tensor

    def select(self, index: Tensor | slice) -> _Subproblems:
        return _Subproblems(*(value[index] for value in vars(self).values()))

    @staticmethod
    def joined(parts: Sequence[_Subproblems]) -> _Subproblems:
        return _Subproblems(
            *(torch.cat(values) for values in zip(*(vars(part).values() for part in parts), strict=True))
        )


def prove(relaxation: Relaxation, label: Tensor, tolerance: float, *, branches: int) -> bool:
    """Whether all other logits of one image lie below its label's, by branch and bound.

    The subproblem with the lowest bound is split first: into one where the input of a ReLU is positive and one where it is
    negative. The lines of both are exact there. The slopes of the other lines and the multipliers of the
    assumptions are optimized for each subproblem: alpha-beta-CROWN (Xu et al., ICLR 2021; Wang et al., NeurIPS 2021,
    arXiv 2103.06624). Every value of these gives a sound bound.

    Args:
        relaxation: The bounds over the ball of one image.
        label: ``(1,)``.
        tolerance: By how much the logits must lie below.
        branches: The most subproblems; beyond, nothing is proven.

    Returns:
        Whether it is proven. A network with other nonlinear operations than ReLU, or a margin near the tolerance, may stay
        unproven although it is robust.
    """
    search = _Search(relaxation, label, tolerance)
    number, queue = count(), list[tuple[float, int, _Subproblems]]()
    batch, done = search.roots(), 0
    if search.is_stuck(batch):
        return False
    while True:
        done += len(batch.target)
        batch = search.tightened(batch)
        remaining = batch.select(batch.bound <= tolerance)
        if search.is_stuck(remaining):
            return False
        for index in range(len(remaining.target)):
            one = remaining.select(slice(index, index + 1))
            heapq.heappush(queue, (float(one.bound), next(number), one))
        if not queue:
            return True
        if done >= branches:
            return False
        taken = [heapq.heappop(queue)[2] for _ in range(min(len(queue), search.most // 2))]
        batch = search.split(_Subproblems.joined(taken))


class _Search:
    """The bounds of subproblems of one image.

    Args:
        relaxation: The bounds over the ball of one image.
        label: ``(1,)``.
        tolerance: Margins above this are proven.

    Attributes:
        most: The most subproblems in one batch.
    """

    def __init__(self, relaxation: Relaxation, label: Tensor, tolerance: float) -> None:
        self._relaxation, self._tolerance = relaxation, tolerance
        self._rows, _ = margin_rows(relaxation.network, label)
        self._unstable: dict[int, Tensor] = {}
        kinks, lines = [], []
        for number, operation in enumerate(relaxation.network.operations):
            if isinstance(operation, Rectifier):
                index = operation.loose(relaxation.boxes[operation.inputs[0]]).flatten().nonzero()[:, 0]
                self._unstable[number] = index
                kinks.append(torch.full_like(index, operation.slope, dtype=torch.float64))
                line = relaxation.lines[number]
                values = (line.low_slope, line.high_slope, line.high_shift)
                lines.append(torch.stack([value.flatten()[index] for value in values]))
        self._kinks = torch.cat(kinks)
        self._low_slope, self._high_slope, self._high_shift = torch.cat(lines, 1)
        self.most = max(2, min(_MOST, _VALUES // sum(box.low.numel() for box in relaxation.boxes)))

    def roots(self) -> _Subproblems:
        """One subproblem for each margin that is not proven yet, without assumptions."""
        image = torch.zeros(len(self._rows.top), dtype=torch.long, device=self._rows.top.device)
        bound = self._relaxation.lowest(self._rows, image)
        target = (bound <= self._tolerance).nonzero()[:, 0]
        slopes = self._low_slope.expand(len(target), -1)
        zeros = torch.zeros_like(slopes)
        return _Subproblems(target, zeros, slopes, zeros, bound[target])

    def is_stuck(self, remaining: _Subproblems) -> bool:
        """Whether a subproblem has no neuron left to split."""
        return bool((remaining.signs != 0).all(1).any())

    def _bounds(self, batch: _Subproblems, shifts: Tensor) -> Tensor:
        """``(B,)`` lower bounds of the margins, differentiable.

        Args:
            batch: The subproblems.
            shifts: ``(B, U)`` or ``(U,)`` the shifts of the lines above, where nothing is assumed.
        """
        free, exact = batch.signs == 0, torch.where(batch.signs > 0, 1.0, self._kinks)
        values = {
            "low_slope": torch.where(free, batch.slopes, exact),
            "high_slope": torch.where(free, self._high_slope, exact),
            "high_shift": torch.where(free, shifts, 0.0),
            "multiplier": -batch.multipliers * batch.signs,
        }
        lines, parts = dict(self._relaxation.lines), [len(index) for index in self._unstable.values()]
        pieces = {name: value.split(parts, 1) for name, value in values.items()}
        for place, (number, index) in enumerate(self._unstable.items()):
            base = lines[number]
            whole = {
                name: (torch.zeros_like(base.low_slope) if name == "multiplier" else getattr(base, name))
                for name in pieces
            }
            placed = {
                name: before.flatten(1).expand(len(free), -1).index_copy(1, index, pieces[name][place])
                for name, before in whole.items()
            }
            lines[number] = replace(
                base, **{name: value.reshape(-1, *base.low_slope.shape[1:]) for name, value in placed.items()}
            )
        rows = Rows.of_plane(self._rows.coefficients[batch.target])
        return self._relaxation.lowest(rows, torch.arange(len(free), device=free.device), lines=lines)

    def tightened(self, batch: _Subproblems) -> _Subproblems:
        """The subproblems with optimized slopes and multipliers."""
        slopes, multipliers = (value.clone().requires_grad_() for value in (batch.slopes, batch.multipliers))
        optimizer = torch.optim.Adam([{"params": [slopes], "lr": 0.2}, {"params": [multipliers], "lr": 0.1}])
        bound = batch.bound
        for _ in range(_STEPS):
            with torch.enable_grad():
                current = self._bounds(replace(batch, slopes=slopes, multipliers=multipliers), self._high_shift)
                gradients = torch.autograd.grad(current.sum(), (slopes, multipliers))
            bound = torch.maximum(bound, current.detach())
            remaining = bound <= self._tolerance
            if not remaining.any():
                break
            slopes.grad, multipliers.grad = (-gradient for gradient in gradients)
            optimizer.step()
            with torch.no_grad():
                slopes.copy_(torch.minimum(torch.maximum(slopes, self._kinks), torch.ones_like(slopes)))
                multipliers.clamp_(min=0)
            for group in optimizer.param_groups:
                group["lr"] *= 0.95
        return replace(batch, slopes=slopes.detach(), multipliers=multipliers.detach(), bound=bound)

    def split(self, batch: _Subproblems) -> _Subproblems:
        """Two subproblems for each one, split at the neuron of the best of several candidates.

        The candidates are those whose relaxation costs the bound most. The best is that with the largest smaller bound of its two
        subproblems.
        """
        count = min(_CANDIDATES, batch.signs.shape[1])
        candidates = self._costs(batch).topk(count, 1).indices
        tried = _Subproblems(*(value.repeat_interleave(count, 0) for value in vars(batch).values()))
        children = self._children(tried, candidates.flatten())
        with torch.no_grad():
            bound = torch.maximum(self._bounds(children, self._high_shift), children.bound)
        smaller = torch.minimum(*bound.chunk(2)).reshape(-1, count)
        best = torch.arange(len(batch.target), device=smaller.device) * count + smaller.argmax(1)
        chosen = torch.cat([best, best + len(candidates) * count])
        return replace(children, bound=bound).select(chosen)

    def _costs(self, batch: _Subproblems) -> Tensor:
        """``(B, U)``: how much lower the shift of each neuron's line above makes the bound; -1 where it is split."""
        shifts = self._high_shift.expand_as(batch.signs).clone().requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(self._bounds(batch, shifts).sum(), shifts)
        return torch.where(batch.signs == 0, -gradient * self._high_shift, -1.0)

    def _children(self, batch: _Subproblems, neuron: Tensor) -> _Subproblems:
        """The subproblems with a positive input of one neuron each, and then those with a negative one."""
        children = _Subproblems.joined([batch, batch])
        sign = torch.ones(len(children.target), 1, dtype=torch.float64, device=neuron.device)
        sign[len(neuron) :] = -1
        # A candidate that was split already, where few are left, keeps its sign.
        index = neuron.repeat(2)[:, None]
        kept = children.signs.gather(1, index)
        return replace(children, signs=children.signs.scatter(1, index, torch.where(kept == 0, sign, kept)))

"""The best iterate of each image so far, and the images that an attack can stop working on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.losses import expected_margin
from robustbench_cli.attacks.base.models.logit_noise import measured_noise
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import Threat, per_image

__all__ = ["BestIterates", "Streak"]


class Streak:
    """The number of successive steps at which every draw was fooled, for each image.

    A sample of draws may be fooled by luck, so a success needs :attr:`steps` successive samples. Exhaustive draws need
    one.

    Args:
        source: Its draws are exhaustive or a sample.
        images: ``(N, C, H, W)``.
    """

    steps: ClassVar[int] = 5

    def __init__(self, source: GradientSource, images: Tensor) -> None:
        self._needed = 1 if source.exhaustive else self.steps
        self._length = torch.zeros(len(images), dtype=torch.int64, device=images.device)

    def offer(self, fooled: Tensor) -> Tensor:
        """Records at which images ``(N,)`` every draw was fooled at this step; returns the successes ``(N,)``."""
        if self._needed == 1:
            return fooled
        self._length = torch.where(fooled, self._length + 1, 0)
        return self._length >= self._needed


_BROKEN = -(2.0**23)
"""The value of an iterate that breaks its image at the first offer; one more for each later offer. So the first break is
the smallest value, and below all margins.
"""

_WAITING, _WAITING_BYTES = 8, 2**28
"""The most offers that wait to be compared together on a GPU, and their memory."""

_WORTHWHILE = 0.75
"""The share of the rows down to which they must fall before rows leave on a GPU, where each change of the batch costs."""


class BestIterates:
    """The best iterate of each image so far by expected margin, and the images that are still unbroken.

    An attack's loop offers each iterate together with its logits and continues with the returned rows. If the draws are
    exhaustive, an image is broken once every draw is wrong. Its best iterate is then final, and the image leaves the
    batch. An image may stand in several rows, with a target each: the first row that breaks it gives its best iterate, and
    all of its rows leave.

    On a CPU each offer is compared at once. On a GPU, small networks wait for the launches of operations, so several offers
    are compared together. The number of the unbroken rows is copied to the host while the GPU works on, and is read one
    comparison later: rows leave a few steps after their break, without a wait. The results are the same.

    Args:
        source: The source of the logits.
        images: ``(N, C, H, W)``, the first best iterates.
        labels: ``(N,)``.
        threat: Only its ``targeted`` is used.

    Attributes:
        rows: ``(n,)`` int64, the image of each row that the attack continues with.
        copies: ``(n,)`` int64, the number of each row among those of its image; see
            :meth:`~robustbench_cli.attacks.base.gradients.source.GradientSource.logits`.
        seldom: Whether offers are compared together; ``None`` for GPUs only.
    """

    seldom: ClassVar[bool | None] = None

    def __init__(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat) -> None:
        source.keeps_best = True
        self._exhaustive = source.exhaustive
        self._noise = measured_noise(source)
        self._targeted = threat.targeted
        self._labels = labels
        self._images = images
        self._value = torch.full((len(images),), torch.inf, dtype=torch.float64, device=images.device)
        self.rows = torch.arange(len(images), device=images.device)
        self._begin_run(copies=1)

    def _begin_run(self, *, copies: int) -> None:
        """Begins a run with some copies of each of the images :attr:`rows`."""
        self._repeated = copies > 1
        self.copies = torch.arange(copies, device=self.rows.device).repeat(len(self.rows))
        self.rows = self.rows.repeat_interleave(copies)
        self._labels_of_rows = self._labels[self.rows]
        self._offers = 0
        self._waiting: list[tuple[Tensor, Tensor]] = []
        self._best: tuple[Tensor, Tensor] | None = None
        self._remaining: Tensor | None = None

    @property
    def images(self) -> Tensor:
        """``(N, C, H, W)``, the best iterates."""
        self._compare()
        self._merge()
        return self._images

    @property
    def margins(self) -> Tensor:
        """``(n,)``, the smallest expected margin of each of :attr:`rows` since the last :meth:`begin_restart`."""
        self._compare()
        assert self._best is not None, "nothing was offered"
        return self._best[0]

    def offer(self, iterates: Tensor, logits: Tensor) -> Tensor | None:
        """Replaces the best iterates by these where these are better.

        Args:
            iterates: ``(n, C, H, W)``, of the images ``self.rows``. They must stay as they are.
            logits: ``(D, n, K)``, at the iterates. They must stay as they are.

        Returns:
            The positions in the batch of the rows to continue with, or ``None`` for all. ``self.rows`` is narrowed to them.
        """
        self._offers += 1
        self._waiting.append((iterates, logits))
        seldom = iterates.is_cuda if self.seldom is None else self.seldom
        if seldom and self._offers & (self._offers - 1) and not self._is_full():
            return None
        self._compare()
        if not self._exhaustive:
            return None
        positions = self._worthwhile_positions() if seldom else self._unbroken_positions()
        if positions is not None:
            self.keep(positions)
        return positions

    def keep(self, positions: Tensor) -> None:
        """Narrows the rows to some of them.

        Args:
            positions: Int64 positions in the batch, or a mask.
        """
        self._compare()
        self._merge()
        self.rows, self.copies = self.rows[positions], self.copies[positions]
        self._labels_of_rows = self._labels_of_rows[positions]
        if self._best is not None:
            self._best = self._best[0][positions], self._best[1][positions]

    def _is_full(self) -> bool:
        first = self._waiting[0][0]
        return len(self._waiting) >= min(_WAITING, _WAITING_BYTES // (first.numel() * first.element_size()))

    def _compare(self) -> None:
        """Compares the waiting offers with the best iterates of the run."""
        if not self._waiting:
            return
        iterates, logits = zip(*self._waiting, strict=True)
        self._waiting.clear()
        value = self.distance_to_goal(
            torch.stack(logits, 1) if len(logits) > 1 else logits[0].unsqueeze(1),
            self._labels_of_rows.expand(len(logits), -1),
        )
        if self._exhaustive:
            last = _BROKEN + self._offers
            breaks = torch.arange(last - len(logits), last, device=value.device, dtype=value.dtype)
            value = torch.where(value < 0, breaks.unsqueeze(1), value)
        if len(logits) > 1:
            value, first = value.min(0)
            points = torch.stack(iterates).gather(0, per_image(first, iterates[0]).expand_as(iterates[0])[None])[0]
        else:
            value, points = value[0], iterates[0]
        if self._best is not None:
            lowest, best = self._best
            points = torch.where(per_image(value < lowest, points), points, best)
            value = value.minimum(lowest)
        self._best = value, points

    def distance_to_goal(self, logits: Tensor, labels: Tensor) -> Tensor:
        """What the best iterate has least of; for exhaustive draws negative if and only if the image is broken.

        Args:
            logits: ``(D, S, n, K)``, of D draws at S offers.
            labels: ``(S, n)``.

        Returns:
            ``(S, n)``, here the expected margin.
        """
        return expected_margin(logits, labels, targeted=self._targeted, exhaustive=self._exhaustive, noise=self._noise)

    def _merge(self) -> None:
        """Replaces the best iterates of the images by those of the run where these are better."""
        if self._best is None:
            return
        value, points = self._best[0].double(), self._best[1]
        lowest = torch.full_like(self._value, torch.inf).scatter_reduce(0, self.rows, value, "amin")
        # Of equal rows of an image, the first one counts.
        last = len(self.rows)
        positions = torch.arange(last, device=self.rows.device).masked_fill(value > lowest[self.rows], last)
        row = torch.full_like(lowest, last, dtype=torch.int64).scatter_reduce(0, self.rows, positions, "amin")
        better = per_image(lowest < self._value, points)
        self._images = torch.where(better, points[row.clamp_max(last - 1)], self._images) if last else self._images
        self._value = self._value.minimum(lowest)

    def _unbroken(self) -> Tensor:
        """``(n,)`` bool: the rows whose images are unbroken."""
        assert self._best is not None, "nothing was compared"
        value = self._best[0]
        if self._repeated:
            lowest = value.new_full((len(self._value),), torch.inf).scatter_reduce(0, self.rows, value, "amin")
            value = lowest[self.rows]
        return value >= 0

    def _unbroken_positions(self) -> Tensor | None:
        """The positions of the unbroken rows, or ``None`` for all."""
        unbroken = self._unbroken()
        return None if bool(unbroken.all()) else unbroken.nonzero().squeeze(1)

    def _worthwhile_positions(self) -> Tensor | None:
        """The positions of the rows that were unbroken at the last comparison, or ``None`` if too few have left since."""
        unbroken, positions = self._unbroken(), None
        if self._remaining is not None:
            remaining = _read(self._remaining, unbroken.device)
            if remaining <= _WORTHWHILE * len(unbroken):
                # The unbroken rows come first; their number has not grown.
                positions = unbroken.int().argsort(descending=True, stable=True)[:remaining]
        self._remaining = _copy_to_host(unbroken.sum())
        return positions

    def restarts(self, count: int, random: Random) -> Iterator[tuple[Tensor, Random]]:
        """Begins restarts until no image is unbroken.

        Args:
            count: The largest number of restarts.
            random: Is split into one stream per restart in advance, so its state afterwards does not depend on the
                restarts that were needed.

        Yields:
            The unbroken images ``(n,)``, see :meth:`begin_restart`, and their random numbers.
        """
        for stream in [random.split() for _ in range(count)]:
            rows = self.begin_restart()
            if len(rows):
                yield rows, stream.select(rows)

    def unbroken(self) -> Tensor:
        """The indices ``(n,)`` of the images to attack: the unbroken ones, or all if the draws are a sample."""
        self._compare()
        self._merge()
        if self._exhaustive:
            return (self._value >= 0).nonzero().squeeze(1)
        return torch.arange(len(self._value), device=self._value.device)

    def begin_restart(self, *, copies: int = 1) -> Tensor:
        """Begins a restart with the :meth:`unbroken` images.

        Args:
            copies: The number of adjacent rows in which each image stands.

        Returns:
            ``(n,)``, the image of each row.
        """
        self.rows = self.unbroken()
        self._begin_run(copies=copies)
        return self.rows


def _copy_to_host(number: Tensor) -> Tensor:
    """A host tensor that will hold the number, and holds -1 until then."""
    host = torch.full((), -1, dtype=number.dtype)
    host = host.pin_memory() if number.is_cuda else host
    return host.copy_(number, non_blocking=True)


def _read(host: Tensor, device: torch.device) -> int:
    """The number in a host tensor, once it has arrived from a device."""
    while int(host) < 0:
        # This raises if the device has failed, so that nothing will arrive.
        torch.cuda.current_stream(device).query()
        time.sleep(1e-4)
    return int(host)

"""What the loops of attacks share: which iterate is the best so far, and which images need no further steps."""

from __future__ import annotations

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
    """For how many steps in a row every draw has been fooled, for each image.

    Args:
        source: One step is enough if its draws are all there are, else :attr:`steps`.
        images: ``(N, C, H, W)``.
    """

    steps: ClassVar[int] = 5

    def __init__(self, source: GradientSource, images: Tensor) -> None:
        self._needed = 1 if source.exhaustive else self.steps
        self._length = torch.zeros(len(images), dtype=torch.int64, device=images.device)

    def offer(self, fooled: Tensor) -> Tensor:
        """Takes whether every draw ``(N,)`` was fooled at this step; returns where that is now a success."""
        self._length = torch.where(fooled, self._length + 1, 0)
        return self._length >= self._needed


class BestIterates:
    """The best iterate of every image so far, by expected margin; and which images an attack may let go.

    An attack's loop offers every iterate with the logits that it has computed anyway, and goes on with the rows that
    are handed back. An image that no draw gets right any more has fallen, if these are all draws that there are: what is
    kept of it changes no more, and it leaves the batch, on a GPU some steps later.

    Args:
        source: The source that the logits come from.
        images: ``(N, C, H, W)``, the first candidates.
        labels: ``(N,)``.
        threat: Only its goal is used.

    Attributes:
        images: ``(N, C, H, W)``, the best iterates.
        rows: ``(n,)``, which images the attack goes on with.
        margins_of_run: ``(N,)``, the smallest expected margin of each image since the last :meth:`begin_restart`, until it fell.
        seldom: Whether images leave at the offers 1, 2, 4, 8, ... only; where it is ``None``, on a GPU, which has to wait
            where it is asked how many images stand.
    """

    seldom: ClassVar[bool | None] = None

    def __init__(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat) -> None:
        self._exhaustive = source.exhaustive
        self._noise = measured_noise(source)
        self._targeted = threat.targeted
        self._labels = labels
        self._margin = torch.full((len(images),), torch.inf, dtype=torch.float64, device=images.device)
        self._offers = 0
        self.margins_of_run = self._margin.clone()
        self.images = images.clone()
        self.rows = torch.arange(len(images), device=images.device)

    def offer(self, iterates: Tensor, logits: Tensor) -> Tensor | None:
        """Keeps the iterates that are better than the best so far.

        Args:
            iterates: ``(n, C, H, W)``, of the images ``self.rows``.
            logits: ``(D, n, K)`` at them.

        Returns:
            Positions in the batch of the images to go on with (``self.rows`` is narrowed to them), or ``None`` for all.
        """
        labels = self._labels[self.rows]
        value = expected_margin(logits, labels, targeted=self._targeted, exhaustive=self._exhaustive, noise=self._noise)
        before = self._margin[self.rows]
        if self._exhaustive:
            # What has fallen stays as it is for as long as it is in the batch.
            value = torch.where(before > 0, value, before)
        better = value < before
        margins = torch.where(better, value, before)
        self._margin[self.rows] = margins
        self.margins_of_run[self.rows] = self.margins_of_run[self.rows].minimum(value)
        self.images[self.rows] = torch.where(per_image(better, iterates), iterates, self.images[self.rows])
        if not self._exhaustive:
            return None
        self._offers += 1
        if (value.is_cuda if self.seldom is None else self.seldom) and self._offers & (self._offers - 1):
            return None
        standing = margins > 0
        if bool(standing.all()):
            return None
        positions = standing.nonzero().squeeze(1)
        self.rows = self.rows[positions]
        return positions

    def restarts(self, count: int, random: Random) -> Iterator[tuple[Tensor, Random]]:
        """Begins restarts, as long as any image is left to them.

        Args:
            count: How many at most.
            random: Gives each its own numbers, and as many whether or not any image is left to it.

        Yields:
            The images ``(n,)`` that a restart has to attack, see :meth:`begin_restart`, and their random numbers.
        """
        for stream in [random.split() for _ in range(count)]:
            rows = self.begin_restart()
            if len(rows):
                yield rows, stream.select(rows)

    def begin_restart(self) -> Tensor:
        """Begins a restart: the images ``(n,)`` that it has to attack, which are those that still stand."""
        self._offers = 0
        self.margins_of_run = torch.full_like(self._margin, torch.inf)
        if self._exhaustive:
            self.rows = (self._margin > 0).nonzero().squeeze(1)
        return self.rows

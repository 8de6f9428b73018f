"""The best iterate of each image so far, and the images that an attack can stop working on."""

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


class BestIterates:
    """The best iterate of each image so far by expected margin, and the images that are still unbroken.

    An attack's loop offers each iterate together with its logits and continues with the returned rows. If the draws are
    exhaustive, an image is broken once every draw is wrong. Its best iterate is then final, and the image leaves the
    batch; on a GPU it leaves some steps later.

    Args:
        source: The source of the logits.
        images: ``(N, C, H, W)``, the first best iterates.
        labels: ``(N,)``.
        threat: Only its ``targeted`` is used.

    Attributes:
        images: ``(N, C, H, W)``, the best iterates.
        rows: ``(n,)`` int64, the indices of the images that the attack continues with.
        margins_of_run: ``(N,)``, the smallest expected margin of each image since the last :meth:`begin_restart`; final
            once the image is broken.
        seldom: Whether images leave only at the offers 1, 2, 4, 8, ...; ``None`` for GPUs only, where counting the
            unbroken images makes the CPU wait.
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
        """Replaces the best iterates by these where these are better.

        Args:
            iterates: ``(n, C, H, W)``, of the images ``self.rows``.
            logits: ``(D, n, K)``, at the iterates.

        Returns:
            The positions in the batch of the images to continue with, or ``None`` for all. ``self.rows`` is narrowed to
            them.
        """
        labels = self._labels[self.rows]
        value = expected_margin(logits, labels, targeted=self._targeted, exhaustive=self._exhaustive, noise=self._noise)
        previous = self._margin[self.rows]
        if self._exhaustive:
            # The best iterate of a broken image is final, also while the image is still in the batch.
            value = torch.where(previous > 0, value, previous)
        better = value < previous
        margins = torch.where(better, value, previous)
        self._margin[self.rows] = margins
        self.margins_of_run[self.rows] = self.margins_of_run[self.rows].minimum(value)
        self.images[self.rows] = torch.where(per_image(better, iterates), iterates, self.images[self.rows])
        if not self._exhaustive:
            return None
        self._offers += 1
        if (value.is_cuda if self.seldom is None else self.seldom) and self._offers & (self._offers - 1):
            return None
        unbroken = margins > 0
        if bool(unbroken.all()):
            return None
        positions = unbroken.nonzero().squeeze(1)
        self.rows = self.rows[positions]
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

    def begin_restart(self) -> Tensor:
        """Begins a restart; returns the indices ``(n,)`` of the images to attack, which are the unbroken ones."""
        self._offers = 0
        self.margins_of_run = torch.full_like(self._margin, torch.inf)
        if self._exhaustive:
            self.rows = (self._margin > 0).nonzero().squeeze(1)
        return self.rows

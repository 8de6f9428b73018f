"""Random search by scores alone: each image keeps a proposal if it lowers the image's score."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.iterates import BestIterates
from robustbench_cli.attacks.base.losses import bounded, cross_entropy, margin
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import Threat, per_image

__all__ = ["Propose", "RandomSearch", "StartPoint"]

StartPoint = Callable[[Tensor, Threat, Random], Tensor]
"""Maps images ``(n, C, H, W)``, their threat and random numbers to the first incumbents ``(n, C, H, W)``."""

Propose = Callable[[float, Tensor, Tensor, Threat, Random], Tensor]
"""Maps the completed share of the search, incumbents and images ``(n, C, H, W)``, their threat and random numbers to
candidates ``(n, C, H, W)`` inside the balls and the box.
"""

_STANDARD_ERRORS = 1.0
"""The number of standard errors by which a candidate's mean score must be lower if the draws are a sample.

Of 0, 0.5, 1 and 2, this value lowered the true margin most (Square on the digits, logits with noise of 0.3 and of 1).
"""

_SPEEDUP = 2.0
"""The factor by which the decrease of the margin may speed up, in the forecast of early stopping.

The margin decreases about as the logarithm of the number of queries, and more slowly at the end. The factor was chosen
on 112 Fashion-MNIST images that Square alone attacked with 5,000 queries (paper network: plain training at 0.025 in linf
and at 0.7 in l2, adversarial training at 0.12 in linf). Without early stopping, 68 images were broken.

- Factor 2: one of them is missed (in l2, broken at query 4,626), for 41, 76 and 14 % of the queries.
- Factor 1.5: two are missed.
- Factor 3: none is missed, for 49, 93 and 17 % of the queries.
"""


@dataclass(frozen=True, kw_only=True)
class RandomSearch:
    """Searches for the image with the smallest score: the margin, or the cross-entropy with the target class.

    Each image has an incumbent, the best point so far. Each query scores a candidate near the incumbent, which replaces
    the incumbent if its score is lower.

    If the draws of a randomized model are a sample, a score is a mean over the draws and has an error. A candidate with
    lucky draws would never be replaced if its first score stayed. So each query scores the incumbent again, together
    with the candidate. The candidate replaces the incumbent if its mean score is more than
    :data:`_STANDARD_ERRORS` standard errors below the mean of all scores of the incumbent.

    Early stopping forecasts the margin of an untargeted search on a deterministic model, after each tenth of the queries.
    At query q, the margin has decreased by ``m(q / 2) - m(q)`` over the last doubling of q. If it keeps this rate, it
    decreases by this amount times ``log2(queries / q)`` until the end. The search stops on an image if even
    :data:`_SPEEDUP` times this forecast leaves a positive margin.

    Args:
        start: Makes the first incumbents of each restart.
        propose: Makes the candidates.
        queries: The number of queries per image and restart. If the draws are a sample, half of them score incumbents.
        restarts: The number of searches from different starts. Only unbroken images are searched again.
        early_stopping: Whether to stop on images that are unlikely to be broken within the remaining queries.
    """

    start: StartPoint
    propose: Propose
    queries: int
    restarts: int = 1
    early_stopping: bool = False

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        """Runs the search.

        Args:
            source: Computes the scores.
            images: ``(N, C, H, W)`` in [0, 1].
            labels: ``(N,)``, the classes to leave, or to reach if the threat is targeted.
            threat: The balls and the goal.
            random: A stream of random numbers for each image.

        Returns:
            The best points ``(N, C, H, W)``.
        """
        if source.exhaustive:
            best = BestIterates(source, images, labels, threat)
            for rows, stream in best.restarts(self.restarts, random):
                self._search(source, images[rows], labels[rows], threat.select(rows), stream, best)
            return best.images
        points, lowest = (
            images.clone(),
            torch.full((len(images),), torch.inf, dtype=torch.float64, device=images.device),
        )
        for stream in [random.split() for _ in range(self.restarts)]:
            incumbents, score = self._search_samples(source, images, labels, threat, stream)
            better = score < lowest
            points = torch.where(per_image(better, images), incumbents, points)
            lowest = torch.where(better, score, lowest)
        return points

    def _search(
        self,
        source: GradientSource,
        images: Tensor,
        labels: Tensor,
        threat: Threat,
        random: Random,
        best: BestIterates,
    ) -> None:
        """One search with exhaustive draws: scores have no error, and broken images leave the batch."""
        state = _begin(source, images, labels, threat, random, self.start)
        stops_early = self.early_stopping and source.draws == 1 and not threat.targeted
        # The margins are recorded after each twentieth of the queries.
        interval = self.queries // 20
        for query in range(1, self.queries + 1):
            last = query == self.queries
            recorded = stops_early and not last and interval > 0 and query % interval == 0
            remaining = None
            if recorded or state.may_be_broken(source) or last:
                remaining = best.offer(state.incumbents, state.logits)
            if recorded:
                state = state.with_recorded_margins()
                remaining = self._without_hopeless(state, query, remaining, best)
            if remaining is not None:
                if not len(remaining):
                    return
                state = state.select(remaining)
            if not last:
                state = state.after_query(source, self.propose, query / self.queries)

    def _without_hopeless(
        self, state: _SearchState, query: int, remaining: Tensor | None, best: BestIterates
    ) -> Tensor | None:
        """Narrows the remaining rows, and ``best.rows``, to the images that the forecast does not give up.

        The margins of half the queries so far are known at every second record.
        """
        margins = state.margins
        if len(margins) % 2 == 1:
            return remaining
        rows = torch.arange(margins.shape[1], device=margins.device) if remaining is None else remaining
        decrease = margins[len(margins) // 2 - 1] - margins[-1]
        hopeful = (_SPEEDUP * math.log2(self.queries / query) * decrease >= margins[-1])[rows]
        best.keep(hopeful)
        return rows[hopeful]

    def _search_samples(
        self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random
    ) -> tuple[Tensor, Tensor]:
        """One search with a sample of the draws; returns the incumbents ``(N, C, H, W)`` and their scores ``(N,)``."""
        incumbents = self.start(images, threat, random)
        # Of the incumbents' scores so far: their number, their sum and their sum of squares.
        sums = torch.zeros(3, len(images), dtype=torch.float64, device=images.device)
        steps = max(1, self.queries // 2)
        for step in range(steps):
            candidates = self.propose(step / steps, incumbents, images, threat, random)
            both = torch.stack([incumbents, candidates], dim=1).flatten(0, 1)
            scores = _scores(source.logits(both, copies=2), labels.repeat_interleave(2), threat)
            of_incumbents, of_candidates = scores.unflatten(1, (len(images), 2)).unbind(2)
            sums = sums + torch.stack([torch.ones_like(of_incumbents), of_incumbents, of_incumbents.square()]).sum(1)
            mean = sums[1] / sums[0]
            # The standard error of a candidate's mean, by the variance of the incumbent's scores.
            error = ((sums[2] / sums[0] - mean.square()).clamp_min(0) / source.draws).sqrt()
            better = of_candidates.mean(0) < mean - _STANDARD_ERRORS * error
            incumbents = torch.where(per_image(better, images), candidates, incumbents)
            sums = torch.where(better, 0, sums)
        scores = _scores(source.logits(incumbents), labels, threat)
        return incumbents, (sums[1] + scores.sum(0)) / (sums[0] + len(scores))


@dataclass(frozen=True)
class _SearchState:
    """The state of a search with exhaustive draws, for n images.

    Attributes:
        images: ``(n, C, H, W)``.
        labels: ``(n,)``.
        threat: The threat of these images.
        random: The random numbers of these images.
        incumbents: ``(n, C, H, W)``, the best points so far.
        logits: ``(D, n, K)`` at the incumbents.
        score: ``(n,)`` float64, the mean score of the incumbents.
        margins: ``(k, n)`` float64, the margins that were recorded for early stopping.
    """

    images: Tensor
    labels: Tensor
    threat: Threat
    random: Random
    incumbents: Tensor
    logits: Tensor
    score: Tensor
    margins: Tensor

    def may_be_broken(self, source: GradientSource) -> bool:
        """Whether any image may be broken, so that the incumbents must be offered.

        For one draw and an untargeted search, the score of a broken image is at most 0. In any other case the score does
        not show it. On a GPU, this comparison would make the CPU wait, so the incumbents are offered at each query.
        """
        unclear = self.images.is_cuda or source.draws > 1 or self.threat.targeted
        return unclear or bool((self.score <= 0).any())

    def with_recorded_margins(self) -> _SearchState:
        """The state with the current margins appended; positive scores are ``m / (1 + m)`` of margins m."""
        return replace(self, margins=torch.cat([self.margins, (self.score / (1 - self.score))[None]]))

    def select(self, rows: Tensor) -> _SearchState:
        """The state of the images ``rows`` alone."""
        return _SearchState(
            images=self.images[rows],
            labels=self.labels[rows],
            threat=self.threat.select(rows),
            random=self.random.select(rows),
            incumbents=self.incumbents[rows],
            logits=self.logits[:, rows],
            score=self.score[rows],
            margins=self.margins[:, rows],
        )

    def after_query(self, source: GradientSource, propose: Propose, completed: float) -> _SearchState:
        """The state after a query: candidates replace incumbents with higher scores."""
        candidates = propose(completed, self.incumbents, self.images, self.threat, self.random)
        logits = source.logits(candidates)
        score = _scores(logits, self.labels, self.threat).mean(0)
        better = score < self.score
        return replace(
            self,
            incumbents=torch.where(per_image(better, self.images), candidates, self.incumbents),
            logits=torch.where(better[:, None], logits, self.logits),
            score=torch.where(better, score, self.score),
        )


def _begin(
    source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random, start: StartPoint
) -> _SearchState:
    """The state at the start of a search."""
    incumbents = start(images, threat, random)
    logits = source.logits(incumbents)
    return _SearchState(
        images=images,
        labels=labels,
        threat=threat,
        random=random,
        incumbents=incumbents,
        logits=logits,
        score=_scores(logits, labels, threat).mean(0),
        margins=torch.empty(0, len(images), dtype=torch.float64, device=images.device),
    )


def _scores(logits: Tensor, labels: Tensor, threat: Threat) -> Tensor:
    """``(D, n)`` float64 scores of logits ``(D, n, K)``, one per draw; small near the goal."""
    labels = labels.expand(len(logits), -1)
    if threat.targeted:
        return cross_entropy(logits, labels).double()
    return bounded(margin(logits, labels).double(), 1)

"""Random search by scores alone: each image keeps a proposal if it lowers the image's score."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.iterates import BestIterates
from robustbench_cli.attacks.base.losses import bounded, cross_entropy, margin
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import Threat, per_image

__all__ = ["Draw", "Drawn", "Propose", "RandomSearch", "StartPoint"]

StartPoint = Callable[[Tensor, Threat, Random], Tensor]
"""Maps images ``(n, C, H, W)``, their threat and random numbers to the first incumbents ``(n, C, H, W)``."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What the next queries need and no incumbent changes, computed for several queries in one go.

    Attributes:
        per_query: Tensors ``(Q, n, ...)``, such as random numbers, for the next Q queries.
        per_image: Tensors ``(n, ...)``, the same for all queries.
        shared: Tensors that are the same for all queries and images.
    """

    per_query: tuple[Tensor, ...]
    per_image: tuple[Tensor, ...] = ()
    shared: tuple[Tensor, ...] = ()

    def __len__(self) -> int:
        return len(self.per_query[0])

    def next(self, queries: int = 1) -> tuple[Tensor, ...]:
        """What the first of these queries need: ``(queries * n, ...)`` of each tensor ``per_query``, and then all others."""
        if queries == 1:
            return (*(numbers[0] for numbers in self.per_query), *self.per_image, *self.shared)
        numbers = (numbers[:queries].flatten(0, 1) for numbers in self.per_query)
        return (
            *numbers,
            *(values.repeat(queries, *[1] * (values.dim() - 1)) for values in self.per_image),
            *self.shared,
        )

    def rest(self, queries: int = 1) -> Drawn:
        """The same without the first of these queries."""
        return replace(self, per_query=tuple(numbers[queries:] for numbers in self.per_query))

    def select(self, rows: Tensor) -> Drawn:
        """The same for the images ``rows`` alone."""
        return replace(
            self,
            per_query=tuple(numbers[:, rows] for numbers in self.per_query),
            per_image=tuple(values[rows] for values in self.per_image),
        )


Draw = Callable[[Sequence[float], Tensor, Threat, Random], Drawn]
"""Maps the completed shares of the search at the next queries, images ``(n, C, H, W)``, their threat and random numbers to
what the first one or more of these queries need.
"""

Propose = Callable[[float, Tensor, Tensor, Threat, tuple[Tensor, ...]], Tensor]
"""Maps the completed share of the search, incumbents and images ``(n, C, H, W)``, their threat and :meth:`Drawn.next` to
candidates ``(n, C, H, W)`` inside the balls and the box.
"""

_AHEAD = 16
"""The largest number of queries to draw for at once; so many take little memory, and few kernels each."""

_USUAL_QUERIES = 5000
"""The budget that the three shares below were chosen for. They are shares of the budget, or of this one if that is larger:
in the first hundreds of queries of any search, the margin decreases fast and irregularly.
"""

_TOGETHER_FROM = 0.1
"""The share of the queries from which on several candidates are scored together: before it, many candidates are better than
their incumbents, and each should start from the one before it.
"""

_STANDARD_ERRORS = 1.0
"""The number of standard errors by which a candidate's mean score must be lower if the draws are a sample.

Of 0, 0.5, 1 and 2, this value lowered the true margin most (Square on the digits, logits with noise of 0.3 and of 1).
"""

_FIRST_FORECAST, _FORECASTS_A_DOUBLING = 0.06, 4
"""The share of the queries before the first forecast of early stopping, and the forecasts until the number of queries has
doubled.
"""

_OF_TOTAL_DECREASE, _OF_LATEST_DECREASE = 0.08, 4.0
"""The factors of the two forecasts of early stopping; see :class:`RandomSearch`.

They were chosen on 677 images that Square alone attacked with 5,000 queries, 284 of which broke (small-cnn on the digits with
PGD training, 0.15 in linf and 0.8 in l2; on pairs of digits, 100 classes, with PGD training, 0.1; on plain Fashion-MNIST, 0.02).
None of the 284 is missed, and the other images take 8 to 20 % of the queries. On 590 images that they were not fitted to (TRADES;
100 classes, plain and with adversarial training; MART in l1), one of 354 breaks is missed, for 10 to 27 % of the queries.
Stricter factors miss more: the margin may pause for a whole doubling and decrease again with smaller windows.
"""


@dataclass(frozen=True, kw_only=True)
class RandomSearch:
    """Searches for the image with the smallest score: the margin, or the cross-entropy with the target class.

    Each image has an incumbent, the best point so far. Each query scores a candidate near the incumbent, which replaces
    the incumbent if its score is lower. Later in the search, where few candidates are better, several candidates may be
    scored together, and the best of them replaces the incumbent. A small network takes hardly longer for them than for one.

    If the draws of a randomized model are a sample, a score is a mean over the draws and has an error. A candidate with
    lucky draws would never be replaced if its first score stayed. So each query scores the incumbent again, together
    with the candidate. The candidate replaces the incumbent if its mean score is more than
    :data:`_STANDARD_ERRORS` standard errors below the mean of all scores of the incumbent.

    Early stopping forecasts by how much the margin m of an untargeted search on a deterministic model will still decrease.
    At query q, the search stops on an image if one of two generous forecasts leaves a positive margin:

    - :data:`_OF_TOTAL_DECREASE` times ``queries / q`` times the decrease so far, ``m(1) - m(q)``. A smaller budget than
      :data:`_USUAL_QUERIES` counts as this one here.
    - :data:`_OF_LATEST_DECREASE` times ``log2(queries / q)`` times the decrease over the latest doubling of the queries,
      ``m(q / 2) - m(q)``, once it lies within the forecasts.

    Args:
        start: Makes the first incumbents of each restart.
        draw: Draws what the candidates of the next queries need.
        propose: Makes the candidates.
        queries: The number of queries per image and restart. If the draws are a sample, half of them score incumbents.
        restarts: The number of searches from different starts. Only unbroken images are searched again.
        early_stopping: Whether to stop on images that are unlikely to be broken within the remaining queries.
        candidates: The number of candidates that are scored together after the first tenth of the queries, and after 500 at
            the earliest, unless the draws are a sample.
    """

    start: StartPoint
    draw: Draw
    propose: Propose
    queries: int
    restarts: int = 1
    early_stopping: bool = False
    candidates: int = 1

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
        forecasts = _forecasts(self.queries) if stops_early else []
        query = 1
        while True:
            last = query >= self.queries
            recorded = not last and bool(forecasts) and query >= forecasts[0]
            remaining = None
            if recorded or last or state.may_be_broken(source):
                remaining = best.offer(state.incumbents, state.logits)
            if recorded:
                forecasts.pop(0)
                state = state.with_recorded_margins()
                remaining = self._without_hopeless(state, query, remaining, best)
            if remaining is not None:
                state = state.select(remaining)
            if last or not len(state.labels):
                return
            state, spent = self._after_step(state, source, query)
            query += spent

    def _after_step(self, state: _SearchState, source: GradientSource, query: int) -> tuple[_SearchState, int]:
        """The state after a step, in which candidates replace incumbents with higher scores, and the queries it took."""
        shares = _shares(query, self.queries)
        drawn = state.drawn or self.draw(shares, state.images, state.threat, state.random)
        together = min(self.candidates, len(drawn)) if query >= _TOGETHER_FROM * _budget(self.queries) else 1
        images, incumbents, threat = state.images, state.incumbents, state.threat
        if together > 1:
            rows = torch.arange(len(images), device=images.device).repeat(together)
            images, incumbents, threat = images[rows], incumbents[rows], threat.select(rows)
        candidates = self.propose(shares[0], incumbents, images, threat, drawn.next(together))
        return state.after_step(source, candidates, drawn.rest(together)), together

    def _without_hopeless(
        self, state: _SearchState, query: int, remaining: Tensor | None, best: BestIterates
    ) -> Tensor | None:
        """Narrows the remaining rows, and ``best.rows``, to the images that the forecasts do not give up."""
        margins = state.margins
        rows = torch.arange(margins.shape[1], device=margins.device) if remaining is None else remaining
        margin = margins[-1, rows]
        reachable = _OF_TOTAL_DECREASE * _budget(self.queries) / query * (margins[0, rows] - margin)
        # The first of the margins is that of the start.
        if len(margins) > 1 + _FORECASTS_A_DOUBLING:
            latest = margins[-1 - _FORECASTS_A_DOUBLING, rows] - margin
            reachable = reachable.minimum(_OF_LATEST_DECREASE * math.log2(self.queries / query) * latest)
        hopeful = reachable >= margin
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
        drawn = None
        for step in range(steps):
            shares = _shares(step, steps)
            drawn = drawn or self.draw(shares, images, threat, random)
            candidates = self.propose(shares[0], incumbents, images, threat, drawn.next())
            drawn = drawn.rest()
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
        score: ``(n,)``, the score of the incumbents; see :func:`_score`.
        margins: ``(1 + k, n)``, the scores at the start and at the forecasts of early stopping so far.
        drawn: What the next queries need, as far as it is drawn.
    """

    images: Tensor
    labels: Tensor
    threat: Threat
    random: Random
    incumbents: Tensor
    logits: Tensor
    score: Tensor
    margins: Tensor
    drawn: Drawn | None = None

    def may_be_broken(self, source: GradientSource) -> bool:
        """Whether any image may be broken, so that the incumbents must be offered.

        For one draw and an untargeted search, the score of a broken image is at most 0. In any other case the score does
        not show it. On a GPU, the comparison would make the CPU wait. The margin of an incumbent never rises, so there
        the incumbents are offered only before new numbers are drawn.
        """
        if source.draws > 1 or self.threat.targeted:
            return True
        return not self.drawn if self.images.is_cuda else bool((self.score <= 0).any())

    def with_recorded_margins(self) -> _SearchState:
        """The state with the current margins appended."""
        return replace(self, margins=torch.cat([self.margins, self.score[None]]))

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
            drawn=self.drawn and self.drawn.select(rows),
        )

    def after_step(self, source: GradientSource, candidates: Tensor, drawn: Drawn) -> _SearchState:
        """The state after the candidates ``(k * n, C, H, W)``, k of each image, with what the next queries need."""
        logits = source.logits(candidates)
        together = len(candidates) // len(self.labels)
        labels = self.labels if together == 1 else self.labels.repeat(together)
        score = _score(logits, labels, self.threat)
        if together > 1:
            score, first = score.view(together, -1).min(0)
            rows = torch.arange(len(score), device=score.device).add_(first, alpha=len(score))
            candidates, logits = candidates[rows], logits[:, rows]
        better = score < self.score
        return replace(
            self,
            incumbents=torch.where(per_image(better, self.images), candidates, self.incumbents),
            logits=torch.where(better[:, None], logits, self.logits),
            score=torch.where(better, score, self.score),
            drawn=drawn,
        )


def _budget(queries: int) -> int:
    """The budget that shares of the queries refer to; see :data:`_USUAL_QUERIES`."""
    return max(queries, _USUAL_QUERIES)


def _forecasts(queries: int) -> list[int]:
    """The queries at which early stopping forecasts the margins, at equal ratios; none for a small budget."""
    first, count = _FIRST_FORECAST * _budget(queries), math.ceil(_FORECASTS_A_DOUBLING * math.log2(1 / _FIRST_FORECAST))
    numbers = [round(first * 2 ** (k / _FORECASTS_A_DOUBLING)) for k in range(count)]
    return [number for number in numbers if number < queries]


def _shares(query: int, queries: int) -> list[float]:
    """The completed shares of the search at the next queries: few at the start, where many images leave the batch."""
    return [later / queries for later in range(query, min(query + min(max(1, query), _AHEAD), queries))]


def _begin(
    source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random, start: StartPoint
) -> _SearchState:
    """The state at the start of a search."""
    incumbents = start(images, threat, random)
    logits = source.logits(incumbents)
    score = _score(logits, labels, threat)
    return _SearchState(
        images=images,
        labels=labels,
        threat=threat,
        random=random,
        incumbents=incumbents,
        logits=logits,
        score=score,
        margins=score[None],
    )


def _score(logits: Tensor, labels: Tensor, threat: Threat) -> Tensor:
    """``(n,)``: the mean score over exhaustive draws, for logits ``(D, n, K)``; small near the goal.

    With one draw, no draw can outweigh another, and the score of an untargeted search is the margin itself.
    """
    if len(logits) == 1 and not threat.targeted:
        return margin(logits[0], labels)
    return _scores(logits, labels, threat).mean(0)


def _scores(logits: Tensor, labels: Tensor, threat: Threat) -> Tensor:
    """``(D, n)`` float64 scores of logits ``(D, n, K)``, one per draw; small near the goal."""
    labels = labels.expand(len(logits), -1)
    if threat.targeted:
        return cross_entropy(logits, labels).double()
    return bounded(margin(logits, labels).double(), 1)

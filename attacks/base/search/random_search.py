"""Random search: proposals that are kept where they lower the score, for every image by itself."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.iterates import BestIterates
from robustbench_cli.attacks.base.losses import bounded, cross_entropy, margin
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import Threat, per_image

__all__ = ["Propose", "StartPoint", "random_search"]

StartPoint = Callable[[Tensor, Threat, Random], Tensor]
"""From images ``(n, C, H, W)``, their threat and random numbers to the first incumbents ``(n, C, H, W)``."""

Propose = Callable[[float, Tensor, Tensor, Threat, Random], Tensor]
"""From the share of the search that is over, incumbents and images ``(n, C, H, W)``, their threat and random numbers to
candidates ``(n, C, H, W)`` inside the balls and the box."""

_STANDARD_ERRORS = 1.0
"""By how many standard errors of its mean score a candidate has to be better where the draws are a sample.

Of 0, 0.5, 1 and 2 this lowered the true margin most (Square on the digits, logits with noise of 0.3 and of 1).
"""

_FASTER = 2.0
"""How many times as fast as it fell of late the margin may have to fall for a search to go on.

The margin falls about as the logarithm of the queries, and slower at the end. Of 112 Fashion-MNIST images that Square
alone attacked with 5,000 queries (paper network, plainly trained at 0.025 in linf and at 0.7 in l2, adversarially
trained at 0.12 in linf) 68 fell, one of which would have been left, in l2 before query 4,626; and 41, 76 and 14 % of
the queries would have been made. With 1.5 two would have been left; with 3 none, for 49, 93 and 17 %.
"""


def random_search(
    source: GradientSource,
    images: Tensor,
    labels: Tensor,
    threat: Threat,
    random: Random,
    *,
    start: StartPoint,
    propose: Propose,
    queries: int,
    restarts: int,
    gives_up: bool = False,
) -> Tensor:
    """Searches the image of the smallest score: the margin, or the cross-entropy with the class to reach.

    A randomized model's score is the mean over the source's draws. A candidate that was lucky with its draws would stay
    for good if its score were kept, so the incumbent is asked again with each candidate and judged by all that was
    drawn since it was taken; and a candidate has to be better by :data:`_STANDARD_ERRORS`.

    Args:
        source: Gives the scores.
        images: ``(N, C, H, W)``.
        labels: ``(N,)``.
        threat: The balls, and the goal.
        random: Random numbers for each image.
        start: Gives the first incumbents of each restart.
        propose: Gives the candidates.
        queries: Images that each restart may ask the source about, for each image; half of them are incumbents where
            the draws are a sample.
        restarts: Searches from different starts; only what still stands is searched again.
        gives_up: Whether an untargeted search leaves an image that it will not break: after each tenth of the queries
            it does where :data:`_FASTER` times the margin that the last doubling of the queries took, with every
            doubling that is to come, would not take all of it. Nothing is left whose score is a mean over draws.

    Returns:
        The best images ``(N, C, H, W)``.
    """
    if source.exhaustive:
        best = BestIterates(source, images, labels, threat)
        leaves = gives_up and source.draws == 1 and not threat.targeted
        for rows, stream in best.restarts(restarts, random):
            part = images[rows], labels[rows], threat.select(rows), stream
            _search(source, *part, best, start, propose, queries, gives_up=leaves)
        return best.images
    found, lowest = images.clone(), torch.full((len(images),), torch.inf, dtype=torch.float64, device=images.device)
    for stream in [random.split() for _ in range(restarts)]:
        incumbents, score = _search_samples(source, images, labels, threat, stream, start, propose, queries)
        better = score < lowest
        found = torch.where(per_image(better, images), incumbents, found)
        lowest = torch.where(better, score, lowest)
    return found


def _scores(logits: Tensor, labels: Tensor, threat: Threat) -> Tensor:
    """``(D, n)`` float64 scores of logits ``(D, n, K)``, each draw's by itself; small near the goal."""
    labels = labels.expand(len(logits), -1)
    if threat.targeted:
        return cross_entropy(logits, labels).double()
    return bounded(margin(logits, labels).double(), 1)


def _search(
    source: GradientSource,
    images: Tensor,
    labels: Tensor,
    threat: Threat,
    random: Random,
    best: BestIterates,
    start: StartPoint,
    propose: Propose,
    queries: int,
    *,
    gives_up: bool,
) -> None:
    """One search with all the draws that there are: scores have no error, and images that have fallen leave."""
    twentieth = queries // 20
    # The margins (k, n) after each twentieth of the queries.
    margins = torch.empty(0, len(images), dtype=torch.float64, device=images.device)
    incumbents = start(images, threat, random)
    logits = source.logits(incumbents)
    lowest = _scores(logits, labels, threat).mean(0)
    for query in range(1, queries + 1):
        # What is kept is offered where something may have fallen, which a GPU cannot be asked without making it wait,
        # and where the search ends. The mean of several scores does not tell, nor does the cross-entropy.
        going_on, last = None, query == queries
        marked = gives_up and not last and twentieth > 0 and query % twentieth == 0
        if images.is_cuda or source.draws > 1 or threat.targeted or marked or last or bool((lowest <= 0).any()):
            going_on = best.offer(incumbents, logits)
        if marked:
            margins = torch.cat([margins, (lowest / (1 - lowest))[None]])
        if marked and len(margins) % 2 == 0:
            rows = torch.arange(len(images), device=images.device) if going_on is None else going_on
            taken = margins[len(margins) // 2 - 1] - margins[-1]
            hopeful = (_FASTER * math.log2(queries / query) * taken >= margins[-1])[rows]
            going_on, best.rows = rows[hopeful], best.rows[hopeful]
        if going_on is not None:
            if not len(going_on):
                return
            images, labels, threat = images[going_on], labels[going_on], threat.select(going_on)
            incumbents, lowest, random = incumbents[going_on], lowest[going_on], random.select(going_on)
            logits, margins = logits[:, going_on], margins[:, going_on]
        if not last:
            candidates = propose(query / queries, incumbents, images, threat, random)
            new_logits = source.logits(candidates)
            score = _scores(new_logits, labels, threat).mean(0)
            better = score < lowest
            incumbents = torch.where(per_image(better, images), candidates, incumbents)
            logits = torch.where(better[:, None], new_logits, logits)
            lowest = torch.where(better, score, lowest)


def _search_samples(
    source: GradientSource,
    images: Tensor,
    labels: Tensor,
    threat: Threat,
    random: Random,
    start: StartPoint,
    propose: Propose,
    queries: int,
) -> tuple[Tensor, Tensor]:
    """One search with a sample of the draws; returns the incumbents ``(N, C, H, W)`` and their scores ``(N,)``."""
    incumbents = start(images, threat, random)
    sums = torch.zeros(3, len(images), dtype=torch.float64, device=images.device)
    steps = max(1, queries // 2)
    for step in range(steps):
        candidates = propose(step / steps, incumbents, images, threat, random)
        both = torch.stack([incumbents, candidates], dim=1).flatten(0, 1)
        scores = _scores(source.logits(both, copies=2), labels.repeat_interleave(2), threat)
        again, new = scores.unflatten(1, (len(images), 2)).unbind(2)
        sums = sums + torch.stack([torch.ones_like(again), again, again.square()]).sum(1)
        mean = sums[1] / sums[0]
        error = ((sums[2] / sums[0] - mean.square()).clamp_min(0) / source.draws).sqrt()
        better = new.mean(0) < mean - _STANDARD_ERRORS * error
        incumbents = torch.where(per_image(better, images), candidates, incumbents)
        sums = torch.where(better, 0, sums)
    scores = _scores(source.logits(incumbents), labels, threat)
    return incumbents, (sums[1] + scores.sum(0)) / (sums[0] + len(scores))

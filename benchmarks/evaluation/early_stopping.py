"""Stops an evaluation once it is decided whether the robust accuracy reaches a limit."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from robustbench_cli.attacks.base.rng import seed_from
from robustbench_cli.benchmarks.evaluation.outcomes import Outcomes, summarize
from robustbench_cli.benchmarks.evaluation.partial_results import BatchResult
from robustbench_cli.benchmarks.evaluation.statistics.sequential import SequentialGate, confidence_sequence

__all__ = ["LOOK_EVERY", "StoppingRule", "accuracy_text", "in_random_order", "summarize_row"]

LOOK_EVERY = 50
"""The number of images that are attacked between two looks at the accuracy."""

_POPULATION = 10**9
"""The size of the population that an interval is about: infinite, in practice."""


def in_random_order(indices: Tensor, seed: int) -> Tensor:
    """The images of an evaluation in the random order that a :class:`StoppingRule` needs.

    Args:
        indices: ``(N,)``, of the images.
        seed: The seed of the evaluation.
    """
    order = np.random.default_rng(seed_from(seed, "order of the images")).permutation(len(indices))
    return indices[torch.from_numpy(order)]


class StoppingRule:
    """Decides after each batch whether the robust accuracy of all images reaches a limit, with an error of at most 5 %.

    See :class:`~.statistics.sequential.SequentialGate`. The accuracy is that of the evaluated images, if all of them were
    attacked.

    Args:
        limit: The limit of the robust accuracy; ``None`` never stops.
        number: The number of all images.
    """

    def __init__(self, limit: float | None, number: int) -> None:
        self._gate = None if limit is None else SequentialGate(limit, number)

    def is_decided(self, batch: BatchResult) -> bool:
        """Takes the next batch in the random order, and says whether the evaluation may stop.

        Args:
            batch: Its outcomes.
        """
        return (
            self._gate is not None and self._gate.update(Outcomes(**batch.outcomes).right_shares.tolist()) is not None
        )


def summarize_row(outcomes: Outcomes, *, is_sample: bool) -> dict[str, float]:
    """The figures of an evaluation; see :func:`~.outcomes.summarize`.

    If the images were attacked in random order until a decision, a usual interval is wrong after many looks at the accuracy.
    So the interval of the robust accuracy is the confidence sequence, which holds at any stopping time, for a population
    of any size. If all images of a pass share one draw, it holds for the draws that were made. ``n`` is the number of images
    that were attacked.

    Args:
        outcomes: Of the attacked images; of a sample, in the order in which they were attacked.
        is_sample: Whether they were attacked in random order until a decision.
    """
    figures = summarize(outcomes)
    if not is_sample:
        return figures
    *_, (low, high) = confidence_sequence(outcomes.right_shares, _POPULATION)
    return figures | {
        "robust_accuracy_low": low,
        "robust_accuracy_high": high,
        "n": float(len(outcomes.labels)),
    }


def accuracy_text(summary: Mapping[str, float], name: str) -> str:
    """An accuracy with its interval, such as ``robust accuracy 0.42 [0.36, 0.48]``.

    Args:
        summary: The figures of an evaluation, by column.
        name: The column of the accuracy.
    """
    low, high = (summary[f"{name}_{end}"] for end in ("low", "high"))
    return f"{name.replace('_', ' ')} {summary[name]:.3g} [{low:.3g}, {high:.3g}]"

"""Recall and precision of each class, over images and draws."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robustbench_cli.benchmarks.evaluation.statistics.intervals import (
    images_interval,
    passes_interval,
    score_interval,
)

__all__ = ["ClassFigures", "class_figures"]

_NORMAL = 1.959964
"""The quantile of the normal distribution for a coverage of 95 %."""

Share = tuple[float, float, float]
"""A share with the ends of its 95 % confidence interval."""


@dataclass(frozen=True, kw_only=True)
class ClassFigures:
    """What a model gives for one class.

    Attributes:
        label: The class.
        images: The number of its images.
        recall: The share of its images that get it as their answer.
        precision: The share of the answers with this class that are right; ``None`` where no image gets it.
        confused_with: The most frequent wrong answer to its images; ``None`` where all are right.
        confused: The share of its images that get that answer.
    """

    label: int
    images: int
    recall: Share
    precision: Share | None
    confused_with: int | None
    confused: float


def class_figures(
    labels: NDArray[np.integer], answers: NDArray[np.integer], *, shared: bool = False
) -> Iterator[ClassFigures]:
    """The figures of each class that has images, in order. Draws count as shares of an answer.

    The interval of a recall is that of an accuracy, over the images of the class. A precision is a quotient of two sums over
    images, so the variance comes from its linearization (Cochran, Sampling Techniques, 1977, section 6.4); the number of
    trials that has this variance goes into the interval of Wilson. For one draw that is Wilson's interval over the images
    with the answer.

    Args:
        labels: ``(N,)``, the classes.
        answers: ``(R, N)``, of R draws: classes, rejections or failures.
        shared: Whether all images of a pass share one draw. The intervals of precisions are over the images alone then.

    >>> labels, answers = np.array([0, 0, 0, 1]), np.array([[0, 0, 1, 1]])
    >>> [(entry.label, round(entry.recall[0], 2), entry.precision[0]) for entry in class_figures(labels, answers)]
    [(0, 0.67, 1.0), (1, 1.0, 0.5)]
    """
    interval = passes_interval if shared else images_interval
    for label in np.unique(labels):
        mine = labels == label
        of_class = answers[:, mine]
        right = of_class == label
        wrong, counts = np.unique(of_class[~right], return_counts=True)
        most = int(counts.argmax()) if len(counts) else None
        yield ClassFigures(
            label=int(label),
            images=int(mine.sum()),
            recall=(float(right.mean()), *interval(right)),
            precision=_precision(mine, (answers == label).mean(axis=0)),
            confused_with=None if most is None else int(wrong[most]),
            confused=0.0 if most is None else float(counts[most] / right.size),
        )


def _precision(mine: NDArray[np.bool_], shares: NDArray[np.float64]) -> Share | None:
    """The precision of a class.

    Args:
        mine: ``(N,)``, whether an image is of the class.
        shares: ``(N,)``, the share of draws that answer with the class.
    """
    total = float(shares.sum())
    if not total:
        return None
    precision = float(shares[mine].sum()) / total
    variance = float(np.square((mine - precision) * shares).sum()) / total**2
    trials = precision * (1 - precision) / variance if variance else total
    return precision, *score_interval(precision, trials, _NORMAL)

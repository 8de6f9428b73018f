from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import precision_recall_fscore_support

from robustbench_cli.attacks.base.models.special_labels import REJECTED
from robustbench_cli.benchmarks.evaluation.statistics.classes import class_figures

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 4, 300)


def drawn(draws: int) -> np.ndarray:
    """Answers of which some two thirds are right, and a few are rejections."""
    wrong = RNG.integers(REJECTED, 5, (draws, len(LABELS)))
    return np.where(RNG.random((draws, len(LABELS))) < 0.6, LABELS, wrong)


@pytest.mark.parametrize("draws", [1, 7])
def test_recall_and_precision_are_those_of_scikit_learn(draws: int) -> None:
    """Draws count as answers of their own; with one draw both intervals are Wilson's."""
    answers = drawn(draws)
    figures = list(class_figures(LABELS, answers))
    precision, recall, _, images = precision_recall_fscore_support(
        np.tile(LABELS, draws), answers.ravel(), labels=range(4)
    )
    for label, entry in enumerate(figures):
        assert (entry.label, entry.images * draws) == (label, images[label])
        assert entry.precision is not None
        assert entry.recall[0] == pytest.approx(recall[label])
        assert entry.precision[0] == pytest.approx(precision[label])
        if draws == 1:
            for share, trials in ((entry.recall, entry.images), (entry.precision, int((answers == label).sum()))):
                expected = binomtest(round(share[0] * trials), trials).proportion_ci(method="wilson")
                assert share[1:] == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_draws_that_are_alike_tell_no_more_than_one() -> None:
    """The interval of a precision over 50 equal draws is that of one; over 50 independent ones it is narrower."""
    once = drawn(1)
    one, alike, apart = (
        [entry.precision for entry in class_figures(LABELS, answers)]
        for answers in (once, once.repeat(50, axis=0), drawn(50))
    )
    for first, second, third in zip(one, alike, apart, strict=True):
        assert first == pytest.approx(second)
        assert first is not None
        assert third is not None
        assert third[2] - third[1] < 0.8 * (first[2] - first[1])


@pytest.mark.parametrize("kind", [np.int16, np.int32, np.int64])
def test_what_a_class_is_taken_for(kind: type[np.signedinteger]) -> None:
    """The most frequent wrong answer; a class that nobody answers with has no precision. A store has 16 bits."""
    labels = np.array([0, 0, 0, 0, 1, 2])
    first, second, third = class_figures(labels, np.array([[0, 2, 2, REJECTED, REJECTED, 2]], dtype=kind))
    assert (first.recall[0], first.confused_with, first.confused) == (0.25, 2, 0.5)
    assert (second.recall[0], second.precision, second.confused_with) == (0, None, REJECTED)
    assert (third.confused_with, third.confused) == (None, 0)

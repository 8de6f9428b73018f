from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from torch import nn

from robustbench_cli.benchmarks.certification.by_smoothing import Smoothing
from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel
from robustbench_cli.benchmarks.comparison import costs
from robustbench_cli.benchmarks.comparison.costs import (
    BATCH,
    STEPS,
    certify_overhead,
    hrs_forward,
    pgd_overhead,
    training_overhead,
)
from robustbench_cli.benchmarks.comparison.models import ImageSet


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Counts the images that each side of a comparison passes through its first convolution, forward.

    Both sides run once. The clock is replaced: the first side takes 3 s and the second one 2 s.
    """
    counts: Counter[str] = Counter()
    side = ""

    def count(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if side and isinstance(module, nn.Conv2d) and module.in_channels == 1:
            counts[side] += len(inputs[0])

    def once(runs: Mapping[str, Callable[[], object]], *, turns: int) -> dict[str, list[float]]:
        nonlocal side
        for name, run in runs.items():
            side = name
            run()
        side = ""
        return dict(zip(runs, ([3.0] * turns, [2.0] * turns), strict=True))

    monkeypatch.setattr(costs, "in_turn", once)
    hook = nn.modules.module.register_module_forward_pre_hook(count)
    yield counts
    hook.remove()


def test_pgd_is_compared_with_as_many_passes(defended: DefendedModel, examples: ImageSet, rows: Counter[str]) -> None:
    """One pass per step and image on both sides; PGD looks at its last iterate in one more."""
    assert pgd_overhead(defended, examples, "linf", turns=1).middle == 1.5
    assert rows["passes"] == STEPS * len(examples)
    assert rows["passes"] <= rows["ours"] <= (STEPS + 2) * len(examples)


def test_a_broken_image_is_an_error(defended: DefendedModel, examples: ImageSet) -> None:
    """A misclassified image would make the attack look cheaper than it is."""
    wrong = ImageSet(examples.images, (examples.labels + 1) % 10)
    with pytest.raises(RuntimeError, match="an image broke"):
        pgd_overhead(defended, wrong, "linf", turns=1)


def test_switching_is_compared_with_the_same_rows(rows: Counter[str]) -> None:
    """Each row passes through one channel of a block, so both sides compute as many rows."""
    assert hrs_forward((2, 2), rows=4, turns=1).middle == 1.5
    assert rows == {"hrs": 4, "base": 4}


def test_certifying_is_compared_with_as_many_passes(rows: Counter[str]) -> None:
    """n0 + samples noisy copies of each image on both sides; the certification measures the model with a few more."""
    assert certify_overhead("small-cnn", images=2, samples=28, turns=1).middle == 1.5
    expected = 2 * Smoothing(sigma=0.25, samples=28).passes
    assert expected == 2 * 128
    assert rows["passes"] == expected
    assert expected < rows["ours"] < expected + 64


def test_training_is_compared_with_as_many_passes(rows: Counter[str]) -> None:
    """An epoch takes steps + 1 passes of each image on both sides; the training tries the memory layout on two more."""
    ratio = training_overhead("small-cnn", steps=2, batches=2, augmentations=("crop", "flip"), turns=1)
    assert ratio.middle == 1.5
    assert rows["bare"] == 3 * 2 * BATCH
    assert rows["bare"] <= rows["ours"] <= rows["bare"] + 2

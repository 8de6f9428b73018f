from __future__ import annotations

import pytest

from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel
from robustbench_cli.benchmarks.comparison.costs import certify_overhead, hrs_forward, pgd_overhead
from robustbench_cli.benchmarks.comparison.models import ImageSet


def test_the_cost_of_pgd_is_at_least_that_of_its_passes(defended: DefendedModel, examples: ImageSet) -> None:
    """A ratio is measured while every image stands."""
    assert pgd_overhead(defended, examples, "linf", turns=1).middle > 0


def test_an_image_that_falls_is_no_measure(defended: DefendedModel, examples: ImageSet) -> None:
    """An image that is wrong from the first would make the attack look cheaper than it is."""
    wrong = ImageSet(examples.images, (examples.labels + 1) % 10)
    with pytest.raises(RuntimeError, match="fell"):
        pgd_overhead(defended, wrong, "linf", turns=1)


def test_the_cost_of_switching_is_measured() -> None:
    """A ratio for each number of channels."""
    assert hrs_forward((2, 2), rows=4, turns=1).middle > 0


def test_the_cost_of_certifying_is_measured() -> None:
    """A ratio of two times that are both spent on as many passes."""
    assert certify_overhead("small-cnn", images=1, samples=28, turns=1).middle > 0

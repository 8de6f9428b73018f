from __future__ import annotations

import pytest

from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.threat import distance
from robustbench_cli.attacks.fmn import FMN

from .conftest import Victim


@pytest.mark.parametrize("norm", ["l2", "linf", "l1"])
def test_more_steps_find_smaller_perturbations(norm: Norm, digits_victim: Victim) -> None:
    """The mean distance falls with the number of steps."""
    model, images, labels = digits_victim.model, digits_victim.images[:20], digits_victim.labels[:20]
    lengths = [
        distance(FMN(steps=steps)(model, images, labels, norm=norm), images, norm).mean() for steps in (5, 20, 80)
    ]
    assert lengths[0] > lengths[1] > lengths[2] > 0

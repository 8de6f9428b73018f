from __future__ import annotations

import pytest
import torch

from robustbench_cli.benchmarks.models.dsara import dsara
from robustbench_cli.core.errors import UserError

CELLS = "sep3-skip-none-max-sep5,skip-avg-none-max-skip,sep3-sep5-sep3-none-avg"


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32)])
def test_it_classifies_small_images(shape: tuple[int, int, int]) -> None:
    for argument in (None, f"5x2,{CELLS}"):
        assert dsara(shape=shape, classes=7, argument=argument).eval()(torch.rand(2, *shape)).shape == (2, 7)


def test_the_parameters_of_an_architecture() -> None:
    """Counted by hand, for 4 cells of width 1: a separable convolution of k x k pixels has k^2 C + C^2 weights."""
    stem, classifier = 3 * 9 + 2 * 3, 7 * 4 + 7
    # Of the projections: from the two cells before, with 3, 3; 3, 2; 2, 4; 4, 4 channels, to 1, 2, 2, 2.
    projections = 1 * (3 + 3) + 2 * (3 + 2) + 2 * (2 + 4) + 2 * (4 + 4)
    accurate = (9 + 1) + (25 + 1)
    reductions = 2 * 4  # One skip of each halves the size, by a 1 x 1 convolution; the other one is the identity.
    robust = (9 * 2 + 4) + (25 * 2 + 4) + (9 * 2 + 4)
    network = dsara(shape=(1, 8, 8), classes=7, argument=f"4x1,{CELLS}")
    total = stem + classifier + projections + accurate + reductions + robust
    assert sum(parameter.numel() for parameter in network.parameters()) == total


def test_a_name_that_is_no_architecture() -> None:
    with pytest.raises(UserError, match=r"^model dsara: the accurate cell has no operation 'conv3'"):
        dsara(shape=(1, 8, 8), classes=7, argument=f"4x1,{CELLS}".replace("sep3", "conv3", 1))

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.benchmarks.certification.by_branch_and_bound import BranchAndBound
from robustbench_cli.benchmarks.certification.by_distance import BoundaryDistance
from robustbench_cli.benchmarks.certification.by_interval_bounds import Intervals
from robustbench_cli.benchmarks.certification.by_linear_relaxation import LinearRelaxation
from robustbench_cli.benchmarks.certification.by_smoothing import Smoothing, VoteCounts
from robustbench_cli.benchmarks.certification.certified_radius import CertifiedRadius
from robustbench_cli.benchmarks.certification.procedures import (
    CERTIFICATE_FLAGS,
    Procedure,
    choose,
    identity_of,
    procedure_of,
)
from robustbench_cli.benchmarks.models.base.estimators.names import EstimatorName
from robustbench_cli.benchmarks.models.base.estimators.network import EstimatorNetwork
from robustbench_cli.core.errors import UserError


@pytest.mark.parametrize(
    "procedure",
    [
        Smoothing(sigma=0.3, n0=7, samples=90),
        Intervals(),
        LinearRelaxation(eps=(0.1, 0.05), norm="l2"),
        BranchAndBound(eps=(0.1,), branches=20),
        BoundaryDistance(norm="l2"),
    ],
)
def test_a_procedure_is_read_back_from_its_identity(procedure: Procedure) -> None:
    """Also through JSON, as a store holds it."""
    assert procedure_of(json.loads(json.dumps(identity_of(procedure, 4)))) == procedure


def test_only_draws_depend_on_the_seed() -> None:
    """Another seed is another certification by smoothing, and the same one by interval bounds."""
    smoothing = Smoothing(sigma=0.3)
    assert identity_of(smoothing, 1) != identity_of(smoothing, 2)
    assert identity_of(Intervals(), 1) == identity_of(Intervals(), 2)


def test_the_stored_lines_keep_their_keys() -> None:
    """Stores of earlier versions name an image's index ``place``."""
    votes = VoteCounts(index=3, top=1, count=9, seconds=0.5)
    radius = CertifiedRadius(index=3, predicted=1, radius=0.25, seconds=0.5)
    assert votes.model_dump_json(by_alias=True) == '{"place":3,"top":1,"count":9,"seconds":0.5}'
    assert radius.model_dump_json(by_alias=True) == '{"place":3,"predicted":1,"radius":0.25,"seconds":0.5}'


SMALL = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
LARGE = nn.Sequential(nn.Conv2d(1, 40, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(2560, 10))
SMOOTH = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.SiLU(), nn.Linear(8, 10))


class Square(nn.Module):
    """A layer that only interval bounds know."""

    monotone = True

    def forward(self, values: Tensor) -> Tensor:
        return values * values


OTHER = nn.Sequential(nn.Flatten(), Square(), nn.Linear(64, 10))
ATTENTION = nn.Sequential(nn.Softmax(1), nn.Flatten(), nn.Linear(64, 10))
IMAGES = torch.rand(2, 1, 8, 8)


@pytest.mark.parametrize(
    ("model", "more", "procedure"),
    [
        (SMALL, {}, BranchAndBound(eps=(0.1,))),
        (SMALL, {"norm": "l1"}, BranchAndBound(eps=(0.1,), norm="l1")),
        (SMALL, {"eps": [0.0]}, Intervals()),
        (LARGE, {}, LinearRelaxation(eps=(0.1,))),
        (LARGE, {"branches": 7}, BranchAndBound(eps=(0.1,), branches=7)),
        (SMOOTH, {}, LinearRelaxation(eps=(0.1,))),
        (OTHER, {}, Intervals()),
        (SMALL, {"method": "intervals"}, Intervals()),
        (SMALL, {"method": "linear"}, LinearRelaxation(eps=(0.1,))),
    ],
)
def test_the_strongest_method_that_a_model_allows(model: nn.Module, more: dict[str, Any], procedure: Procedure) -> None:
    """And a method that was given is that method."""
    arguments = {"method": "auto", "eps": [0.0, 0.1]} | more
    assert choose(arguments.pop("method"), model, IMAGES, **arguments) == procedure


@pytest.mark.parametrize(
    ("model", "more", "message"),
    [
        (ATTENTION, {}, "cannot be bounded by linear relaxation: its layer 0 is a Softmax; .*; or give --sigma"),
        (OTHER, {"norm": "l2"}, "its layer 1 is a Square"),
        (OTHER, {"method": "branch-and-bound"}, "its layer 1 is a Square"),
        (SMOOTH, {"method": "branch-and-bound"}, "no ReLU for branch and bound to split"),
        (SMALL, {"method": "intervals", "norm": "l2"}, "interval bounds are in linf, not in l2: give --method linear"),
        (SMALL, {"method": "linear", "branches": 3}, "--branches is for --method branch-and-bound, not linear"),
        (ATTENTION, {"method": "intervals"}, "cannot be bounded by intervals: its layer 0 is a Softmax"),
    ],
)
def test_a_method_that_does_not_fit(model: nn.Module, more: dict[str, Any], message: str) -> None:
    """It is one line that says what would."""
    arguments = {"method": "auto", "eps": [0.1]} | more
    with pytest.raises(UserError, match=message):
        choose(arguments.pop("method"), model, IMAGES, **arguments)


def test_every_flag_has_a_text() -> None:
    """The flags that the procedures raise are those of the legend."""
    assert set(CERTIFICATE_FLAGS) == {"no-noise-training", "other-noise", "no-bound-training"}


def test_a_linear_classifier_has_its_exact_distance() -> None:
    """Whatever the radii and the norm; branches are for other networks."""
    model, images = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), torch.rand(2, 1, 2, 2)
    assert choose("auto", model, images, eps=(0.1,), norm="l1") == BoundaryDistance(norm="l1")
    assert choose("auto", model, images, eps=()) == choose("distance", model, images, eps=()) == BoundaryDistance()
    with pytest.raises(UserError, match="--branches is for --method branch-and-bound, not distance"):
        choose("distance", model, images, eps=(0.1,), branches=5)


def test_an_estimator_that_is_not_fitted_yet() -> None:
    network = EstimatorNetwork(EstimatorName("LinearSVC"), shape=(1, 2, 2), classes=3)
    with pytest.raises(UserError, match=r"before its training, nothing says how .*: train it by 'advdef train'"):
        choose("auto", network, torch.rand(2, 1, 2, 2), eps=(0.1,))

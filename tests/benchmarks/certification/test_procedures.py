from __future__ import annotations

import json

import pytest

from robustbench_cli.benchmarks.certification.by_interval_bounds import CertifiedRadius, Intervals
from robustbench_cli.benchmarks.certification.by_smoothing import Smoothing, VoteCounts
from robustbench_cli.benchmarks.certification.procedures import (
    CERTIFICATE_FLAGS,
    Procedure,
    identity_of,
    procedure_of,
)


@pytest.mark.parametrize("procedure", [Smoothing(sigma=0.3, n0=7, samples=90), Intervals()])
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


def test_every_flag_has_a_text() -> None:
    """The flags that the procedures raise are those of the legend."""
    assert set(CERTIFICATE_FLAGS) == {"no-noise-training", "other-noise", "no-bound-training"}

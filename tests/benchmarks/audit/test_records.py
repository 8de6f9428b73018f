from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from robustbench_cli.benchmarks.audit.records import (
    RECORDS,
    AuditTarget,
    CheckRecord,
    StoredDraws,
    latest,
    read,
    records_of_cells,
)
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Finding
from robustbench_cli.benchmarks.evaluation.statistics.paired import ScoredDraws
from robustbench_cli.core.errors import UserError


def record(check: str = "no-eot", **changes: Any) -> CheckRecord:
    """A record of a check that found something."""
    target: dict[str, Any] = {
        "dataset": "digits",
        "data": "d" * 64,
        "n": 4,
        "model": "small-cnn",
        "checkpoint": "c" * 64,
        "path": "model.safetensors",
        "defense": "none",
        "norm": "linf",
        "eps": 0.1,
        "eps_text": "0.1",
        "seed": 0,
        "budget": "quick",
    }
    finding = Finding(check=check, severity="broken", evidence="e", figures={"f": 0.5})
    return CheckRecord(target=AuditTarget(**target | changes), check=check, finding=finding, device="cpu", versions={})


def fail(error: UserError) -> None:
    raise error


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    """By its target and check, and in the list of all."""
    first, second = record(), record("unstable")
    for one in (first, second):
        RECORDS.write(tmp_path, one)
    assert read(tmp_path, first.target, "no-eot") == first
    assert read(tmp_path, first.target, "remembers") is None
    assert {one.check for one in RECORDS.stored(tmp_path, damaged=fail)} == {"no-eot", "unstable"}


def test_names_and_paths_are_no_part_of_the_identity() -> None:
    """What changes the result is, and the data set's name, by which rows of other images are found."""
    same = [record(path="other.safetensors"), record(eps_text="1/10")]
    other = [
        record(dataset="other"),
        record(budget="standard"),
        record(eps=0.2),
        record(seed=1),
        record(data="e" * 64),
        record("unstable"),
    ]
    assert {one.id for one in same} == {record().id}
    assert len({record().id, *(one.id for one in other)}) == 7


@pytest.mark.parametrize("damage", ["content", "name"])
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    """The others are read."""
    RECORDS.write(tmp_path, record())
    RECORDS.write(tmp_path, record("unstable"))
    path = tmp_path / "audits" / f"{record().id}.json"
    if damage == "content":
        path.write_bytes(path.read_bytes().replace(b"broken", b"suspicious"))
    else:
        path = path.rename(path.with_stem("0" * 20))
    errors: list[UserError] = []
    assert [one.check for one in RECORDS.stored(tmp_path, damaged=errors.append)] == ["unstable"]
    assert [str(path) in str(error) for error in errors] == [True]


def test_a_merge_copies_what_is_missing(tmp_path: Path) -> None:
    """And overwrites nothing."""
    RECORDS.write(tmp_path / "a", record())
    RECORDS.write(tmp_path / "b", record())
    RECORDS.write(tmp_path / "b", record("unstable"))
    assert RECORDS.take(tmp_path / "a", tmp_path / "b", damaged=fail) == 1
    assert RECORDS.take(tmp_path / "a", tmp_path / "b", damaged=fail) == 0
    assert len(list(RECORDS.stored(tmp_path / "a", damaged=fail))) == 2
    assert RECORDS.leftovers(tmp_path / "a", older_than=0) == []


def clear(**changes: Any) -> CheckRecord:
    """A record of a check that ran and found nothing."""
    return record(**changes).model_copy(update={"finding": None})


@pytest.mark.parametrize(
    ("later", "cleared"),
    [
        ({"budget": "thorough"}, True),
        ({"n": 8}, True),
        ({"budget": "thorough", "n": 1}, False),
        ({"n": 2}, False),
        ({"seed": 1}, False),
    ],
)
def test_only_a_larger_run_clears_a_finding(later: dict[str, Any], *, cleared: bool) -> None:
    """Neither fewer images in a larger budget nor another seed does, in any order of the records."""
    for records in ([record(), clear(**later)], [clear(**later), record()]):
        assert [one.finding is None for one in latest(records)] == [cleared]


def test_a_run_that_was_left_out_clears_nothing() -> None:
    """However large it was."""
    left_out = clear(budget="thorough", n=100).model_copy(update={"left_out": "no gradients"})
    assert [one.finding is None for one in latest([record(), left_out])] == [False]


def test_the_same_images_under_another_name_have_the_same_audit() -> None:
    """And other images under the same name; a model is not audited on corrupted images."""
    found = records_of_cells([record()])

    def cell(dataset: str, data: str, corruption: object = None) -> Any:
        return SimpleNamespace(checkpoint="c" * 64, norm="linf", dataset=dataset, data=data, corruption=corruption)

    assert len(found(cell("digits", "d" * 64))) == 1
    assert len(found(cell("./digits", "d" * 64))) == 1
    assert len(found(cell("digits", "e" * 64))) == 1
    assert found(cell("./digits", "e" * 64)) == []
    assert found(cell("digits", "d" * 64, corruption="fog")) == []


def test_a_finding_of_another_check_is_damage() -> None:
    """A file must not lend a finding to another name, or write several flags into one."""
    with pytest.raises(ValueError, match="the finding is of the check unstable, not of no-eot"):
        CheckRecord.model_validate(record("unstable").model_dump() | {"check": "no-eot"})
    with pytest.raises(ValueError, match="check"):
        CheckRecord.model_validate(record().model_dump() | {"check": "no-eot;mine", "finding": None})


@pytest.mark.parametrize("shape", [(1, 8), (10, 13), (3, 1)])
def test_outcomes_are_stored_bit_for_bit(tmp_path: Path, shape: tuple[int, int]) -> None:
    """Whatever their number of draws and images; other numbers than those of the bits are refused."""
    right = np.random.default_rng(0).random(shape) < 0.5
    kept = StoredDraws.of("PGD", ScoredDraws(right=right, shared=True))
    RECORDS.write(tmp_path, record().model_copy(update={"outcomes": kept}))
    (read_back,) = RECORDS.stored(tmp_path, damaged=fail)
    assert read_back.outcomes is not None
    np.testing.assert_array_equal(read_back.outcomes.scored().right, right)
    with pytest.raises(ValueError, match="does not have the bits"):
        StoredDraws.model_validate(kept.model_dump() | {"images": shape[1] + 8})

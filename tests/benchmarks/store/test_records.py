from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from robustbench_cli.benchmarks.store.records import Failure, Request, RequestedCell, Result, encoded, read_record
from robustbench_cli.core.errors import UserError

from ..conftest import MakeCell, MakeOutcomes, MakeResult


@pytest.fixture
def failure(make_cell: MakeCell) -> Failure:
    """A small record."""
    return Failure(cell=make_cell(), eps="8/255", error="out of memory")


def test_a_record_comes_back(tmp_path: Path, failure: Failure) -> None:
    """It is plain JSON, whose sha256 is that of the lines after the first."""
    path = tmp_path / "a.json"
    path.write_bytes(encoded(failure))
    assert read_record(path, Failure, name="failure", hint="remove it") == failure
    stored = json.loads(path.read_bytes())
    assert stored.pop("sha256") == hashlib.sha256(path.read_bytes().partition(b"\n")[2]).hexdigest()
    assert stored == json.loads(failure.model_dump_json())


def test_every_changed_byte_is_found(tmp_path: Path, failure: Failure) -> None:
    """No byte of the file can change, be cut off or be added."""
    content = encoded(failure)
    path = tmp_path / "a.json"
    changed = [content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :] for at in range(len(content))]
    for other in (*changed, *(content[:at] for at in range(len(content))), content + b" "):
        path.write_bytes(other)
        with pytest.raises(UserError, match="is damaged, its content is not what was stored: remove it"):
            read_record(path, Failure, name="failure", hint="remove it")


def test_another_record_is_named(tmp_path: Path, failure: Failure) -> None:
    """The line has the reader's name of the record and the hint."""
    path = tmp_path / "a.json"
    path.write_bytes(encoded(failure))
    with pytest.raises(UserError, match=r"a\.json is not a request of this version of advdef \(.*\): repeat it"):
        read_record(path, Request, name="request", hint="repeat it")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """The reason is the system's."""
    with pytest.raises(UserError, match=r"a\.json cannot be read \(No such file or directory\): remove it"):
        read_record(tmp_path / "a.json", Failure, name="failure", hint="remove it")


def test_a_request_may_leave_out_what_is_usual(tmp_path: Path, make_cell: MakeCell) -> None:
    """The cells come back with the defaults."""
    request = Request(cells=(RequestedCell(cell=make_cell(), eps="8/255", checkpoint="a.pt"),))
    path = tmp_path / "a.json"
    path.write_bytes(encoded(request, without_defaults=True))
    assert len(path.read_bytes()) < len(encoded(request))
    assert read_record(path, Request, name="request", hint="") == request


@pytest.mark.parametrize("value", [None, -0.01, 1.01, float("nan")])
def test_an_accuracy_is_a_share(
    make_cell: MakeCell, make_outcomes: MakeOutcomes, make_result: MakeResult, value: float | None
) -> None:
    """A result whose robust accuracy is outside [0, 1] does not exist."""
    result, _ = make_result(make_cell(), make_outcomes(clean=[1, 1], robust=[0, 1]))
    fields = dict(result) | {"summary": result.summary | {"robust_accuracy": value}}
    with pytest.raises(ValidationError, match=r"robust_accuracy is .*, which is no share"):
        Result(**fields)


@pytest.mark.parametrize(
    ("figures", "told"),
    [
        (
            {"robust_accuracy_low": 0.9, "robust_accuracy_high": 0.8},
            "robust_accuracy_low is 0.9, above robust_accuracy_high",
        ),
        ({"attack_success_rate": -7.0}, "attack_success_rate is -7.0, which is no share"),
    ],
)
def test_figures_are_possible(
    make_cell: MakeCell, make_outcomes: MakeOutcomes, make_result: MakeResult, figures: dict[str, float], told: str
) -> None:
    """A gate on a lower bound would pass by an interval upside down."""
    result, _ = make_result(make_cell(), make_outcomes(clean=[1, 1], robust=[0, 1]))
    with pytest.raises(ValidationError, match=told):
        Result(**dict(result) | {"summary": result.summary | figures})


@pytest.mark.parametrize("number", [-1, 2**63, 10**400])
def test_numbers_of_passes_are_possible(
    make_cell: MakeCell, make_outcomes: MakeOutcomes, make_result: MakeResult, number: int
) -> None:
    """No table could hold a larger one."""
    result, _ = make_result(make_cell(), make_outcomes(clean=[1, 1], robust=[0, 1]))
    for name in ("forwards", "backwards"):
        with pytest.raises(ValidationError, match=name):
            Result(**dict(result) | {name: number})


@pytest.mark.parametrize("kind", ["pipe", "holes"])
def test_a_file_that_is_no_record_is_not_read(tmp_path: Path, kind: str) -> None:
    """A pipe would block, and a file of 50 GiB would not fit into memory."""
    path = tmp_path / "a.json"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        with path.open("wb") as file:
            file.truncate(50 * 2**30)
    with pytest.raises(
        UserError, match=r"cannot be read \(it (is a pipe|has more than 1,073,741,824 bytes).*: remove it"
    ):
        read_record(path, Failure, name="failure", hint="remove it")

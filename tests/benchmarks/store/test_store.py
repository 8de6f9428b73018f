from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from robustbench_cli.benchmarks.store import store as store_module
from robustbench_cli.benchmarks.store.records import Failure
from robustbench_cli.benchmarks.store.store import Store
from robustbench_cli.core.errors import UserError

from ..conftest import MakeCell, MakeOutcomes, MakeResult
from .conftest import Filled


def files(store: Store) -> list[str]:
    """The names in a store."""
    return sorted(path.name for path in (store.path / "cells").iterdir())


def test_what_is_stored_comes_back(filled: Filled) -> None:
    """Result and outcomes are read as they were written, by another object too."""
    store, result, outcomes = filled()
    other = Store(store.path)
    assert result.cell in other
    assert other.result(result.cell.id) == result
    assert list(other.results()) == [result]
    assert np.array_equal(other.outcomes(result.cell.id).perturbed, outcomes.perturbed)
    assert list(other.failures()) == []


def test_a_result_is_never_changed(filled: Filled, make_outcomes: MakeOutcomes, make_result: MakeResult) -> None:
    """Publishing the same cell again, with whatever outcomes, leaves every byte as it was."""
    store, result, _ = filled()
    before = {path: path.read_bytes() for path in (store.path / "cells").iterdir()}
    store.publish(*make_result(result.cell, make_outcomes(clean=[1], robust=[1]), seconds=9.0))
    assert {path: path.read_bytes() for path in (store.path / "cells").iterdir()} == before


def test_a_kill_between_the_files_loses_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make_cell: MakeCell,
    make_outcomes: MakeOutcomes,
    make_result: MakeResult,
) -> None:
    """Killed after the outcomes and before the result, the cell is not done, and is stored by the next try."""
    store = Store(tmp_path)
    whole = store_module.write_atomically

    def killed_at_the_result(path: Path, content: bytes) -> None:
        if path.suffix == ".json":
            raise KeyboardInterrupt
        whole(path, content)

    first = make_result(make_cell(), make_outcomes(clean=[1, 1], robust=[0, 1]))
    with monkeypatch.context() as patch:
        patch.setattr(store_module, "write_atomically", killed_at_the_result)
        with pytest.raises(KeyboardInterrupt):
            store.publish(*first)
    assert first[0].cell not in store
    assert list(store.results()) == []
    second = make_result(make_cell(), make_outcomes(clean=[1, 1], robust=[0, 0]))
    store.publish(*second)
    assert store.result(second[0].cell.id) == second[0]
    assert store.outcomes(second[0].cell.id).worst().tolist() == [[1, 1]]


@pytest.mark.parametrize("at", [".npz", ".json"])
def test_a_result_always_finds_its_outcomes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make_cell: MakeCell,
    make_outcomes: MakeOutcomes,
    make_result: MakeResult,
    at: str,
) -> None:
    """Where another machine stores the same cell between two steps, with other draws, either result has its own outcomes."""
    cell = make_cell()
    ours = make_result(cell, make_outcomes(clean=[20] * 4, robust=[3] * 4, draws=20))
    theirs = make_result(cell, make_outcomes(clean=[20] * 4, robust=[11] * 4, draws=20))
    whole = store_module.write_atomically

    def overtaken(path: Path, content: bytes) -> None:
        if path.suffix == at:
            monkeypatch.setattr(store_module, "write_atomically", whole)
            Store(tmp_path).publish(*theirs)
        whole(path, content)

    monkeypatch.setattr(store_module, "write_atomically", overtaken)
    store = Store(tmp_path)
    store.publish(*ours)
    assert len(list(store.results())) == 1
    assert (store.outcomes(cell.id).worst() == 0).mean() == store.result(cell.id).summary["robust_accuracy"]


def test_a_failure_is_kept_until_the_cell_is_done(tmp_path: Path, filled: Filled, make_cell: MakeCell) -> None:
    """A failure is told with its radius, is no result, and goes when the cell is finished."""
    store = Store(tmp_path / "store")
    failure = Failure(cell=make_cell(), eps="8/255", error="out of memory", traceback="Traceback ...")
    store.publish_failure(failure)
    assert failure.cell not in store
    assert list(store.results()) == []
    assert list(store.failures()) == [failure]
    filled()
    assert list(store.failures()) == []
    assert not [name for name in files(store) if "failed" in name]


def test_what_another_process_removes_meanwhile_is_no_damage(tmp_path: Path, make_cell: MakeCell) -> None:
    """A failure whose cell is finished while the others are read."""
    store = Store(tmp_path)
    for seed in (0, 1):
        store.publish_failure(Failure(cell=make_cell(seed=seed), eps="8/255", error="out of memory"))
    reading = store.failures()
    first = next(reading)
    (other,) = {make_cell(seed=seed).id for seed in (0, 1)} - {first.cell.id}
    (tmp_path / "cells" / f"{other}.failed.json").unlink()
    assert list(reading) == []


def test_a_store_that_is_not_there_is_named(tmp_path: Path) -> None:
    """Reading a folder without results says how to get some."""
    for read in (Store(tmp_path / "nothing").results, Store(tmp_path / "nothing").failures):
        with pytest.raises(UserError, match=r"no store at .*nothing: run 'advdef attack --store .*nothing' first"):
            list(read())


def test_a_place_that_cannot_be_written_is_named(
    tmp_path: Path, make_cell: MakeCell, make_outcomes: MakeOutcomes, make_result: MakeResult
) -> None:
    """A folder that cannot be made is one line, before anything is computed and when a result is stored."""
    (tmp_path / "file").write_text("")
    store = Store(tmp_path / "file" / "store")
    with pytest.raises(UserError, match=r"cannot write in .*cells: Not a directory; choose a writable location"):
        store.ensure_writable()
    with pytest.raises(UserError, match=r"cannot write .*\.npz: Not a directory"):
        store.publish(*make_result(make_cell(), make_outcomes(clean=[1], robust=[0])))


def test_looking_whether_it_can_be_written_leaves_nothing(tmp_path: Path) -> None:
    """The folder is made, and is empty."""
    store = Store(tmp_path / "new" / "store")
    store.ensure_writable()
    assert files(store) == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff\xfe", b"null", b'{"cell": 1}'])
def test_a_file_that_is_no_result_is_named(filled: Filled, content: bytes) -> None:
    """A damaged file is one line with the way out, and the other results are still there."""
    store, result, _ = filled()
    _, other, _ = filled(seed=1)
    path = store.path / "cells" / f"{result.cell.id}.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"{path} is damaged, .*: remove {path} to run the cell again") as error:
        list(store.results())
    assert "\n" not in str(error.value)
    path.unlink()
    assert list(store.results()) == [other]


@pytest.mark.parametrize("change", [{"summary": None}, {"more": 1}, {"cell": {}}])
def test_a_result_of_another_version_is_named(filled: Filled, change: dict[str, object]) -> None:
    """It is as it was stored, and not what this version makes of a result."""
    store, result, _ = filled()
    path = store.path / "cells" / f"{result.cell.id}.json"
    content = json.loads(path.read_text())
    del content["sha256"]
    body = json.dumps(content | change)[1:].encode()
    path.write_bytes(b'{"sha256": "%s",\n%s' % (hashlib.sha256(body).hexdigest().encode(), body))
    with pytest.raises(UserError, match=rf"{path} is not a result of this version of advdef \(.*\): remove {path}"):
        store.result(result.cell.id)


def test_a_result_under_another_name_is_named(filled: Filled) -> None:
    """A file that was copied over another cell's would give that cell a wrong result."""
    store, result, _ = filled()
    path = store.path / "cells" / f"{result.cell.id}.json"
    wrong = path.with_name(f"{'0' * 20}.json")
    path.rename(wrong)
    with pytest.raises(UserError, match=f"{wrong} has the cell {result.cell.id}: remove it, or restore its name"):
        list(store.results())


def test_a_result_of_the_former_default_precision_is_read(filled: Filled) -> None:
    """Earlier versions called the default float32; its cell keeps its hash, and full float32 is a cell of its own."""
    store, result, _ = filled()
    path = store.path / "cells" / f"{result.cell.id}.json"
    content = json.loads(path.read_text())
    del content["sha256"], content["precision"]
    content["cell"]["precision"] = "float32"
    body = json.dumps(content)[1:].encode()
    path.write_bytes(b'{"sha256": "%s",\n%s' % (hashlib.sha256(body).hexdigest().encode(), body))
    assert store.result(result.cell.id) == result
    assert result.cell.model_copy(update={"precision": "float32"}) not in store


def test_outcomes_that_are_gone_or_damaged_are_named(filled: Filled) -> None:
    """Where the file beside a result is missing, cut off or another's, the line says what to remove."""
    store, result, _ = filled()
    path = store.path / "cells" / f"{result.cell.id}.{result.outcomes_sha256[:12]}.npz"
    way_out = f"remove {path.with_name(result.cell.id)}.json to run the cell again"
    content = path.read_bytes()
    for damaged in (content[:-10], b"", content.replace(b"labels", b"lapels")):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=f"{path} is damaged, its content is not what was stored: {way_out}"):
            store.outcomes(result.cell.id)
        with pytest.raises(UserError, match=f"{path} is damaged"):
            list(store.results())
    path.unlink()
    for read in (store.outcomes, store.result):
        with pytest.raises(UserError, match=rf"{path} cannot be read \(No such file or directory\): {way_out}"):
            read(result.cell.id)


@pytest.mark.parametrize(
    ("written", "instead"),
    [
        ('"robust_accuracy": 0.25', '"robust_accuracy": 0.75'),
        ('"flags": [],', '"flags": ["no-eot"],'),
        ('"sha256"', '"sha1"'),
    ],
)
def test_figures_that_were_changed_are_not_believed(filled: Filled, written: str, instead: str) -> None:
    """A result that reads well and is not the one that was stored is named, with the way out."""
    store, result, _ = filled()
    path = store.path / "cells" / f"{result.cell.id}.json"
    content = path.read_text()
    assert written in content
    path.write_text(content.replace(written, instead))
    with pytest.raises(UserError, match=f"{path} is damaged, .*: remove {path} to run the cell again"):
        store.result(result.cell.id)


def test_a_summary_that_was_emptied_is_not_believed(filled: Filled) -> None:
    """Nor is one whose figures were taken out."""
    store, result, _ = filled()
    path = store.path / "cells" / f"{result.cell.id}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"summary": {}}))
    with pytest.raises(UserError, match=f"{path} is damaged"):
        list(store.results())


def test_a_folder_in_the_place_of_a_result_is_named(filled: Filled) -> None:
    """It is found before anything is computed for its cell."""
    store, result, _ = filled()
    path = store.path / "cells" / f"{result.cell.id}.json"
    path.unlink()
    path.mkdir()
    assert result.cell in store
    with pytest.raises(UserError, match=rf"{path} cannot be read \(it is a folder, not a file\): remove {path}"):
        store.result(result.cell.id)


def test_outcomes_of_another_version_are_named(
    tmp_path: Path, make_cell: MakeCell, make_outcomes: MakeOutcomes, make_result: MakeResult
) -> None:
    """What is whole and yet not understood was written by other code."""
    store = Store(tmp_path)
    outcomes = make_outcomes(clean=[1], robust=[0])
    for content in (b"PK\x03\x04 no archive", b"nothing"):
        result, _ = make_result(make_cell(seed=len(content)), outcomes)
        result = result.model_copy(update={"outcomes_sha256": hashlib.sha256(content).hexdigest()})
        store.publish(result, content)
        with pytest.raises(UserError, match="was stored by another version of advdef"):
            store.outcomes(result.cell.id)


def test_a_result_is_plain_json(filled: Filled) -> None:
    """Other programs read it with any JSON parser; a figure that there is not is null."""
    store, result, _ = filled()
    content = json.loads((store.path / "cells" / f"{result.cell.id}.json").read_text())
    assert content["cell"]["eps"] == result.cell.eps
    assert content["summary"]["robust_accuracy"] == 0.25
    assert "NaN" not in (store.path / "cells" / f"{result.cell.id}.json").read_text()

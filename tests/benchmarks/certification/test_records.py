from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from robustbench_cli.benchmarks.certification.by_interval_bounds import Intervals
from robustbench_cli.benchmarks.certification.by_smoothing import Smoothing, VoteCounts
from robustbench_cli.benchmarks.certification.certify import stored
from robustbench_cli.benchmarks.certification.records import (
    CertificationFiles,
    CertificationHeader,
    all_files,
    counted,
    leftovers,
    take,
)
from robustbench_cli.benchmarks.store.cell import content_hash
from robustbench_cli.benchmarks.store.store import CERTIFICATION
from robustbench_cli.core.errors import UserError

OLDER_STORE = Path(__file__).parent / "older_store"
"""Certifications of two networks that an earlier version stored (commit 74bedeb, before the move into rooms)."""

SMOOTHING = Smoothing(sigma=0.5, n0=4, samples=10)


def header_of(labels: list[int], *, seed: int = 0) -> CertificationHeader:
    """The header of a certification by smoothing."""
    identity = {
        "version": 1,
        "checkpoint": "c",
        "data": "d",
        "smoothing": SMOOTHING.parameters,
        "seed": seed,
    }
    return CertificationHeader(identity=identity, described={"dataset": "digits"}, labels=labels, versions={})


def files_of(store: Path, header: CertificationHeader) -> CertificationFiles:
    return CertificationFiles(store / CERTIFICATION, content_hash(header.identity), VoteCounts)


def votes(index: int) -> VoteCounts:
    return VoteCounts(index=index, top=0, count=index, seconds=0.5)


def content(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (store / CERTIFICATION).iterdir()}


def test_a_store_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    """The rows have the figures that the earlier version printed, and a merge copies its files byte for byte."""
    bounds, smoothed = stored(OLDER_STORE, damaged=pytest.fail)
    assert (bounds.procedure, smoothed.procedure) == (Intervals(), Smoothing(sigma=0.25, n0=5, samples=20))
    (row,) = bounds.rows([0.0], alpha=0.001)
    assert (row.cell, row.n, row.forwards, row.flags) == ("05bcde564760614f9914", 3, 105, "no-bound-training")
    expected = [0.333333333333, 0.0614919447204, 0.792340399198, 4.06901041667e-05, 0.333333333333]
    figures = [row.certified_accuracy, row.certified_accuracy_low, row.certified_accuracy_high]
    assert [*figures, row.average_certified_radius, row.abstained] == pytest.approx(expected)
    at_zero, at_half_sigma = smoothed.rows([0.0, 0.125], alpha=0.001)
    assert (at_zero.cell, at_zero.seed, at_zero.forwards) == ("96e80a006e9be37eebba", 0, 100)
    assert (at_zero.certified_accuracy, at_half_sigma.certified_accuracy) == (0.5, 0.0)
    assert at_zero.average_certified_radius == pytest.approx(0.0277582392523)
    assert take(tmp_path, OLDER_STORE, damaged=pytest.fail) == 2
    assert content(tmp_path) == content(OLDER_STORE)


def test_a_certification_of_an_earlier_version_is_resumed(tmp_path: Path) -> None:
    """Records that are added to its file make it complete, and the file is what the earlier version wrote."""
    shutil.copytree(OLDER_STORE, tmp_path, dirs_exist_ok=True)
    files, header = next(pair for pair in all_files(tmp_path, pytest.fail) if "smoothing" in pair[1].identity)
    (path,) = (tmp_path / CERTIFICATION).glob("96e8*.jsonl")
    complete, records = path.read_bytes(), files.records()
    path.write_bytes(b"".join(complete.splitlines(keepends=True)[:2]))
    assert counted(tmp_path, damaged=pytest.fail) == (1, 1)
    files.begin(header)
    for index in (2, 3):
        files.add(records[index])
    assert path.read_bytes() == complete
    assert counted(tmp_path, damaged=pytest.fail) == (2, 0)


def test_a_half_written_line_counts_as_missing(tmp_path: Path) -> None:
    """The next process begins a new line behind it, and no intact line is lost."""
    header = header_of([0, 0, 0])
    files = files_of(tmp_path, header)
    files.begin(header)
    files.add(votes(0))
    files.add(votes(1))
    (path,) = (tmp_path / CERTIFICATION).glob("*.jsonl")
    path.write_bytes(path.read_bytes()[:-5])
    assert files.records(damaged=pytest.fail) == {0: votes(0)}
    assert (header.is_complete(files.records()), counted(tmp_path, damaged=pytest.fail)) == (False, (0, 1))
    files.begin(header)
    files.add(votes(2))
    errors: list[UserError] = []
    assert files.records(damaged=errors.append) == {0: votes(0), 2: votes(2)}
    assert [str(error) for error in errors] == [
        f"{path}: 1 of its lines are damaged: the same 'advdef certify' computes these images again"
    ]
    files.add(votes(1))
    assert header.is_complete(files.records(damaged=pytest.fail))


def test_a_merge_adds_what_is_missing(tmp_path: Path) -> None:
    """Two stores with some images each become one certification; a second merge copies nothing."""
    header = header_of([0, 0, 0, 0])
    for store, indices in ((tmp_path / "one", (0, 1)), (tmp_path / "two", (1, 2, 3))):
        files = files_of(store, header)
        files.begin(header)
        for index in indices:
            files.add(votes(index))
    assert take(tmp_path / "one", tmp_path / "two", damaged=pytest.fail) == 1
    assert files_of(tmp_path / "one", header).records() == {index: votes(index) for index in range(4)}
    assert take(tmp_path / "one", tmp_path / "two", damaged=pytest.fail) == 0


def renamed(path: Path) -> None:
    path.rename(path.with_name(f"{'a' * 20}.json"))


def without_a_procedure(path: Path) -> None:
    header = CertificationHeader(identity={"version": 9}, described={}, labels=[0], versions={})
    path.unlink()
    files_of(path.parents[1], header).begin(header)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-2]), "is damaged, its content is not what was stored"),
        (renamed, f"{'a' * 20}.json has the cell"),
        (without_a_procedure, "was stored by another version of advdef: remove it and"),
    ],
)
def test_a_bad_header_is_named_and_skipped(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    """One error, and the other certification of the store is read."""
    for seed in (0, 1):
        header = header_of([0], seed=seed)
        files_of(tmp_path, header).begin(header)
        files_of(tmp_path, header).add(votes(0))
    damage(tmp_path / CERTIFICATION / f"{content_hash(header_of([0]).identity)}.json")
    errors: list[UserError] = []
    assert counted(tmp_path, damaged=errors.append) == (1, 0)
    (error,) = errors
    assert message in str(error)


def test_records_without_a_header_are_leftovers(tmp_path: Path) -> None:
    """Once they are old enough; a certification with its header never is."""
    header = header_of([0])
    files_of(tmp_path, header).begin(header)
    files_of(tmp_path, header).add(votes(0))
    headless = tmp_path / CERTIFICATION / f"{'a' * 20}.images.jsonl"
    headless.touch()
    assert leftovers(tmp_path, older_than=60) == []
    for path in (tmp_path / CERTIFICATION).iterdir():
        os.utime(path, (0, 0))
    assert leftovers(tmp_path, older_than=60) == [headless]

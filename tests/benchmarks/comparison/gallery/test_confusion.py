from __future__ import annotations

from pathlib import Path

import pytest

from robustbench_cli.benchmarks.comparison.gallery import broken_defenses, honest_models
from robustbench_cli.benchmarks.comparison.gallery.confusion import (
    BEGIN,
    END,
    GalleryRun,
    run_gallery,
    selected,
    units_of,
    write_between_marks,
)
from robustbench_cli.benchmarks.comparison.gallery.results import Entry, Unit, read_entries
from robustbench_cli.core.errors import UserError


def test_the_gallery_is_large_enough() -> None:
    """At least 40 broken defenses and 15 honest models."""
    assert len(broken_defenses()) >= 40
    assert len(honest_models()) >= 15


def test_each_model_is_audited_once_per_seed() -> None:
    """The few first trainings of the slow models begin first, and their others last."""
    units = units_of(GalleryRun(seeds=6, first_seed=10))
    expected = {Unit(name) for name in broken_defenses()}
    expected |= {Unit(name, seed) for name in honest_models() for seed in range(10, 16)}
    assert len(units) == len(expected)
    assert set(units) == expected
    slow = [name for name, model in honest_models().items() if model.slow]
    assert {unit.seed for unit in units[: 4 * len(slow)]} == {10, 11, 12, 13}
    assert {unit.name for unit in units[-2 * len(slow) :]} == set(slow)


def test_a_run_keeps_its_results(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """An honest model raises nothing, a broken one what was made for it; the tables from the file are those of the run."""
    results, document = tmp_path / "results.jsonl", tmp_path / "page.md"
    document.write_text(f"{BEGIN}\n{END}\n", encoding="utf-8")
    models = ["strided", "reversed-backward"]
    run_gallery(GalleryRun(only=models, seeds=1, budget="quick", jobs=2, results=results, document=document))
    entries = {entry.unit: entry for entry in read_entries([results])}
    assert entries[Unit("strided", 0, "quick")].evidence == {}
    assert entries[Unit("reversed-backward", None, "quick")].expected == ["wrong-gradient"]
    page = document.read_text(encoding="utf-8")
    assert "Not audited" not in page
    assert "[2/2, " in capfd.readouterr().err

    run_gallery(GalleryRun(only=models, seeds=1, budget="quick", read=[results], document=document))
    assert document.read_text(encoding="utf-8") == page
    run_gallery(GalleryRun(only=models, seeds=2, budget="quick", read=[results], document=document))
    assert "strided, seed 1." in document.read_text(encoding="utf-8")


def test_a_run_that_is_cut_off_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Here all."""
    run_gallery(GalleryRun(only=["strided", "one-hot"], seeds=1, seconds=0, results=tmp_path / "results.jsonl"))
    assert "Not audited: one-hot; strided, seed 0." in capsys.readouterr().out
    assert read_entries([tmp_path / "results.jsonl"]) == []


def test_results_are_not_both_read_and_received(tmp_path: Path) -> None:
    """Nothing is audited where tables are made from files, so no file could receive a result."""
    path = tmp_path / "results.jsonl"
    with pytest.raises(UserError, match="--results"):
        run_gallery(GalleryRun(only=["one-hot"], read=[path], results=path))


def test_a_document_without_marks_is_refused_before_any_audit(tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text("no marks", encoding="utf-8")
    results = tmp_path / "results.jsonl"
    results.write_text(f"{Entry(unit=Unit('one-hot')).model_dump_json()}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"page\.md"):
        run_gallery(GalleryRun(only=["one-hot"], results=results, document=document))
    assert len(read_entries([results])) == 1


def test_an_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(UserError, match="one-hot"):
        selected(["one-hto"])


def test_a_document_keeps_what_stands_outside_the_marks(tmp_path: Path) -> None:
    """The old tables are replaced; without marks nothing is written."""
    document = tmp_path / "page.md"
    document.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    write_between_marks(document, "new")
    assert document.read_text(encoding="utf-8") == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
    document.write_text(f"before\n{END}\n{BEGIN}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"page\.md"):
        write_between_marks(document, "new")
    assert document.read_text(encoding="utf-8") == f"before\n{END}\n{BEGIN}\n"

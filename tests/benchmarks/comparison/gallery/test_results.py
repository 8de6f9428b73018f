from __future__ import annotations

from pathlib import Path

import pytest

from robustbench_cli.benchmarks.comparison.gallery import broken_defenses, honest_models
from robustbench_cli.benchmarks.comparison.gallery.results import (
    Entry,
    Unit,
    alarms_table,
    noticed_table,
    read_entries,
    summary,
)
from robustbench_cli.core.errors import UserError

ROOT = Path(__file__).parents[4]

NOTICED = Entry(
    unit=Unit("rounded-logits"),
    evidence={"rugged-loss": "a", "coarse-logits": "b"},
    under_pgd=0.8,
    truth=0.05,
    autoattack=("randomized",),
)
MISSED = Entry(unit=Unit("one-hot"), evidence={"unstable": "c"}, truth=0.1)


def cells(table: str) -> list[list[str]]:
    """The cells of a table's rows, without the header."""
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()[2:]]


def test_a_missed_defense_stands_out() -> None:
    """A check that was not made for the trick does not count as noticing it."""
    assert cells(noticed_table([NOTICED, MISSED])) == [
        ["one-hot", "", "0.10", "**missed**", "unstable", "not run"],
        ["rounded-logits", "0.80", "0.05", "coarse-logits", "rugged-loss", "randomized"],
    ]


def test_a_failed_audit_is_a_row() -> None:
    """Its error is text in one cell, in both tables."""
    broken = Entry(unit=Unit("one-hot"), error="E: a | b")
    assert cells(noticed_table([broken])) == [["one-hot", "", "", r"error: E: a \| b", "", ""]]
    honest = Entry(unit=Unit("trades", 3), error="E: a | b")
    assert cells(alarms_table([honest])) == [["trades", "1", r"error, seed 3: E: a \| b"]]


def test_false_alarms_are_counted_by_check() -> None:
    """Each check with its number of trainings, in alphabetical order; nothing where there are none."""
    entries = [
        Entry(unit=Unit("trades", 1), evidence={"z": "", "b": ""}),
        Entry(unit=Unit("trades", 0), evidence={"b": ""}),
        Entry(unit=Unit("strided", 0)),
    ]
    assert cells(alarms_table(entries)) == [["strided", "1", ""], ["trades", "2", "b 2, z 1"]]
    assert "False alarms on 2 honest models: 3, in 2 of 3 trainings." in summary(entries, [])


def test_the_summary_counts_what_was_noticed_and_what_is_missing() -> None:
    """AutoAttack is counted where it ran."""
    text = summary([NOTICED, MISSED], [Unit("trades", 12), Unit("one-hot"), Unit("trades", 7)])
    assert "notice 1 of 2 broken defenses" in text
    assert "AutoAttack flags 1 of 1" in text
    assert "Not audited: one-hot; trades, seed 7 12." in text
    assert f"budget standard on {NOTICED.day}, {NOTICED.software}: 2." in text


def test_entries_survive_their_file(tmp_path: Path) -> None:
    """Those of several files are one run."""
    paths = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for path, entry in zip(paths, (NOTICED, MISSED), strict=True):
        path.write_text(f"{entry.model_dump_json()}\n", encoding="utf-8")
    assert read_entries(paths) == [NOTICED, MISSED]
    with pytest.raises(UserError, match=r"a\.jsonl, line 1: rounded-logits was audited twice"):
        read_entries([paths[0], paths[0]])


@pytest.mark.parametrize("content", [b"{}", b'{"unit": ["a"]', b"\xff", None])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    """So is one that is not there."""
    path = tmp_path / "a.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.jsonl"):
        read_entries([path])


def test_an_unknown_model_in_a_file_is_named(tmp_path: Path) -> None:
    """A defense that the gallery no longer has."""
    path = tmp_path / "a.jsonl"
    path.write_text(f"{Entry(unit=Unit('one-hto')).model_dump_json()}\n", encoding="utf-8")
    with pytest.raises(UserError, match="one-hot"):
        read_entries([path])


def test_the_tables_of_the_page_are_those_of_its_results() -> None:
    """``make gallery`` writes both, so nothing on the page comes from another run."""
    entries = read_entries([ROOT / "docs/gallery.jsonl"])
    page = (ROOT / "docs/gallery.md").read_text(encoding="utf-8")
    assert f"{noticed_table([entry for entry in entries if entry.unit.seed is None])}\n" in page
    assert f"{alarms_table([entry for entry in entries if entry.unit.seed is not None])}\n" in page
    audited = {entry.unit.name for entry in entries}
    assert audited == {*broken_defenses(), *honest_models()}

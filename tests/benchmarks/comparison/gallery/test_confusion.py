from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from robustbench_cli.benchmarks.comparison.gallery import broken_defenses, honest_models
from robustbench_cli.benchmarks.comparison.gallery.confusion import (
    BEGIN,
    END,
    Alarms,
    Noticed,
    alarms_table,
    examine_honest,
    noticed_table,
    selected,
    write_between_marks,
)
from robustbench_cli.core.errors import UserError


def cells(table: str) -> list[list[str]]:
    """The cells of a table's rows, without the header."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_the_gallery_is_large_enough() -> None:
    """At least 40 broken defenses and 15 honest models."""
    assert len(broken_defenses()) >= 40
    assert len(honest_models()) >= 15


def test_a_missed_defense_stands_out() -> None:
    """A check that was not made for the trick does not count as noticing it."""
    noticed = Noticed(
        name="a", made_for_it=("x", "y"), checks=["w", "y"], under_pgd=0.8, truth=0.05, autoattack=("randomized",)
    )
    missed = Noticed(name="b", made_for_it=("x",), checks=["w"], under_pgd=float("nan"), truth=0.1, autoattack=None)
    assert cells(noticed_table([noticed, missed])) == [
        ["a", "0.80", "0.05", "y", "w", "randomized"],
        ["b", "", "0.10", "**missed**", "w", "not run"],
    ]


def test_false_alarms_are_counted_by_check() -> None:
    """Each check with its number of trainings, in alphabetical order; nothing where there are none."""
    rows = [Alarms(name="a", seeds=20, by_check=Counter({"z": 1, "b": 3})), Alarms(name="b", seeds=20)]
    assert cells(alarms_table(rows)) == [["a", "20", "b 3, z 1"], ["b", "20", ""]]


def test_an_honest_model_raises_nothing() -> None:
    """A plainly trained network under the quick audit."""
    assert examine_honest("strided", honest_models()["strided"], seeds=1, budget="quick").by_check == Counter()


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

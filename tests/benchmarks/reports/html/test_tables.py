from __future__ import annotations

import pytest

from robustbench_cli.benchmarks.reports.formats import as_text
from robustbench_cli.benchmarks.reports.html.tables import all_rows, class_table, number, percent, success_table
from robustbench_cli.benchmarks.reports.readable import records

from .conftest import MakeContent


def test_all_rows_are_those_of_markdown(make_content: MakeContent) -> None:
    """The same headers and texts in the same order."""
    table = make_content().table
    made = all_rows(table, records(table))
    report = as_text(table, "markdown").replace("**", "").replace("\\~", "~").splitlines()
    header, _, *lines = [line for line in report if line.startswith("|")]
    assert [name for name, _ in made.headers] == header.strip("| ").split(" | ")
    assert [[field.text for field in row] for row in made.rows] == [line.strip("| ").split(" | ") for line in lines]


def test_rows_are_sorted_by_numbers(make_content: MakeContent) -> None:
    """Not by their texts: a threat by its radius, passes by their number."""
    table = make_content().table
    made = all_rows(table, records(table))
    column = {name: index for index, (name, _) in enumerate(made.headers)}
    first = made.rows[0]
    assert first[column["threat"]].value == pytest.approx(0.1)
    assert first[column["passes"]].value == 150
    assert first[column["robust"]].value == table["robust_accuracy"][0]
    assert first[column["defense"]].value is None


def test_numbers_have_texts() -> None:
    """A missing value has a dash, and sorts as a text."""
    assert (percent(0.4567).text, percent(0.4567).value, percent(None).text) == ("45.7", 0.4567, "-")
    assert (number(1234567.8).text, number(0.25, 1).text, number(None).value) == ("1,234,568", "0.2", None)


def test_a_matrix_is_shaded_by_its_shares() -> None:
    """Tenths are the shades; what is missing has none."""
    rates = [("none", "pgd", 1.0), ("none", "cw", 0.04), ("hrs", "cw", 0.46)]
    made = success_table(
        "success", [(label, {"attack": attack, "attack_success_rate": rate}) for label, attack, rate in rates]
    )
    assert made.headers == [("model", False), ("pgd", True), ("cw", True)]
    assert [[field.kind for field in row] for row in made.rows] == [["", "num q10", "num q0"], ["", "num", "num q5"]]
    assert made.rows[1][1].text == "-"


def test_of_many_classes_the_weakest_are_shown() -> None:
    """Up to 20 are all there, in order."""
    few = class_table("recall", [("a", {1: 0.5, 0: 0.25}), ("b", {0: 1.0, 1: None})])
    assert [name for name, _ in few.headers] == ["model", "0", "1"]
    assert [field.text for field in few.rows[1]] == ["b", "100.0", "-"]
    many = class_table("recall", [("a", {number: number / 30 for number in range(30, -1, -1)})])
    assert [name for name, _ in many.headers[1:]] == [str(number) for number in range(20)]
    assert many.caption == "recall; the 20 classes with the smallest mean"

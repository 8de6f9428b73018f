from __future__ import annotations

import pandas as pd
import pytest

from robustbench_cli.benchmarks.evaluation.checks import load_checks
from robustbench_cli.benchmarks.reports.legend import _letters, flag_marks, flag_texts, quick_look


def test_the_legend_has_the_texts_of_the_checks() -> None:
    """Read from the source, they are those of the classes; names that are no check have none."""
    texts = {check.name: check.text for check in load_checks()}
    assert flag_texts([*texts, "", "no-such-flag"]) == texts
    assert flag_texts(["no-eot"]) == {"no-eot": texts["no-eot"]}


def test_each_flag_has_a_mark() -> None:
    """A letter each, in the order of the legend; flags of another version come last; a row may have none."""
    table = pd.DataFrame({"flags": ["zero-gradient;no-eot", "later", "", None]})
    assert flag_marks(table) == {"no-eot": "a", "zero-gradient": "b", "later": "c"}
    assert [_letters(number) for number in (0, 25, 26, 27, 701, 702)] == ["a", "z", "aa", "ab", "zz", "aaa"]


@pytest.mark.parametrize(
    ("marked", "begins"),
    [([True], "quick look: "), ([True, False], "1 of 2 rows is a quick look: "), ([False, False], None)],
)
def test_a_quick_look_names_the_suite_that_looks_further(marked: list[bool], begins: str | None) -> None:
    """In one line, with how many rows it is said of where it is not said of all; a table without such a column has none."""
    lines = quick_look(pd.DataFrame({"quick_look": marked}))
    assert len(lines) == (begins is not None)
    for line in lines:
        assert line.startswith(begins or "")
        assert "--suite standard" in line
        assert "\n" not in line
    assert quick_look(pd.DataFrame({"seed": [0]})) == []

from __future__ import annotations

import pandas as pd
from markdown_it import MarkdownIt

from robustbench_cli.benchmarks.reports.latex import latex_table
from robustbench_cli.benchmarks.reports.legend import flag_texts
from robustbench_cli.benchmarks.reports.markdown import markdown_report

from .result_rows import HRS, NAMES, table


def rendered(text: str) -> str:
    """As GitHub renders it: CommonMark with tables."""
    return MarkdownIt("commonmark").enable("table").render(text)


def test_a_comment_has_a_heading_gates_a_table_and_a_legend() -> None:
    """Read back by a parser of Markdown: the best accuracy is bold, and the flag is explained below."""
    rows = table({}, HRS, {"defense": "rse", "checkpoint": "a/rse", "flags": "no-eot;later"})
    text = markdown_report(rows, gates=[(True, "robust_accuracy ≥ 0.2"), (False, "a|b"), (None, "missing")])
    html = rendered(text)
    assert html.startswith("<h3>Adversarial robustness: dataset digits, model small-cnn, n 100, seed 0</h3>\n<ul>\n")
    assert "<li>✓ robust_accuracy ≥ 0.2</li>\n<li>✗ a|b</li>\n<li>? missing</li>\n</ul>\n<table>" in html
    assert html.count("<tr>") == 4
    assert "<strong>50.0 [40,60]</strong>" in html
    assert "27.9 [22,33]</td>" in html
    assert f"<li>no-eot: {flag_texts(['no-eot'])['no-eot']}</li>" in html
    assert "<li>later: an unknown flag</li>" in html
    assert '<th style="text-align:right">robust</th>' in html


def test_columns_are_those_that_the_user_chose() -> None:
    """In this order; a shared value that has a column is not in the heading too."""
    text = markdown_report(table({}, HRS), ["seed", "defense", "seconds", "checkpoint"])
    assert text.startswith("### Adversarial robustness: dataset digits, model small-cnn, n 100\n")
    assert (
        "| seed | defense | seconds | checkpoint |\n| --: | :-- | --: | :-- |\n| 0 | none | - | a/none.safetensors |\n"
        in text
    )


def test_an_empty_table_says_so() -> None:
    """It is still a comment."""
    assert markdown_report(table({}).iloc[:0]) == "### Adversarial robustness\n\nNo rows.\n"


def test_names_stay_text() -> None:
    """A hostile name opens no tag, link or column, in the heading, the table and the gates."""
    rows = table(*({"defense": name, "attack": name, "flags": name.replace(";", "")} for name in NAMES))
    for content in (rows, rows.assign(dataset=NAMES[4]), pd.concat([rows, table(HRS)])):
        html = rendered(markdown_report(content, gates=[(True, name) for name in NAMES]))
        assert html.count("<tr>") == len(content) + 1
        assert html.count("<td") == html.count("<th ") * len(content)
        for tag in ("<script", "<a ", "<img", "<code"):
            assert tag not in html


def test_names_of_ten_kilobytes_are_cut() -> None:
    """In the heading, the cells and the legend, also in LaTeX."""
    name = "x" * 10_000
    rows = table({"dataset": name, "defense": name, "flags": name}, {"dataset": name})
    for text in (markdown_report(rows), latex_table(rows)):
        assert "x" * 497 in text
        assert "x" * 501 not in text

from __future__ import annotations

import re
from typing import Any

from pylatexenc.latexwalker import LatexEnvironmentNode, LatexMacroNode, LatexWalker

from robustbench_cli.benchmarks.reports.latex import latex_table

from .result_rows import HRS, NAMES, table

KNOWN = {
    *(
        "toprule",
        "midrule",
        "bottomrule",
        "addlinespace",
        "textbf",
        "texttt",
        "scriptsize",
        "footnotesize",
        "raggedright",
    ),
    *("par", "smallskip", "textbackslash", "textasciitilde", "textasciicircum", "textless", "textgreater", "textbar"),
    *("char", "\\", "&", "%", "$", "#", "_", "{", "}", ","),
}
"""The commands of a table; all are in LaTeX itself or in booktabs."""


def nodes(text: str) -> list[Any]:
    """All nodes of a strict parse: unbalanced braces, environments and math are errors."""
    found = []

    def walk(of: list[Any]) -> None:
        for node in of:
            found.append(node)
            walk(getattr(node, "nodelist", None) or [])
            arguments = getattr(getattr(node, "nodeargd", None), "argnlist", None) or ()
            walk([argument for argument in arguments if argument is not None])

    walk(LatexWalker(text, tolerant_parsing=False).get_latex_nodes()[0])
    return found


def body(text: str) -> list[str]:
    """The rows between the rules."""
    return re.split(r"\\midrule\n", text)[1].split(r"\bottomrule")[0].splitlines()


def test_a_table_for_a_paper() -> None:
    """Rows as booktabs sets them, the best accuracy bold, intervals small, flags as letters, minus signs as such."""
    text = latex_table(table({}, HRS, {"defense": "rse", "checkpoint": "c", "flags": "no-eot", "robust_accuracy": 0.9}))
    first, space, hrs, _, rse = body(text)
    assert first.startswith(
        r"none & pgd & linf 8/255 & 1 & 93.8 {\scriptsize [89, 97]} & 27.9 {\scriptsize [22, 33]} &"
    )
    assert space == r"\addlinespace"
    assert r"& \textbf{50.0} {\scriptsize [40, 60]} &" in hrs
    assert r"& $-$0.5 &" in hrs
    assert rse.endswith(r"& a \\")
    assert r"a: \texttt{no-eot}, " in text
    assert text.count(" \\\\\n") == 4
    assert {row.count("&") for row in (first, hrs, rse)} == {text.split("\n")[3].count("&")}


def test_columns_are_those_that_the_user_chose() -> None:
    """A column of files has its name as header."""
    text = latex_table(table({}, HRS), ["defense", "eot", "robust_accuracy_low"])
    assert "\ndefense & eot & robust\\_accuracy\\_low \\\\\n" in text
    assert body(text)[0] == r"none & 1 & 22.0 \\"
    assert latex_table(table({}).iloc[:0]) == "% no rows\n"


def test_names_stay_text() -> None:
    """Whatever a store calls things by, a strict parser finds the rows of the table and no command but ours."""
    text = latex_table(table(*({"dataset": name, "defense": name, "attack": name, "flags": name} for name in NAMES)))
    parsed = nodes(text)
    assert {node.macroname for node in parsed if isinstance(node, LatexMacroNode)} <= KNOWN
    assert [node.environmentname for node in parsed if isinstance(node, LatexEnvironmentNode)] == ["tabular"]
    rows = [line for line in body(text) if line != r"\addlinespace"]
    assert len(rows) == len(NAMES)
    assert all(character == "\n" or " " <= character < "\x7f" or character in "éŵ" for character in text)
    assert len({len(re.findall(r"(?<!\\)&", row)) for row in rows}) == 1

"""Writes the tables of README.md from the files beside it: ``hrs-fashion.csv``, ``clean.csv`` and ``reprogramming.csv``.

Run ``python docs/hrs/tables.py`` after the commands that README.md names.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

HERE = Path(__file__).parent
PAPERS = {
    "fgsm": "FGSM",
    "pgd(steps=20,step_size=0.1,random_start=false)": "PGD",
    "cw-pgd(steps=20,step_size=0.1,random_start=false)": "CW-PGD",
}
"""The attacks with the paper's step size, and what the paper calls them."""

ADAPTIVE = {"pgd(steps=50)": "PGD", "cw-pgd(steps=50)": "CW-PGD", "worst-case": "worst"}
"""The attacks whose steps fall to 0, and the worst of them."""

RULES = {"one-draw": "one draw", "deterministic": "deterministic counterpart", "frozen": "one frozen draw"}
"""The rules of decision, and what heads their columns."""


def main() -> None:
    """Puts each table between its marks in README.md."""
    page = HERE / "README.md"
    page.write_text(filled(page.read_text()))


def filled(page: str) -> str:
    """The page with its tables, each between ``<!-- NAME -->`` and ``<!-- end -->``; or a word that there is none."""
    attacks, reprogrammings = read("hrs-fashion.csv"), read("reprogramming.csv")
    tables = {
        "paper": paper(attacks),
        "adaptive": adaptive(attacks),
        "ablation": ablation(attacks),
        "reprogramming": reprogramming(reprogrammings),
    }
    for name, table in tables.items():
        begin, rest = page.split(f"<!-- {name} -->\n")
        _, end = rest.split("<!-- end -->", maxsplit=1)
        page = f"{begin}<!-- {name} -->\n{table or 'Not measured yet.'}\n<!-- end -->{end}"
    return page


def read(name: str) -> pd.DataFrame:
    """A table beside this file; an empty one where there is none. Of each row, ``rule`` and ``defense`` without it."""
    path = HERE / name
    if not path.exists():
        return pd.DataFrame()
    table = pd.read_csv(path, dtype={"eot": str, "eps": str}, keep_default_na=False, na_values=[""])
    rules = table.defense.str.extract(r"decision=([a-z-]+)")[0].fillna("one-draw")
    plain = table.defense.map(lambda label: re.sub(r"decision=[a-z-]+,?", "", label).replace("()", ""))
    return table.assign(rule=rules, defense=plain)


def paper(table: pd.DataFrame) -> str:
    """Targets reached by attacks like the paper's, in percent, by gradients of one draw and of ten; and the mean DES."""
    of = table[(table.targeted == "all") & (table.rule == "one-draw")]
    strengths = sorted(of.eps.unique(), key=float)
    clean, scores = clean_accuracies(), mean_efficiencies(table)
    lines = []
    for defense, rows in of.groupby("defense", sort=False):
        cells = [
            _by_eot(rows[(rows.attack == attack) & (rows.eps == eps)], lambda row: _percent(row.attack_success_rate))
            for attack in PAPERS
            for eps in strengths
        ]
        own = scores.loc[defense].dropna() if defense in scores.index else {}
        des = " / ".join(f"{own[eot]:.1f}" for eot in ("1", "10") if eot in own)
        lines.append([str(defense), _percent(clean[defense]), *cells, des])
    heads = [f"{name} {eps}" for name in PAPERS.values() for eps in strengths]
    return markdown(["defense", "clean", *heads, "mean DES, one draw / ten"], lines)


def clean_accuracies() -> pd.Series:
    """The clean accuracy of each defense, one draw deciding, on all test images."""
    return read("clean.csv").set_index("defense").clean_accuracy


def mean_efficiencies(table: pd.DataFrame) -> pd.DataFrame:
    """The mean Defense Efficiency Score over the strengths of the attacks like the paper's: a line a defense, a column an ``eot``.

    Points of attack success prevented, of the few images that are attacked towards every class, for a point of clean
    accuracy lost on all.
    """
    of = table[table.attack.isin(PAPERS) & (table.targeted == "all") & (table.rule == "one-draw")]
    unwrapped_model = of[of.defense == "none"].set_index(["attack", "eps"]).attack_success_rate
    clean = clean_accuracies()
    of = of[of.defense != "none"]
    prevented = of.join(unwrapped_model, on=["attack", "eps"], suffixes=("", "_undefended")).eval(
        "attack_success_rate_undefended - attack_success_rate"
    )
    lost = clean["none"] - of.defense.map(clean)
    return (prevented / lost).groupby([of.defense, of.eot], sort=False).mean().unstack("eot")


def adaptive(table: pd.DataFrame) -> str:
    """Robust accuracy under the attacks that adapt, in percent with its interval."""
    of = table[
        table.attack.isin(ADAPTIVE) & (table.targeted == "no") & (table.rule == "one-draw") & (table.eot != "frozen")
    ]
    strengths = sorted(of.eps.unique(), key=float)
    lines = []
    for defense, rows in of.groupby("defense", sort=False):
        cells = [_robust(rows[(rows.attack == attack) & (rows.eps == eps)]) for eps in strengths for attack in ADAPTIVE]
        lines.append([str(defense), _percent(rows.clean_accuracy.iloc[0]), *cells])
    heads = [f"{name} {eps}" for eps in strengths for name in ADAPTIVE.values()]
    return markdown(["defense", "clean", *heads], lines)


def ablation(table: pd.DataFrame) -> str:
    """What is left under CW-PGD of each defense that draws, of what it is without its draws, and of one frozen draw."""
    of = table[(table.targeted == "no") & (table.attack == "cw-pgd(steps=50)")]
    lines = []
    for (defense, eps), rows in of.groupby(["defense", "eps"], sort=False):
        if set(rows.rule) != set(RULES):
            continue
        clean = [_percent(rows[rows.rule == rule].clean_accuracy.iloc[0]) for rule in ("one-draw", "deterministic")]
        fresh = (rows.rule == "one-draw") & (rows.eot == "frozen")
        asked = [(rows.rule == "one-draw") & ~fresh, rows.rule == "deterministic", rows.rule == "frozen", fresh]
        lines.append([str(defense), eps, *clean, *(_robust(rows[each]) for each in asked)])
    heads = ["one draw", "counterpart", "frozen draw, on itself", "frozen draw, on fresh ones"]
    return markdown(["defense", "eps", "clean, one draw", "clean, counterpart", *heads], lines)


def reprogramming(table: pd.DataFrame) -> str:
    """How well each model does another task, in percent with its interval, by the rule that decides."""
    if table.empty:
        return ""
    lines = []
    for defense, rows in table.groupby("defense", sort=False):
        cells = [_robust(rows[rows.rule == rule], "reprogrammed_accuracy") for rule in RULES]
        lines.append([str(defense), *cells])
    return markdown(["defense", *RULES.values()], lines)


def _by_eot(rows: pd.DataFrame, word: Callable[[Any], str]) -> str:
    """``one / ten`` draws; a deterministic model has one draw whatever is asked for."""
    found = {row.eot: word(row) for row in rows.itertuples()}
    return " / ".join(found[eot] for eot in ("1", "10") if eot in found)


def _robust(rows: pd.DataFrame, name: str = "robust_accuracy") -> str:
    """A share in percent with its interval, of the one row that there is; the interval is rounded outwards."""
    if rows.empty:
        return ""
    (share,), (low,), (high,) = (rows[f"{name}{end}"] for end in ("", "_low", "_high"))
    return f"{_percent(share)} [{math.floor(100 * low)},{math.ceil(100 * high)}]"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def markdown(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table; nothing where it has no line."""
    rows = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}", *rows]) if rows else ""


if __name__ == "__main__":
    main()

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest

FOLDER = Path(__file__).parents[3] / "docs" / "hrs"
MEASURED = FOLDER / "hrs-fashion.csv"


@pytest.fixture
def tables() -> ModuleType:
    """The script that writes the tables."""
    spec = importlib.util.spec_from_file_location("tables", FOLDER / "tables.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cells(markdown: str) -> dict[str, list[str]]:
    """The rows of a table by their first cell."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines()]
    return {first: others for first, *others in lines}


def test_the_page_has_the_measured_tables(tables: ModuleType) -> None:
    """The script changes nothing in the page, so no figure is typed by hand."""
    page = (FOLDER / "README.md").read_text()
    assert tables.filled(page) == page


def test_the_figures_are_those_of_the_attacks(tables: ModuleType) -> None:
    """Each figure equals the one in the CSV file, looked up independently."""
    table = pd.read_csv(MEASURED, keep_default_na=False)

    def row(**columns: Any) -> Any:
        rows = table
        for name, value in columns.items():
            rows = rows[rows[name].astype(str) == str(value)]
        (only,) = rows.itertuples()
        return only

    attack = "cw-pgd(steps=20,step_size=0.1,random_start=false)"
    one, ten = (row(defense="hrs", attack=attack, eps=0.1, eot=eot, targeted="all") for eot in (1, 10))
    rows = cells(tables.paper(tables.read("hrs-fashion.csv")))
    column = rows["defense"].index("CW-PGD 0.1")
    assert rows["hrs"][column] == " / ".join(f"{100 * float(cell.attack_success_rate):.1f}" for cell in (one, ten))
    undefended = row(defense="none", attack=attack, eps=0.1, targeted="all")
    assert rows["none"][column] == f"{100 * float(undefended.attack_success_rate):.1f}"
    worst = row(defense="gaussian-noise", attack="worst-case", eps=0.05, targeted="no")
    rows = cells(tables.adaptive(tables.read("hrs-fashion.csv")))
    share, interval = rows["gaussian-noise"][rows["defense"].index("worst 0.05")].split()
    low, high = map(int, interval.strip("[]").split(","))
    assert share == f"{100 * float(worst.robust_accuracy):.1f}"
    assert low <= 100 * float(worst.robust_accuracy_low) < low + 1
    assert high - 1 < 100 * float(worst.robust_accuracy_high) <= high


def test_the_mean_efficiency_follows_the_paper(tables: ModuleType) -> None:
    """Points of attack success prevented per point of clean accuracy lost on all images, over attacks and radii."""
    table = pd.read_csv(MEASURED, keep_default_na=False).to_dict("records")
    clean = pd.read_csv(FOLDER / "clean.csv", index_col="defense").clean_accuracy
    success = {
        (row["defense"], row["attack"], row["eps"], str(row["eot"])): float(row["attack_success_rate"])
        for row in table
        if row["targeted"] == "all" and row["attack"] in tables.PAPERS
    }
    scores = [
        (success["none", attack, eps, "1"] - success["hrs", attack, eps, "10"]) / (clean["none"] - clean["hrs"])
        for attack in tables.PAPERS
        for eps in (0.05, 0.1)
    ]
    means = tables.mean_efficiencies(tables.read("hrs-fashion.csv"))
    assert means.loc["hrs", "10"] == pytest.approx(sum(scores) / 6)


def test_a_defense_is_beside_its_deterministic_counterpart(
    tables: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With any label. A deterministic defense has no row in the ablation, and one column of the reprogramming."""
    labels = {
        "hrs{}+pgd-at(eps=0.1)": "hrs+pgd-at(eps=0.1)",
        "defensive-dropout({}rate=0.3)": "defensive-dropout(rate=0.3)",
    }
    lines = ["defense,attack,eps,targeted,eot,clean_accuracy,robust_accuracy,robust_accuracy_low,robust_accuracy_high"]
    models = [
        "defense,reprogrammed_accuracy,reprogrammed_accuracy_low,reprogrammed_accuracy_high",
        "none,0.9,0.85,0.95",
    ]
    for number, rule in enumerate(("one-draw", "deterministic", "frozen")):
        for label in labels:
            decision = "" if rule == "one-draw" else f"decision={rule}"
            decision = f"({decision})" if decision and "{}+" in label else f"{decision}," if decision else ""
            defense = f'"{label.format(decision)}"'
            models.append(f"{defense},0.{number + 5},0.4,0.8")
            for eot in ("exact", "frozen") if rule == "one-draw" else ("1",):
                share = {"exact": 0.1, "frozen": 0.4}.get(eot, number / 10 + 0.1)
                lines.append(f"{defense},cw-pgd(steps=50),0.1,no,{eot},0.9,{share},0,1")
    lines.append("none,cw-pgd(steps=50),0.1,no,1,0.9,0,0,1")
    (tmp_path / "hrs-fashion.csv").write_text("\n".join(lines))
    (tmp_path / "reprogramming.csv").write_text("\n".join(models))
    monkeypatch.setattr(tables, "HERE", tmp_path)
    rows = cells(tables.ablation(tables.read("hrs-fashion.csv")))
    assert list(rows) == ["defense", "---", *labels.values()]
    for plain in labels.values():
        assert rows[plain][3:] == ["10.0 [0,100]", "20.0 [0,100]", "30.0 [0,100]", "40.0 [0,100]"]
    rows = cells(tables.reprogramming(tables.read("reprogramming.csv")))
    assert rows["none"] == ["90.0 [85,95]", "", ""]
    assert rows["defensive-dropout(rate=0.3)"] == [f"{share}0.0 [40,80]" for share in (5, 6, 7)]

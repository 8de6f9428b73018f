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
    """The script beside the page."""
    spec = importlib.util.spec_from_file_location("tables", FOLDER / "tables.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cells(markdown: str) -> dict[str, list[str]]:
    """The lines of a table by their first cell."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines()]
    return {first: others for first, *others in lines}


def test_the_page_has_what_was_measured(tables: ModuleType) -> None:
    """No figure of its tables was typed by hand."""
    page = (FOLDER / "README.md").read_text()
    assert tables.filled(page) == page


def test_the_tables_are_those_of_the_attacks(tables: ModuleType) -> None:
    """Each figure is that of its row, found in the file by another way."""
    table = pd.read_csv(MEASURED, keep_default_na=False)

    def row(**words: Any) -> Any:
        found = table
        for name, value in words.items():
            found = found[found[name].astype(str) == str(value)]
        (only,) = found.itertuples()
        return only

    attack = "cw-pgd(steps=20,step_size=0.1,random_start=false)"
    one, ten = (row(defense="hrs", attack=attack, eps=0.1, eot=eot, targeted="all") for eot in (1, 10))
    found = cells(tables.paper(tables.read("hrs-fashion.csv")))
    place = found["defense"].index("CW-PGD 0.1")
    assert found["hrs"][place] == " / ".join(f"{100 * float(each.attack_success_rate):.1f}" for each in (one, ten))
    undefended = row(defense="none", attack=attack, eps=0.1, targeted="all")
    assert found["none"][place] == f"{100 * float(undefended.attack_success_rate):.1f}"
    worst = row(defense="gaussian-noise", attack="worst-case", eps=0.05, targeted="no")
    found = cells(tables.adaptive(tables.read("hrs-fashion.csv")))
    share, interval = found["gaussian-noise"][found["defense"].index("worst 0.05")].split()
    low, high = map(int, interval.strip("[]").split(","))
    assert share == f"{100 * float(worst.robust_accuracy):.1f}"
    assert low <= 100 * float(worst.robust_accuracy_low) < low + 1
    assert high - 1 < 100 * float(worst.robust_accuracy_high) <= high


def test_the_mean_efficiency_is_the_papers(tables: ModuleType) -> None:
    """Points of attack success prevented for a point of clean accuracy lost on all images, over attacks and radii."""
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
    found = tables.mean_efficiencies(tables.read("hrs-fashion.csv"))
    assert found.loc["hrs", "10"] == pytest.approx(sum(scores) / 6)


def test_a_defense_stands_beside_what_it_is_without_its_draws(
    tables: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its label is; one without draws has no line among the ablations, and one column of reprogramming."""
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
            said = "" if rule == "one-draw" else f"decision={rule}"
            said = f"({said})" if said and "{}+" in label else f"{said}," if said else ""
            defense = f'"{label.format(said)}"'
            models.append(f"{defense},0.{number + 5},0.4,0.8")
            for eot in ("exact", "frozen") if rule == "one-draw" else ("1",):
                share = {"exact": 0.1, "frozen": 0.4}.get(eot, number / 10 + 0.1)
                lines.append(f"{defense},cw-pgd(steps=50),0.1,no,{eot},0.9,{share},0,1")
    lines.append("none,cw-pgd(steps=50),0.1,no,1,0.9,0,0,1")
    (tmp_path / "hrs-fashion.csv").write_text("\n".join(lines))
    (tmp_path / "reprogramming.csv").write_text("\n".join(models))
    monkeypatch.setattr(tables, "HERE", tmp_path)
    found = cells(tables.ablation(tables.read("hrs-fashion.csv")))
    assert list(found) == ["defense", "---", *labels.values()]
    for plain in labels.values():
        assert found[plain][3:] == ["10.0 [0,100]", "20.0 [0,100]", "30.0 [0,100]", "40.0 [0,100]"]
    found = cells(tables.reprogramming(tables.read("reprogramming.csv")))
    assert found["none"] == ["90.0 [85,95]", "", ""]
    assert found["defensive-dropout(rate=0.3)"] == [f"{share}0.0 [40,80]" for share in (5, 6, 7)]

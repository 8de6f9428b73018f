"""Draws curve.svg from curve.csv: accuracy against the radius, before and after the attacks adapt.

Run ``python docs/images/curve.py`` in an environment with matplotlib. curve.yaml says how curve.csv was measured.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib import pyplot as plt

HERE = Path(__file__).parent
TITLES = {
    "none": "no defense",
    "hrs": "Hierarchical Random Switching",
    "gaussian-noise": "Gaussian noise",
    "pgd-at": "adversarial training",
}


def main() -> None:
    """Writes curve.svg beside this file."""
    mpl.rcParams.update({"svg.hashsalt": "advdef", "font.size": 9})
    mpl.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})
    table = pd.read_csv(HERE / "curve.csv", keep_default_na=False, dtype={"eps": str, "eot": str})
    figure, axes = plt.subplots(1, 4, figsize=(9, 2.8), sharex=True, sharey=True, layout="constrained")
    for axis, (defense, title) in zip(axes, TITLES.items(), strict=True):
        rows = table[table.defense == defense]
        draw(axis, rows[(rows.attack == "pgd") & (rows.eot == "1")], "PGD, one draw per gradient (no EOT)", "C1", "--")
        draw(axis, rows[rows.attack == "worst-case"], "per-image worst case of adaptive attacks", "C0", "-")
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("eps (linf)")
    axes[0].set_ylabel("accuracy in %")
    axes[0].set_ylim(0, 102)
    axes[0].set_xlim(0, 0.26)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    figure.savefig(HERE / "curve.svg", metadata={"Date": None})
    svg = (HERE / "curve.svg").read_text(encoding="utf-8")
    (HERE / "curve.svg").write_text("\n".join(line.rstrip() for line in svg.splitlines()) + "\n", encoding="utf-8")


def draw(axis: plt.Axes, rows: pd.DataFrame, label: str, color: str, style: str) -> None:
    """Draws robust accuracy over eps with its 95 % confidence interval; at 0 it is the clean accuracy."""
    first = rows.iloc[0]
    eps = [0.0, *rows.eps.astype(float)]
    value, low, high = (
        [100 * float(first[f"clean_accuracy{end}"]), *(100 * rows[f"robust_accuracy{end}"].astype(float))]
        for end in ("", "_low", "_high")
    )
    axis.plot(eps, value, style, color=color, label=label, marker="o", markersize=3)
    axis.fill_between(eps, low, high, color=color, alpha=0.15, linewidth=0)


if __name__ == "__main__":
    main()

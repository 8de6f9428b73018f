"""Draws the figures of README.md from ``hrs-fashion.csv`` and ``clean.csv`` beside it.

Run ``python docs/hrs/plot.py`` in an environment with matplotlib.
"""

from __future__ import annotations

import matplotlib as mpl
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from tables import HERE, PAPERS, clean_accuracies, mean_efficiencies, read

DRAWN = {attack: name for attack, name in PAPERS.items() if name != "FGSM"}
"""The attacks that take several steps."""

EPS = 0.05
"""The radius at which accuracy is set against robustness."""


def main() -> None:
    """Writes three SVG files beside this one."""
    mpl.rcParams.update(
        {"svg.hashsalt": "advdef", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    )
    table = read("hrs-fashion.csv")
    table = table[table.rule == "one-draw"]
    success(table)
    tradeoff(table)
    efficiency(table)


def success(table: pd.DataFrame) -> None:
    """Attack success rate against strength, with gradients of one draw and of ten."""
    figure, axes = plt.subplots(len(DRAWN), 2, figsize=(7, 5.5), sharex=True, sharey=True, layout="constrained")
    for row, (label, title) in zip(axes, DRAWN.items(), strict=True):
        for axis, eot in zip(row, ("1", "10"), strict=True):
            # A deterministic model has rows with one draw only.
            chosen = table[(table.attack == label) & (table.targeted == "all") & (table.eot.isin({eot, "1"}))]
            for defense, cells in chosen.groupby("defense", sort=False):
                shown = cells[cells.eot == (eot if (cells.eot == eot).any() else "1")].sort_values("eps")
                axis.plot(shown.eps.astype(float), 100 * shown.attack_success_rate, marker="o", ms=3, label=defense)
            axis.set_title(f"{title}, {'one draw' if eot == '1' else 'ten draws'} a gradient")
    for axis in axes[-1]:
        axis.set_xlabel("eps (linf)")
    for axis in axes[:, 0]:
        axis.set_ylabel("targets reached, %")
    axes[0, 0].legend(fontsize=7, frameon=False)
    save(figure, "success.svg")


def tradeoff(table: pd.DataFrame) -> None:
    """Clean accuracy against the worst case of the adaptive attacks."""
    figure, axis = plt.subplots(figsize=(4.5, 3.5), layout="constrained")
    clean = clean_accuracies()
    chosen = table[(table.attack == "worst-case") & (table.targeted == "no") & (table.eps.astype(float) == EPS)]
    for cell in chosen.itertuples():
        axis.errorbar(
            100 * clean[cell.defense],
            100 * cell.robust_accuracy,
            yerr=[
                [100 * (cell.robust_accuracy - cell.robust_accuracy_low)],
                [100 * (cell.robust_accuracy_high - cell.robust_accuracy)],
            ],
            fmt="o",
            capsize=2,
            label=cell.defense,
        )
    axis.set_xlabel("clean accuracy, %")
    axis.set_ylabel(f"robust accuracy at {EPS}, %")
    axis.legend(fontsize=7, frameon=False)
    save(figure, "tradeoff.svg")


def efficiency(table: pd.DataFrame) -> None:
    """The mean Defense Efficiency Score over attacks like the paper's."""
    means = mean_efficiencies(table)
    figure, axis = plt.subplots(figsize=(5, 3), layout="constrained")
    assert isinstance(axis, Axes)
    means.rename(columns={"1": "one draw", "10": "ten draws"}).plot.barh(ax=axis)
    axis.invert_yaxis()
    axis.set_ylabel("")
    axis.set_xlabel("mean DES")
    axis.legend(title="a gradient", frameon=False)
    save(figure, "efficiency.svg")


def save(figure: plt.Figure, name: str) -> None:
    """Writes a figure, the same bytes each time."""
    figure.savefig(HERE / name, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    main()

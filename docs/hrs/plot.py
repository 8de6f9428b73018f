"""Draws the figures of README.md from ``hrs-fashion.csv`` and ``clean.csv`` beside it.

Run ``python docs/hrs/plot.py`` in an environment with matplotlib.
"""

from __future__ import annotations

import matplotlib as mpl
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from tables import HERE, PAPERS, clean_accuracies, mean_efficiencies, read

MULTI_STEP = {attack: name for attack, name in PAPERS.items() if name != "FGSM"}
"""The attacks with several steps."""

EPS = 0.05
"""The radius of the trade-off between clean and robust accuracy."""


def main() -> None:
    """Writes three SVG files beside this script."""
    mpl.rcParams.update(
        {"svg.hashsalt": "advdef", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    )
    table = read("hrs-fashion.csv")
    table = table[table.rule == "one-draw"]
    success(table)
    tradeoff(table)
    efficiency(table)


def success(table: pd.DataFrame) -> None:
    """Plots attack success against the radius, with gradients of one draw and of ten."""
    figure, axes = plt.subplots(len(MULTI_STEP), 2, figsize=(7, 5.5), sharex=True, sharey=True, layout="constrained")
    for axes_row, (label, title) in zip(axes, MULTI_STEP.items(), strict=True):
        for axis, eot in zip(axes_row, ("1", "10"), strict=True):
            # A deterministic model always has one draw.
            rows = table[(table.attack == label) & (table.targeted == "all") & (table.eot.isin({eot, "1"}))]
            for defense, cells in rows.groupby("defense", sort=False):
                shown = cells[cells.eot == (eot if (cells.eot == eot).any() else "1")].sort_values("eps")
                axis.plot(shown.eps.astype(float), 100 * shown.attack_success_rate, marker="o", ms=3, label=defense)
            axis.set_title(f"{title}, {'one draw' if eot == '1' else 'ten draws'} per gradient")
    for axis in axes[-1]:
        axis.set_xlabel("eps (linf)")
    for axis in axes[:, 0]:
        axis.set_ylabel("targets reached, %")
    axes[0, 0].legend(fontsize=7, frameon=False)
    save(figure, "success.svg")


def tradeoff(table: pd.DataFrame) -> None:
    """Plots robust accuracy under the worst adaptive attack against clean accuracy."""
    figure, axis = plt.subplots(figsize=(4.5, 3.5), layout="constrained")
    clean = clean_accuracies()
    rows = table[(table.attack == "worst-case") & (table.targeted == "no") & (table.eps.astype(float) == EPS)]
    for cell in rows.itertuples():
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
    """Plots the mean Defense Efficiency Score over the paper's attacks and radii."""
    means = mean_efficiencies(table)
    figure, axis = plt.subplots(figsize=(5, 3), layout="constrained")
    assert isinstance(axis, Axes)
    means.rename(columns={"1": "one draw", "10": "ten draws"}).plot.barh(ax=axis)
    axis.invert_yaxis()
    axis.set_ylabel("")
    axis.set_xlabel("mean DES")
    axis.legend(title="draws per gradient", frameon=False)
    save(figure, "efficiency.svg")


def save(figure: plt.Figure, name: str) -> None:
    """Writes a figure; equal figures give equal bytes."""
    figure.savefig(HERE / name, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    main()

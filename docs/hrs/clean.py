"""Writes ``clean.csv``: the clean accuracy of each model of the suite hrs-fashion on all test images, in one draw each.

Run ``python docs/hrs/clean.py`` after ``advdef sweep hrs-fashion``, which leaves the models in the user's cache folder.
"""

from __future__ import annotations

import pandas as pd
import torch
from tables import HERE

from robustbench_cli.benchmarks.suites.load import read_suite
from robustbench_cli.benchmarks.suites.plan import plan
from robustbench_cli.benchmarks.training.model_cache import ModelCache

IMAGES = 10_000


def main() -> None:
    """Measures each model by its own decision rule."""
    planned = plan(
        read_suite("hrs-fashion"),
        cache_for=lambda dataset, recipe, seed: ModelCache(
            dataset=dataset, data_dir=None, device=torch.device("cpu"), seed=seed, recipe=recipe
        ),
        seed=0,
    )
    rows = {}
    for model in planned.models:
        defended = model.defended()
        if "decision=" not in defended.defense and defended.defense not in rows:
            accuracy, images = model.cache.accuracy(defended, IMAGES)
            rows[defended.defense] = {"defense": defended.defense, "clean_accuracy": accuracy, "n": images}
    pd.DataFrame(rows.values()).to_csv(HERE / "clean.csv", index=False)


if __name__ == "__main__":
    main()

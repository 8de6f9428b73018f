"""Writes ``clean.csv``: the clean accuracy of each model of the suite hrs-fashion on all test images, with one draw per image.

Run ``python docs/hrs/clean.py`` after ``advdef sweep hrs-fashion``: it reads the models from the user's cache folder.
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
        cache=lambda dataset, recipe, seed: ModelCache(
            dataset=dataset, data_dir=None, device=torch.device("cpu"), seed=seed or 0, recipe=recipe
        ),
        seed=0,
    )
    lines = {}
    for model in planned.models:
        defended = model.defended()
        if "decision=" not in defended.defense and defended.defense not in lines:
            right, images = model.cache.accuracy(defended, IMAGES)
            lines[defended.defense] = {"defense": defended.defense, "clean_accuracy": right, "n": images}
    pd.DataFrame(lines.values()).to_csv(HERE / "clean.csv", index=False)


if __name__ == "__main__":
    main()

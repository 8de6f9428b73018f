"""Writes ``clean.csv``: how many of all test images each model of the suite hrs-fashion gets right, in one draw each.

Run ``python docs/hrs/clean.py`` after ``advdef sweep hrs-fashion``, whose models it finds in the user's cache folder.
"""

from __future__ import annotations

import pandas as pd
import torch
from tables import HERE

from robustbench_cli.benchmarks.suites.load import read_suite
from robustbench_cli.benchmarks.suites.plan import plan
from robustbench_cli.benchmarks.training.model_cache import Preparation

IMAGES = 10_000


def main() -> None:
    """Measures each model by its own rule."""
    planned = plan(
        read_suite("hrs-fashion"),
        prepare=lambda dataset, recipe, seed: Preparation(
            dataset=dataset, data_dir=None, device=torch.device("cpu"), seed=seed or 0, recipe=recipe
        ),
        seed=0,
    )
    lines = {}
    for model in planned.models:
        subject = model.subject()
        if "decision=" not in subject.defense and subject.defense not in lines:
            right, images = model.prepare.accuracy(subject, IMAGES)
            lines[subject.defense] = {"defense": subject.defense, "clean_accuracy": right, "n": images}
    pd.DataFrame(lines.values()).to_csv(HERE / "clean.csv", index=False)


if __name__ == "__main__":
    main()

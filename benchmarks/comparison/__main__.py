"""Prints the measured comparisons as tables in Markdown."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from statistics import median

import torch

from robustbench_cli.benchmarks.comparison.contest import Contest, Entry, distances, robust_accuracy
from robustbench_cli.benchmarks.comparison.costs import hrs_forward, pgd_overhead
from robustbench_cli.benchmarks.comparison.models import ADVERSARIAL, PLAIN, right, test_images, trained
from robustbench_cli.benchmarks.comparison.peers import BATCH, LIBRARIES, CWBudget, PGDBudget
from robustbench_cli.benchmarks.comparison.tables import markdown
from robustbench_cli.benchmarks.comparison.timing import ratio
from robustbench_cli.benchmarks.datasets.base.slice import Slice
from robustbench_cli.benchmarks.devices import keep_freed_memory
from robustbench_cli.benchmarks.subject import Subject

OURS, *PEERS = LIBRARIES

PGD_RUNS = (
    (PLAIN, PGDBudget(norm="linf", eps=0.1)),
    (ADVERSARIAL, PGDBudget(norm="linf", eps=0.1)),
    (PLAIN, PGDBudget(norm="linf", eps=0.02)),
    (PLAIN, PGDBudget(norm="l2", eps=0.5)),
    (ADVERSARIAL, PGDBudget(norm="l2", eps=1.5)),
)


def main() -> None:
    """Reads the command line and prints what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m robustbench_cli.benchmarks.comparison", description=__doc__)
    parser.add_argument("what", choices=("cost", "peers"), help="what our own cost, or how they stand beside others'")
    parser.add_argument("--turns", type=int, default=3, help="times that everything is run (3)")
    parser.add_argument("--images", type=int, default=500, help="test images for PGD (500)")
    parser.add_argument("--cw-images", type=int, default=100, help="test images that are right, for C&W (100)")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=PEERS, help="the libraries to compare with (all)")
    given = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s), {platform.machine()}, {platform.system()}")
    if given.what == "cost":
        cost(turns=given.turns, images=given.images)
    else:
        peers(given.peers, turns=given.turns, images=given.images, cw_images=given.cw_images)


def cost(*, turns: int, images: int) -> None:
    """Prints what our own attacks and defenses cost."""
    keep_freed_memory()
    subject = trained()[ADVERSARIAL]
    ...

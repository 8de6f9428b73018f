"""``advdef demo``: the whole way on the embedded data."""

from __future__ import annotations

import time
from typing import Literal

from robustbench_cli.cli import console
from robustbench_cli.cli.options import Common, command, computing

__all__ = ["demo"]

DATASET = "digits"
DEFENSES = ("none", "gaussian-noise", "hrs")
ATTACKS: tuple[tuple[str, int | Literal["auto"]], ...] = (("pgd", 1), ("pgd", "auto"), ("cw", "auto"))
IMAGES = 100


@command("demo")
@computing
def demo(common: Common) -> None:
    """Train three models on the embedded digits, attack them, and print the table; about a minute.

    No defense, Gaussian noise and Hierarchical Random Switching; PGD with one draw a gradient, PGD and C&W adapted to
    the defense (the expectation over draws).
    """
    from robustbench_cli.benchmarks.suites.config import AttackEntry, AttackGroup, DefenseConfig, SuiteConfig
    from robustbench_cli.cli.session import run_suite

    started = time.perf_counter()
    config = SuiteConfig.from_options(
        dataset=DATASET,
        n=IMAGES,
        defenses=[[DefenseConfig(name=name)] for name in DEFENSES],
        groups=[AttackGroup(attacks=tuple(AttackEntry(name=name, eot=eot) for name, eot in ATTACKS))],
    )
    run_suite(common, config)
    console.note(
        f"{time.perf_counter() - started:.0f} s; the results are in {common.store}: advdef report {common.store}"
    )

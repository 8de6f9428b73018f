"""``advdef demo``: the whole way on the embedded data."""

from __future__ import annotations

import functools
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
    from robustbench_cli.benchmarks.suites.config import AttackEntry
    from robustbench_cli.benchmarks.suites.grid import attack_choices
    from robustbench_cli.benchmarks.suites.plan import Part
    from robustbench_cli.benchmarks.suites.suite import Suite
    from robustbench_cli.cli.parameters import defense_specs
    from robustbench_cli.cli.session import attack_all, model_cache, raise_failures, report_results

    started = time.perf_counter()
    choices = [choice for name, eot in ATTACKS for choice in attack_choices(AttackEntry(name=name, eot=eot))]
    with console.progress() as shown:
        cache = model_cache(common, DATASET, {}, shown)
        trainings = [cache.training(defenses=defense_specs([name], {})) for name in DEFENSES]
        models = functools.cache(lambda: [cache.trained(each) for each in trainings])
        part = Part(suite=Suite(dataset=DATASET, n=IMAGES, attacks=choices), defended_models=models)
        results, failures = attack_all(common, [part], shown)
    report_results(common.store, results, failures)
    console.note(
        f"{time.perf_counter() - started:.0f} s; the results are in {common.store}: advdef report {common.store}"
    )
    raise_failures(failures)

"""``advdef demo``: the whole way on the embedded data."""

from __future__ import annotations

import time

from robustbench_cli import console
from robustbench_cli.options import Common, command, computing

__all__ = ["demo"]

DATASET = "digits"
DEFENSES = ("none", "gaussian-noise", "hrs")
ATTACKS = (("pgd", {}, 1), ("pgd", {}, "auto"), ("cw", {"steps": 100, "binary_search_steps": 4}, "auto"))
IMAGES = 300


@command("demo")
@computing
def demo(common: Common) -> None:
    """Train three models on the embedded digits, attack them, and print the table; about a minute.

    No defense, Gaussian noise and Hierarchical Random Switching; PGD with one draw a gradient, PGD and C&W adapted to the
    defense (the expectation over draws).
    """
    from robustbench_cli.attacks import registry as attacks
    from robustbench_cli.benchmarks.subject import method_spec
    from robustbench_cli.benchmarks.suite import AttackChoice, Suite
    from robustbench_cli.running import attack_all, preparation, raise_failures, table_of
    from robustbench_cli.tables import for_terminal
    from robustbench_cli.words import defense_specs

    started = time.perf_counter()
    choices = []
    for name, parameters, eot in ATTACKS:
        kind, spec = method_spec(attacks, name, parameters)
        choices.append(AttackChoice(spec=spec, norms=kind.norms, minimal_norm=kind.minimal_norm, eot=eot))  # type: ignore
    with console.progress() as shown:
        prepare = preparation(common, DATASET, {}, shown)
        subjects = [prepare.trained(prepare.training(defenses=defense_specs([name], {}))) for name in DEFENSES]
        results, failures = attack_all(common, Suite(dataset=DATASET, n=IMAGES, attacks=choices), subjects, shown)
    console.report(for_terminal(table_of(common.store, results)))
    console.note(f"{time.perf_counter() - started:.0f} s; the results are in {common.store}: advdef report {common.store}")
    raise_failures(failures)

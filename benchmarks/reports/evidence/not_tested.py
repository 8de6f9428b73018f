"""What the rows of a report do not cover: attacks, norms, knowledge of the attacker, corruptions and checks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from robustbench_cli import attacks
from robustbench_cli.attacks.base.norm import NORMS
from robustbench_cli.benchmarks.corruptions import BENCHMARK
from robustbench_cli.benchmarks.reports.evidence.threat_model import KNOWLEDGE, installed_attack, knowledge_of
from robustbench_cli.benchmarks.reports.html.content import AuditedGroup, PageContent
from robustbench_cli.benchmarks.store.cell import Cell

__all__ = ["OUT_OF_SCOPE", "not_tested"]

OUT_OF_SCOPE = (
    "poisoning attacks",
    "privacy attacks",
    "perturbations without a norm bound: patches, rotations, semantic changes",
    "physical attacks",
    "attacks on the system around the model",
)
"""What no command of this project tests."""


def not_tested(content: PageContent, cells: Iterable[Cell]) -> dict[str, Any]:
    """What was not tested, for each model of a report.

    Args:
        content: The report.
        cells: The cells behind its rows.
    """
    by_model: dict[str, list[Cell]] = {}
    for cell in cells:
        by_model.setdefault(cell.checkpoint, []).append(cell)
    return {
        "models": [{"model": model, **_of_model(of_model)} for model, of_model in by_model.items()],
        "checks": [
            {"model": group.checkpoint_sha256, "norm": group.norm, "check": check, "reason": reason}
            for group in content.verdicts or ()
            for check, reason in _left_out(group)
        ],
        "unfinishedCells": list(content.missing),
        "outOfScope": list(OUT_OF_SCOPE),
    }


def _left_out(group: AuditedGroup) -> list[tuple[str, str]]:
    """The checks that did not run, each with the reason."""
    left_out = [(entry.check, entry.reason) for entry in group.left_out]
    if group.budget is None:
        left_out.append(
            ("every check that runs the model", "'advdef audit --checkpoint FILE' was not run in this store")
        )
    return left_out


def _of_model(cells: Sequence[Cell]) -> dict[str, Any]:
    attacked = [cell for cell in cells if cell.attack.name != "none"]
    norms = {cell.norm for cell in attacked}
    run = {cell.attack.name for cell in attacked}
    corruptions = {cell.corruption.name for cell in cells if cell.corruption is not None}
    return {
        "norms": [norm for norm in NORMS if norm not in norms],
        "attacks": [name for name in _possible(norms) if name not in run],
        "knowledge": [words for words in KNOWLEDGE.values() if words not in {knowledge_of(name) for name in run}],
        "goals": [
            goal
            for goal, missing in (
                ("untargeted misclassification", all(cell.targeted != "no" for cell in attacked)),
                ("targeted misclassification", all(cell.targeted == "no" for cell in attacked)),
            )
            if missing
        ],
        "corruptions": [name for name in BENCHMARK if name not in corruptions],
        # A hash of source code is what tells a user's own attack from one that is installed.
        "adaptive": [] if any(cell.attack.source for cell in attacked) else ["an attack written for this model"],
    }


def _possible(norms: Iterable[str]) -> list[str]:
    """The attacks of this project that support one of the norms; all attacks where there is none."""
    found = []
    for name in attacks.registry.names():
        attack = installed_attack(name)
        if attack is not None and attack.perturbs and (not norms or {*norms} & {*attack.norms}):
            found.append(name)
    return found

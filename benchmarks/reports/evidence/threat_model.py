"""The threat model of a row in the words of NIST AI 100-2 E2025 (Vassilev et al., March 2025), sections 2.1 and 2.2."""

from __future__ import annotations

from typing import Any

from robustbench_cli import attacks
from robustbench_cli.attacks.base.attack import Attack
from robustbench_cli.benchmarks.reports.columns import Record
from robustbench_cli.benchmarks.store.cell import Cell

__all__ = ["KNOWLEDGE", "TAXONOMY", "installed_attack", "knowledge_of", "threat_model"]

TAXONOMY = "NIST AI 100-2 E2025"
"""The taxonomy whose words are used."""

KNOWLEDGE = {
    "gradients": "white-box",
    "scores": "black-box: score-based",
    "decisions": "black-box: decision-based",
    "transfer": "black-box: transfer",
}
"""The attacker's knowledge in the words of the taxonomy, by the access of an attack."""

_CAPABILITIES = {
    "gradients": ("testing data control",),
    "scores": ("testing data control", "query access"),
    "decisions": ("testing data control", "query access"),
    "transfer": ("testing data control",),
}
"""The attacker's capabilities in the words of the taxonomy. Reading the weights is knowledge, and not a capability."""


def installed_attack(name: str) -> type[Attack] | None:
    """An attack of this project; ``None`` for any other, whose code a report never imports.

    Args:
        name: The name in a stored result.
    """
    registry = attacks.registry
    return None if registry.module_of(name) is None or name in registry.families else registry.load(name)


def knowledge_of(name: str) -> str | None:
    """What an attack knows of the model: one of :data:`KNOWLEDGE`; ``None`` where that is not recorded.

    Args:
        name: The name in a stored result.
    """
    access = _access(name)
    return None if access is None else KNOWLEDGE[access]


def _access(name: str) -> str | None:
    attack = installed_attack(name)
    if attack is None or not attack.perturbs:
        return None
    return "transfer" if name == "transfer" else attack.access


def threat_model(record: Record, cells: list[Cell]) -> dict[str, Any]:
    """The threat model of a row.

    Args:
        record: The row.
        cells: The cells behind it: one, those of a worst case, or none for a mean over corruptions.
    """
    names = sorted({cell.attack.name for cell in cells} or {str(record["attack"]).partition("(")[0]})
    if names == ["none"]:
        return {"attack": None, "inputs": "clean" if record["corruption"] is None else "common corruption"}
    access = {_access(name) for name in names}
    targeted = record["targeted"] not in {"no", None}
    return {
        "taxonomy": TAXONOMY,
        "attack": "evasion",
        "stage": "deployment",
        "objective": "integrity violation",
        "goal": f"targeted misclassification ({record['targeted']})" if targeted else "untargeted misclassification",
        "knowledge": sorted({KNOWLEDGE[entry] for entry in access if entry is not None}),
        "knowledgeNotRecorded": [name for name in names if knowledge_of(name) is None],
        "capabilities": sorted({word for entry in access if entry is not None for word in _CAPABILITIES[entry]}),
        "modality": "image",
        "perturbation": {
            "norm": record["norm"],
            "budget": record["eps"] or None,
            "budgetValue": record["eps_value"],
            "pixelRange": [0, 1],
        },
    }

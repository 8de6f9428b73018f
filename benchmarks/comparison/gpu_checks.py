"""Attacks and defenses on a device beside the CPU, on a small network with fresh weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_cli.attacks import registry as attacks
from robustbench_cli.attacks.base.attack import Attack
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.parameters.surrogate import surrogate_parameters
from robustbench_cli.attacks.base.threat import distance
from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.benchmarks.evaluation.evaluate import Evaluation, evaluate
from robustbench_cli.benchmarks.models.small_cnn import SmallCNN
from robustbench_cli.defenses import registry as defenses
from robustbench_cli.defenses.base.defense import Defense

__all__ = [
    "CASES",
    "EPS",
    "attack_beside_cpu",
    "attack_with",
    "comparable",
    "defense_beside_cpu",
    "defense_with",
    "small",
]

CASES: list[tuple[str, Norm]] = [(name, norm) for name in attacks.names() for norm in attacks.load(name).norms]
"""Every attack in each of its norms."""

EPS: dict[Norm, float] = {"linf": 0.05, "l2": 0.3, "l1": 2, "l0": 4}
"""Radii at which some images of :func:`small` break and some do not."""

_FEW = {"steps": 3, "queries": 20, "pairs": 2, "binary_search_steps": 2, "initial_samples": 5, "n_target_classes": 2}
_QUICK = {"draws": 2, "steps": 3, "per_class": 6, "train_rate": 0.3, "test_rate": 0.3}


def small() -> tuple[nn.Module, Tensor, Tensor]:
    """A small network, eight images ``(8, 1, 8, 8)``, and the classes ``(8,)`` that it gives them."""
    torch.manual_seed(0)
    model = SmallCNN(shape=(1, 8, 8), classes=10).eval()
    images = torch.rand(8, 1, 8, 8)
    return model, images, model(images).argmax(1)


def attack_with(name: str, surrogate: nn.Module, **parameters: int) -> Attack:
    """An attack with those of the parameters that it has.

    Args:
        name: The name of the attack.
        surrogate: The model for an attack that needs another one.
        **parameters: Values by name.
    """
    kind: type[Attack] = attacks.load(name)
    values = {key: value for key, value in parameters.items() if key in kind.model_fields}
    return kind(**dict.fromkeys(surrogate_parameters(kind), surrogate), **values)


def defense_with(name: str) -> Defense:
    """A defense with few draws and steps, for the radius 0.1.

    Args:
        name: The name of the defense.
    """
    kind: type[Defense] = defenses.load(name)
    values = {key: value for key, value in _QUICK.items() if key in kind.model_fields}
    if name == "hrs":
        # Its steps are those of adversarial training, which is not its default.
        del values["steps"]
    return kind(**values).for_radius(0.1)


def attack_beside_cpu(name: str, norm: Norm, device: str) -> dict[str, Any]:
    """What an attack with few steps finds on a device and on the CPU.

    Args:
        name: The name of the attack.
        norm: Its norm.
        device: The device.

    Returns:
        The number of images that it breaks on the CPU (``broken``), the number of predictions for the attacked images that
        differ (``other_predictions``), and the largest difference of their distances (``other_distances``).
    """
    model, images, labels = small()

    def run(model: nn.Module) -> Tensor:
        attack = attack_with(name, model, **_FEW)
        return attack(model, images, labels, norm=norm, eps=None if attack.minimal_norm else EPS[norm])

    expected, found = run(model), run(copy.deepcopy(model).to(device))
    difference = distance(found, images, norm) - distance(expected, images, norm)
    with torch.no_grad():
        before, after = model(expected).argmax(1), model(found).argmax(1)
    return {
        "broken": int((before != labels).sum()),
        "other_predictions": int((before != after).sum()),
        "other_distances": float(difference.abs().max()),
    }


def defense_beside_cpu(name: str, device: str) -> dict[str, dict[str, Any]]:
    """What an evaluation of an untrained defense gives on a device and on the CPU.

    Args:
        name: The name of the defense.
        device: The device.

    Returns:
        The :func:`comparable` figures, by ``"cpu"`` and ``"device"``.
    """
    base, images, labels = small()
    torch.manual_seed(1)
    model = defense_with(name).protect(base, images[:1]).eval()

    def run(device: str) -> dict[str, Any]:
        attack, copied = PGD(steps=2), copy.deepcopy(model)
        result = evaluate(copied, images[:4], labels[:4], attack=attack, eps=0.05, eot=2, repeats=2, device=device)
        return comparable(result)

    return {"cpu": run("cpu"), "device": run(device)}


def comparable(evaluation: Evaluation) -> dict[str, Any]:
    """The figures and flags of an evaluation, without its time."""
    return {**{key: float(value) for key, value in evaluation.summary.items()}, "flags": ";".join(evaluation.flags)}

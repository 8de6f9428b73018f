"""Local optimality: how close minimal-norm attacks come to the smallest perturbation of any library's attack."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_cli.attacks import registry
from robustbench_cli.attacks.base.attack import Attack
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.benchmarks.comparison.contest import distances
from robustbench_cli.benchmarks.comparison.models import correctly_classified, test_images, trained
from robustbench_cli.benchmarks.comparison.peers import Run, foolbox_run
from robustbench_cli.benchmarks.comparison.tables import markdown
from robustbench_cli.benchmarks.suites.load import read_suite

__all__ = ["NORMS", "Counted", "compare_minimal_norm", "local_optimality", "suite_attacks"]

NORMS: tuple[Norm, ...] = ("l2", "linf", "l1", "l0")
OUTSIDE_THE_SUITE = ("deepfool", "superdeepfool")
"""Our minimal-norm attacks outside the suite; they run with their defaults."""

STEPS = 100
"""Gradients per image for the other libraries' attacks; FAB gets them for each class. Some rows name another number."""


def local_optimality(distances: Tensor, best: Tensor) -> float:
    """The local optimality of an attack, from its curve of robust accuracy against radius.

    It is ``1 - (area - area_best) / (accuracy * radius - area_best)``, for the areas below the curves up to the radius at
    which the best curve reaches 0. An attack without any success stays at the clean accuracy. The curves are step
    functions, so an area is the mean of the distances clipped at the radius.

    Args:
        distances: ``(N,)``, the distances of the attack; infinite where it failed.
        best: ``(N,)``, the smallest distances of all attacks, finite.

    Returns:
        1 for an attack that is the best on every image, 0 for one without success within the radius.

    Raises:
        ValueError: A best distance is infinite, or all of them are 0.

    Source: Cinà, Rony, Pintor, Demetrio, Demontis, Biggio, Ben Ayed, Roli, AttackBench, AAAI 2025, arXiv 2404.19460.
    """
    radius = best.max()
    if not 0 < float(radius) < torch.inf:
        raise ValueError("the best distances must be finite, and not all of them 0")
    area, best_area = distances.clamp_max(radius).mean(), best.mean()
    accuracy = (best > 0).to(best.dtype).mean()
    return float(1 - (area - best_area) / (accuracy * radius - best_area))


def compare_minimal_norm(models: Sequence[str], norms: Sequence[Norm], *, images: int) -> None:
    """Prints the distances and the local optimality of minimal-norm attacks, ours and other libraries'.

    Args:
        models: Names of the models; see :func:`~.models.trained`.
        norms: The norms of the distance.
        images: The number of correctly classified test images.
    """
    examples = test_images(3 * images)
    for label, defended in trained(models).items():
        right = correctly_classified(defended, examples, most=images)
        for norm in norms:
            suite = suite_attacks(norm)
            attacks = {
                **suite,
                **_outside_the_suite(norm),
                **_foolbox(norm),
                **_torchattacks(norm),
                **_adv_lib(norm),
            }
            lengths, passes = {}, {}
            for name, attack in attacks.items():
                model = Counted(defended.load()).eval()
                torch.manual_seed(0)
                perturbed = attack(model, right.images, right.labels).detach()
                passes[name] = f"{model.passes / len(right):.0f}"
                lengths[name] = distances(model, right, perturbed, norm)
            lengths["suite minimal-norm"] = torch.stack([lengths[name] for name in suite]).amin(0)
            print(f"\n{norm}, {label} model, {len(right)} correctly classified images\n")
            print(_table(lengths, passes), flush=True)


class Counted(nn.Module):
    """A model that counts its passes.

    Attributes:
        passes: Images so far, forward and backward.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.passes = 0

    def forward(self, images: Tensor) -> Tensor:
        """The model's logits."""
        logits: Tensor = self.model(images)
        self._count(logits)
        if logits.requires_grad:
            logits.register_hook(self._count)
        return logits

    def _count(self, rows: Tensor) -> None:
        self.passes += len(rows)


def _table(by_attack: Mapping[str, Tensor], passes: Mapping[str, str]) -> str:
    best = torch.stack(list(by_attack.values())).amin(0)
    finite = best.isfinite()
    rows = [
        (
            name,
            f"{100 * lengths.isfinite().double().mean():.1f} %",
            f"{lengths.median():.4f}",
            f"{local_optimality(lengths[finite], best[finite]):.4f}",
            passes.get(name, ""),
        )
        for name, lengths in by_attack.items()
    ]
    return markdown(("attack", "fooled", "median distance", "local optimality", "passes per image"), rows)


def suite_attacks(norm: Norm) -> dict[str, Run]:
    """The attacks of the minimal-norm suite that support a norm, by name and parameters.

    Args:
        norm: The norm of the distance.
    """
    runs = {}
    for member in read_suite("minimal-norm").entries:
        name = member.name or ""
        kind = registry.load(name)
        if norm in kind.norms:
            parameters = ", ".join(f"{key}={value}" for key, value in member.parameters.items())
            runs[f"{name}({parameters})" if parameters else name] = _run(
                kind.from_parameters(member.parameters, name=name), norm
            )
    return runs


def _outside_the_suite(norm: Norm) -> dict[str, Run]:
    return {name: _run(registry.load(name)(), norm) for name in OUTSIDE_THE_SUITE if norm in registry.load(name).norms}


def _run(attack: Attack, norm: Norm) -> Run:
    return lambda model, images, labels: attack(model, images, labels, norm=norm, batch_size=64)


def _foolbox(norm: Norm) -> dict[str, Run]:
    from foolbox import attacks

    named = {
        "l2": {
            "FMN": attacks.L2FMNAttack(steps=STEPS),
            "DeepFool": attacks.L2DeepFoolAttack(),
            "DDN": attacks.DDNAttack(steps=STEPS),
        },
        "linf": {"FMN": attacks.LInfFMNAttack(steps=STEPS), "DeepFool": attacks.LinfDeepFoolAttack()},
        "l1": {
            "FMN": attacks.L1FMNAttack(steps=STEPS),
            "EAD": attacks.EADAttack(binary_search_steps=5, steps=10 * STEPS),
        },
        "l0": {"FMN": attacks.L0FMNAttack(steps=STEPS)},
    }
    return {f"Foolbox {name}": foolbox_run(attack, eps=None) for name, attack in named[norm].items()}


def _torchattacks(norm: Norm) -> dict[str, Run]:
    import torchattacks

    names = {"l2": "L2", "linf": "Linf"}

    def fab(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        # A radius that no perturbation exceeds.
        attack = torchattacks.FAB(model, norm=names[norm], eps=1e4, steps=STEPS, multi_targeted=True, n_classes=10)
        perturbed: Tensor = attack(images, labels)
        return perturbed

    return {"torchattacks FAB-T": fab} if norm in names else {}


def _adv_lib(norm: Norm) -> dict[str, Run]:
    # It imports visdom for plots, which are not needed here.
    sys.modules.setdefault("visdom", ModuleType("visdom"))
    from adv_lib import attacks

    order = {"l2": 2, "linf": float("inf"), "l1": 1, "l0": 0}[norm]
    all_norms: dict[str, tuple[Any, dict[str, Any]]] = {"FMN": (attacks.fmn, {"norm": order, "steps": STEPS})}
    long = {"num_steps": 5 * STEPS}
    by_norm: dict[Norm, dict[str, tuple[Any, dict[str, Any]]]] = {
        "l2": {
            "DDN": (attacks.ddn, {"steps": STEPS, "levels": None}),
            "DeepFool": (attacks.df, {"steps": STEPS}),
            "SuperDeepFool": (attacks.sdf, {"steps": STEPS}),
            "ALMA": (attacks.alma, {**long, "distance": "l2"}),
            "PDGD": (attacks.pdgd, long),
            "trust region": (attacks.tr, {"p": 2, "adaptive": True}),
        },
        "linf": {
            "DeepFool": (attacks.df, {"steps": STEPS, "norm": order}),
            "PDPGD": (attacks.pdpgd, {**long, "norm": order}),
            "trust region": (attacks.tr, {"p": order, "adaptive": True}),
        },
        "l1": {"ALMA": (attacks.alma, {**long, "distance": "l1"}), "PDPGD": (attacks.pdpgd, {**long, "norm": order})},
        "l0": {
            "sigma-zero": (attacks.sigma_zero, {"num_steps": STEPS}),
            "sigma-zero, 1,000 steps": (attacks.sigma_zero, {"num_steps": 10 * STEPS}),
            "PDPGD": (attacks.pdpgd, {**long, "norm": order}),
        },
    }

    def run(call: Any, options: Mapping[str, Any]) -> Run:
        return lambda model, images, labels: call(model, images, labels, **options)

    return {f"adv_lib {name}": run(*entry) for name, entry in {**all_norms, **by_norm[norm]}.items()}

"""How near the perturbations of the minimal-norm attacks are to the smallest that any attack of any library finds."""

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
from robustbench_cli.benchmarks.comparison.models import classified_right, test_images, trained
from robustbench_cli.benchmarks.comparison.peers import Run, foolbox_run
from robustbench_cli.benchmarks.comparison.tables import markdown
from robustbench_cli.benchmarks.suites.load import read_suite

__all__ = ["NORMS", "compare_minimal_norm", "local_optimality"]

NORMS: tuple[Norm, ...] = ("l2", "linf", "l1", "l0")
ALONE = ("deepfool", "superdeepfool")
"""Our attacks, with their defaults, that the suite does not have."""

STEPS = 100
"""Gradients an image that the peers' attacks are given, FAB's for each class; those that say more get that."""


def local_optimality(distances: Tensor, best: Tensor) -> float:
    """How much of the area between the worst curve and the best one an attack's curve of accuracy against radius wins.

    It is ``1 - (area - area_best) / (accuracy * radius - area_best)`` (Cinà, Rony, Pintor, Demetrio, Demontis, Biggio,
    Ben Ayed, Roli: AttackBench. AAAI 2025, arXiv 2404.19460), up to the radius at which the best curve is 0; the worst
    curve stays at the clean accuracy. The curves are taken as the steps that they are, so that an area is the mean of the
    distances cut at the radius.

    Args:
        distances: ``(N,)``, of the attack; infinite where it failed.
        best: ``(N,)``, the smallest of all attacks, finite.

    Returns:
        1 for an attack that is the best on every image, 0 for one that finds nothing inside the radius.

    Raises:
        ValueError: No attack has found anything for an image, or there is no distance to find.
    """
    radius = best.max()
    if not 0 < float(radius) < torch.inf:
        raise ValueError("the best distances must be finite, and not all of them 0")
    area, least = distances.clamp_max(radius).mean(), best.mean()
    accuracy = (best > 0).to(best.dtype).mean()
    return float(1 - (area - least) / (accuracy * radius - least))


def compare_minimal_norm(models: Sequence[str], norms: Sequence[Norm], *, images: int) -> None:
    """Prints the distances of our minimal-norm attacks and of other libraries', and the local optimality of each."""
    examples = test_images(3 * images)
    for label, defended in trained(models).items():
        right = classified_right(defended, examples, most=images)
        for norm in norms:
            suite = _suite(norm)
            attacks = {**suite, **_alone(norm), **_foolbox(norm), **_torchattacks(norm), **_adv_lib(norm)}
            found, passes = {}, {}
            for name, attack in attacks.items():
                model = Counted(defended.load()).eval()
                torch.manual_seed(0)
                perturbed = attack(model, right.images, right.labels).detach()
                passes[name] = f"{model.passes / len(right):.0f}"
                found[name] = distances(model, right, perturbed, norm)
            found["suite minimal-norm"] = torch.stack([found[name] for name in suite]).amin(0)
            print(f"\n{norm}, {label} model, {len(right)} images that it classifies right\n")
            print(_table(found, passes), flush=True)


class Counted(nn.Module):
    """A model that counts what goes through it.

    Attributes:
        passes: Images so far, forward and back.
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


def _table(found: Mapping[str, Tensor], passes: Mapping[str, str]) -> str:
    best = torch.stack(list(found.values())).amin(0)
    known = best.isfinite()
    rows = [
        (
            name,
            f"{100 * lengths.isfinite().double().mean():.1f} %",
            f"{lengths.median():.4f}",
            f"{local_optimality(lengths[known], best[known]):.4f}",
            passes.get(name, ""),
        )
        for name, lengths in found.items()
    ]
    return markdown(("attack", "fooled", "median distance", "local optimality", "passes an image"), rows)


def _suite(norm: Norm) -> dict[str, Run]:
    """The attacks of the minimal-norm suite that know the norm."""
    runs = {}
    for member in read_suite("minimal-norm").entries:
        name = member.name or ""
        kind = registry.load(name)
        if norm in kind.norms:
            told = ", ".join(f"{key}={value}" for key, value in member.parameters.items())
            runs[f"{name}({told})" if told else name] = _run(kind.from_parameters(member.parameters, name=name), norm)
    return runs


def _alone(norm: Norm) -> dict[str, Run]:
    return {name: _run(registry.load(name)(), norm) for name in ALONE if norm in registry.load(name).norms}


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

    known = {"l2": "L2", "linf": "Linf"}

    def fab(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        # Wide enough for any image to be kept.
        attack = torchattacks.FAB(model, norm=known[norm], eps=1e4, steps=STEPS, multi_targeted=True, n_classes=10)
        found: Tensor = attack(images, labels)
        return found

    return {"torchattacks FAB-T": fab} if norm in known else {}


def _adv_lib(norm: Norm) -> dict[str, Run]:
    # It asks for visdom, whose plots nobody wants here, as soon as it is imported.
    sys.modules.setdefault("visdom", ModuleType("visdom"))
    from adv_lib import attacks

    order = {"l2": 2, "linf": float("inf"), "l1": 1, "l0": 0}[norm]
    of_any: dict[str, tuple[Any, dict[str, Any]]] = {"FMN": (attacks.fmn, {"norm": order, "steps": STEPS})}
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

    return {f"adv_lib {name}": run(*given) for name, given in {**of_any, **by_norm[norm]}.items()}

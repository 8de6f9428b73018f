"""How near the perturbations of the minimal-norm attacks are to the smallest that any attack of any library finds."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from robustbench_cli.attacks import registry
from robustbench_cli.attacks.base.attack import Attack
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.benchmarks.comparison.contest import distances
from robustbench_cli.benchmarks.comparison.models import Examples, classified_right, test_images, trained
from robustbench_cli.benchmarks.comparison.peers import Run, foolbox_run
from robustbench_cli.benchmarks.comparison.tables import markdown

__all__ = ["compare_minimal_norm", "local_optimality"]

NORMS: tuple[Norm, ...] = ("l2", "linf")
OURS = ("ddn", "fmn", "cw", "fab-t")
"""Our attacks; those that have the norm are taken together, too."""

STEPS = 100
"""Gradients an image that the peers' DDN, FMN and FAB are given, FAB's for each class; ours have their defaults."""


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


def compare_minimal_norm(*, images: int) -> None:
    """Prints the distances of our minimal-norm attacks and of other libraries', and the local optimality of each."""
    examples = test_images(2 * images)
    for label, subject in trained().items():
        model, right = subject.load(), classified_right(subject, examples, most=images)
        for norm in NORMS:
            ours = _ours(norm)
            attacks = {**ours, **_peers(norm)}
            found = {name: _distances(model, right, attack, norm) for name, attack in attacks.items()}
            found["ours together"] = torch.stack([found[name] for name in ours]).amin(0)
            print(f"\n{norm}, {label} model, {len(right)} images that it classifies right\n")
            print(_table(found), flush=True)


def _table(found: Mapping[str, Tensor]) -> str:
    best = torch.stack(list(found.values())).amin(0)
    known = best.isfinite()
    rows = [
        (
            name,
            f"{100 * lengths.isfinite().double().mean():.1f} %",
            f"{lengths.median():.4f}",
            f"{local_optimality(lengths[known], best[known]):.4f}",
        )
        for name, lengths in found.items()
    ]
    return markdown(("attack", "fooled", "median distance", "local optimality"), rows)


def _distances(model: nn.Module, examples: Examples, attack: Run, norm: Norm) -> Tensor:
    torch.manual_seed(0)
    perturbed = attack(model, examples.images, examples.labels).detach()
    return distances(model, examples, perturbed, norm)


def _ours(norm: Norm) -> dict[str, Run]:
    def run(attack: Attack) -> Run:
        return lambda model, images, labels: attack(model, images, labels, norm=norm, batch_size=64)

    return {name: run(registry.load(name)()) for name in OURS if norm in registry.load(name).norms}


def _peers(norm: Norm) -> dict[str, Run]:
    """The attacks of Foolbox and torchattacks on the same norm."""
    import torchattacks
    from foolbox.attacks import DDNAttack, L2DeepFoolAttack, L2FMNAttack, LinfDeepFoolAttack, LInfFMNAttack

    def fab(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        # Wide enough for any image to be kept.
        attack = torchattacks.FAB(
            model, norm={"l2": "L2", "linf": "Linf"}[norm], eps=100.0, steps=STEPS, multi_targeted=True, n_classes=10
        )
        found: Tensor = attack(images, labels)
        return found

    if norm == "linf":
        named = {"FMN": LInfFMNAttack(steps=STEPS), "DeepFool": LinfDeepFoolAttack()}
    else:
        named = {"FMN": L2FMNAttack(steps=STEPS), "DeepFool": L2DeepFoolAttack(), "DDN": DDNAttack(steps=STEPS)}
    return {
        **{f"Foolbox {name}": foolbox_run(attack, eps=None) for name, attack in named.items()},
        "torchattacks FAB-T": fab,
    }

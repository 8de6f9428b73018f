"""Single attacks of other libraries on the images that the standard suite does not break."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel
from robustbench_cli.benchmarks.comparison.contest import unbroken
from robustbench_cli.benchmarks.comparison.models import ImageSet
from robustbench_cli.benchmarks.comparison.peers import ART, BATCH, AutoAttackBudget, Run, foolbox_run
from robustbench_cli.benchmarks.comparison.tables import markdown
from robustbench_cli.benchmarks.comparison.timing import clock

__all__ = ["single_attacks", "single_table"]

STEPS = 100
"""Gradients per image for every attack, and per target where it has several."""

QUERIES = 5000
"""Forward passes per image for Square. ART's is several times slower and gets a fifth."""


def single_attacks(eps: float) -> dict[str, Run]:
    """The attacks of torchattacks, Foolbox and ART in linf, by library and name.

    Args:
        eps: The radius. Fixed steps are 2.5 * eps / steps; those with momentum are eps / 4.
    """
    return {**_torchattacks(eps), **_foolbox(eps), **_art(eps)}


def single_table(
    defended: DefendedModel, examples: ImageSet, left: Tensor, attacks: Mapping[str, Run], budget: AutoAttackBudget
) -> str:
    """A table of the images that each attack breaks beyond the suite, and of its own robust accuracy.

    An attack that breaks none of them cannot have a lower robust accuracy than the suite, so only the others run on all
    images.

    Args:
        defended: The model.
        examples: N images.
        left: ``(N,)``, which images the suite does not break.
        attacks: The attacks by their name in the table.
        budget: Gives the norm and the radius.
    """
    model, rest = defended.load(), ImageSet(examples.images[left], examples.labels[left])
    accuracy, rows = 100 * left.double().mean(), []
    for name, attack in attacks.items():
        started = clock()
        broken = int((~_unbroken(model, rest, attack, budget)).sum())
        seconds = clock() - started
        robust_accuracy = (
            f"{100 * _unbroken(model, examples, attack, budget).double().mean():.1f} %"
            if broken
            else f">= {accuracy:.1f} %"
        )
        rows.append((name, str(broken), robust_accuracy, f"{seconds:.0f}"))
    return markdown(("attack", f"breaks of the {len(rest)} left", "robust accuracy", "seconds for these"), rows)


def _unbroken(model: nn.Module, examples: ImageSet, attack: Run, budget: AutoAttackBudget) -> Tensor:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002, ART draws from it
    batches = zip(examples.images.split(BATCH), examples.labels.split(BATCH), strict=True)
    return unbroken(model, examples, torch.cat([attack(model, x, y).detach() for x, y in batches]), budget)


def _torchattacks(eps: float) -> dict[str, Run]:
    import torchattacks as library

    step = {"eps": eps, "alpha": eps / 4, "steps": STEPS}
    attacks: dict[str, tuple[Any, dict[str, Any]]] = {
        "PGD": (library.PGD, {**step, "alpha": 2.5 * eps / STEPS}),
        "Jitter": (library.Jitter, {**step, "alpha": 2.5 * eps / STEPS}),
        "APGD-CE": (library.APGD, {"eps": eps, "steps": STEPS, "loss": "ce"}),
        "APGD-DLR": (library.APGD, {"eps": eps, "steps": STEPS, "loss": "dlr"}),
        "APGD-T": (library.APGDT, {"eps": eps, "steps": STEPS, "n_classes": 10}),
        "FAB-T": (library.FAB, {"eps": eps, "steps": STEPS, "multi_targeted": True, "n_classes": 10}),
        "Square": (library.Square, {"eps": eps, "n_queries": QUERIES}),
        "MI-FGSM": (library.MIFGSM, step),
        "NI-FGSM": (library.NIFGSM, step),
        "VMI-FGSM": (library.VMIFGSM, {**step, "steps": STEPS // 5}),
    }
    return {f"torchattacks {name}": _built(kind, options) for name, (kind, options) in attacks.items()}


def _built(kind: Any, options: Mapping[str, Any]) -> Run:
    def run(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        perturbed: Tensor = kind(model, **options)(images, labels)
        return perturbed

    return run


def _foolbox(eps: float) -> dict[str, Run]:
    from foolbox.attacks import LinfAdamPGD, LinfDeepFoolAttack, LInfFMNAttack, LinfPGD

    step = 2.5 / STEPS
    named = {
        "PGD": LinfPGD(rel_stepsize=step, steps=STEPS),
        "AdamPGD": LinfAdamPGD(rel_stepsize=step, steps=STEPS),
        "FMN": LInfFMNAttack(steps=STEPS),
        "DeepFool": LinfDeepFoolAttack(),
    }
    return {f"Foolbox {name}": foolbox_run(attack, eps=eps) for name, attack in named.items()}


def _art(eps: float) -> dict[str, Run]:
    from art.attacks.evasion import (
        AutoConjugateGradient,
        AutoProjectedGradientDescent,
        MomentumIterativeMethod,
        SquareAttack,
    )

    shared = {"eps": eps, "batch_size": BATCH, "verbose": False}
    searching = {**shared, "eps_step": 2 * eps, "max_iter": STEPS, "nb_random_init": 1}
    dlr = {"loss_type": "difference_logits_ratio"}
    named: dict[str, tuple[Any, dict[str, Any]]] = {
        "APGD-CE": (AutoProjectedGradientDescent, {**searching, "loss_type": "cross_entropy"}),
        "APGD-DLR": (AutoProjectedGradientDescent, {**searching, **dlr}),
        "ACG-DLR": (AutoConjugateGradient, {**searching, **dlr}),
        "MI-FGSM": (MomentumIterativeMethod, {**shared, "eps_step": eps / 4, "max_iter": STEPS}),
        "Square": (SquareAttack, {**shared, "max_iter": QUERIES // 5}),
    }

    def run(kind: Any, options: Mapping[str, Any]) -> Run:
        return lambda model, images, labels: torch.from_numpy(
            kind(ART().wrap(model), **options).generate(images.numpy(), labels.numpy())
        )

    return {f"ART {name}": run(kind, options) for name, (kind, options) in named.items()}

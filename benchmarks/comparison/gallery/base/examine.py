"""What an audit finds in a model of the gallery, and how much of its robust accuracy is true."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.models.freezing import copy_of
from robustbench_cli.attacks.base.rng import seed_from, seeded
from robustbench_cli.attacks.cw_pgd import CWPGD
from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.attacks.square import Square
from robustbench_cli.benchmarks.audit.model_audit import AuditOptions, ModelAuditPlan, probe_of, run_check
from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense
from robustbench_cli.benchmarks.evaluation.checks import finding_or_failure, load_checks_at
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Budget, Finding
from robustbench_cli.benchmarks.evaluation.checks.base.model_probe import Attacked, ModelProbe
from robustbench_cli.benchmarks.evaluation.checks.base.row_group import Access, Row, RowGroup
from robustbench_cli.core.errors import UserError, one_line

__all__ = ["EPS", "IMAGES", "Audited", "audited", "images_for", "true_accuracy"]

EPS = 0.15
"""The radius in linf, the usual one of the digits."""

_LARGER = (2 * EPS, 0.5)
"""Further radii of the rows that the checks of stored rows look at."""

_QUERIES = 300

_REFUSED = "refused"
"""The finding in a model with which no evaluation begins."""

_OF_THE_SLICE = "few-images"
"""A check that finds too few images, and nothing in the model."""

_ROUNDED_EPS = 0.125
"""The largest multiple of a sixteenth within the radius: rounded to the gray values, the image stays inside."""

_PASSES = 10

IMAGES = 100
"""The images of an audit of a deterministic model."""

_OF_RANDOMIZED = 30

Training = Callable[[], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Audited:
    """What was found in one model.

    Attributes:
        findings: By the name of the check; ``refused`` where the model is refused before any check.
        robust_accuracy: Under the baseline attack of the audit.
    """

    findings: dict[str, Finding]
    robust_accuracy: float


def audited(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    budget: Budget = "standard",
    seed: int = 0,
    training: Training | None = None,
) -> Audited:
    """Runs the checks in a model, and those of stored rows.

    Args:
        model: Images in [0, 1] to logits.
        images: ``(N, C, H, W)`` in [0, 1].
        labels: ``(N,)``.
        budget: Of the checks in the model.
        seed: The seed of everything that is random.
        training: Returns the training images and labels.
    """
    options = AuditOptions(norm="linf", eps=EPS, budget=budget, seed=seed, device=torch.device("cpu"))
    try:
        with probe_of(model, images, labels, options, training=training) as probe:
            results = [
                run_check(check, probe) for check in ModelAuditPlan.of(probe).checks if check.name != _OF_THE_SLICE
            ]
            group = RowGroup(norm="linf", rows=_rows(probe), audited=budget)
            baseline = probe.baseline.summary["robust_accuracy"]
    except UserError as error:
        refused = Finding(check=_REFUSED, severity="broken", evidence=one_line(error))
        return Audited({_REFUSED: refused}, float("nan"))
    results += [
        finding_or_failure(check, partial(check.finding_in_rows, group))
        for check in load_checks_at("finding_in_rows")
        if check.name != _OF_THE_SLICE
    ]
    return Audited({found.check: found for found in results if isinstance(found, Finding)}, baseline)


def images_for(model: nn.Module, images: Tensor) -> int:
    """The number of images for an audit: fewer of a model that draws, whose every pass costs ten.

    Args:
        model: The model, which is not changed.
        images: ``(N, C, H, W)`` in [0, 1].
    """
    with torch.no_grad():
        first, second = (copy.deepcopy(model)(images[:4]) for _ in range(2))
    return _OF_RANDOMIZED if not torch.equal(first, second) else IMAGES


def _rows(probe: ModelProbe) -> tuple[Row, ...]:
    """The rows of the audit's baseline attack, and for a deterministic model of larger radii, of a margin loss and of an attack by scores."""
    gradients: Access = "scores" if probe.without_gradients else "gradients"
    rows = [_row(probe.baseline, "baseline", gradients, EPS)]
    if not probe.randomized:
        rows += [_row(probe.evaluate(probe.baseline_attack, eps=eps), "baseline", gradients, eps) for eps in _LARGER]
        if gradients == "gradients":
            rows.append(_row(probe.evaluate(CWPGD(steps=40)), "cw-pgd", gradients, EPS))
        rows.append(_row(probe.evaluate(Square(queries=_QUERIES)), "square", "scores", EPS))
    return tuple(rows)


def _row(attacked: Attacked, attack: str, access: Access, eps: float) -> Row:
    return Row(
        cell=f"{attack} {eps}",
        attack=attack,
        access=access,
        only_gradients=access == "gradients",
        eps=eps,
        eps_text=f"{eps:g}",
        outcomes=attacked.outcomes,
    )


def true_accuracy(model: BrokenDefense, images: Tensor, labels: Tensor, *, seed: int = 0) -> float:
    """The robust accuracy under the attack that was made for a defense.

    PGD with 100 steps and 3 restarts follows the network without the trick. The images are scored on the deployed
    defense, in ten passes, each through a copy that has seen no image.

    Args:
        model: The defense.
        images: ``(N, 1, 8, 8)`` in [0, 1], of which it knows nothing.
        labels: ``(N,)``.
        seed: The seed of everything that is random.
    """
    eps = _ROUNDED_EPS if model.rounds else EPS
    options = AuditOptions(norm="linf", eps=eps, budget="standard", seed=seed, device=torch.device("cpu"))
    with probe_of(copy.deepcopy(model.unmasked()).eval(), images, labels, options) as probe:
        perturbed = probe.evaluate(PGD(steps=100, restarts=3)).perturbed
    if model.rounds:
        perturbed = images + ((perturbed - images) * 16).round() / 16
    with torch.no_grad(), seeded(seed_from(seed, "truth")):
        right = torch.stack([(copy_of(model) or model)(perturbed).argmax(1) == labels for _ in range(_PASSES)])
    return float(right.double().mean())

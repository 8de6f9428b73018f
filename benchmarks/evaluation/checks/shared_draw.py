"""The flag of a randomized model in which the rows of a batch share a draw."""

from __future__ import annotations

from functools import cache
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_cli.attacks.base.losses import rounding
from robustbench_cli.attacks.base.models.measured_model import MeasuredModel
from robustbench_cli.attacks.base.models.passes import single_pass
from robustbench_cli.attacks.base.models.precision import full_float32
from robustbench_cli.attacks.base.rng import seed_from, seeded
from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Finding, Need, Severity
from robustbench_cli.benchmarks.evaluation.checks.base.measurements import is_repeatable
from robustbench_cli.benchmarks.evaluation.checks.base.model_probe import ModelProbe
from robustbench_cli.benchmarks.evaluation.checks.base.moments import EvaluatedModels, FinishedEvaluation

__all__ = ["SharedDraw", "shares_draws"]

_IMAGES, _PASSES = 4, 20
"""The images of a pass, which holds two copies of each, and the number of passes."""

_PERMUTATIONS = 9_999
"""The random pairings. The pairs of the passes must be nearer than all of them: an exact test at level 1 / 10,000."""


class SharedDraw(Check):
    """Copies of an image pass together. Where each row draws for itself, they differ as much as copies of different passes.

    The shapes of the draws show most models in which each row draws for itself. These need no pass.
    """

    text: ClassVar[str] = (
        "the rows of a batch share a draw: an attack or an evaluation that repeats images in a batch sees one draw only"
    )
    severity: ClassVar[Severity] = "suspicious"
    raised_when: ClassVar[str] = (
        "The random operations of a pass do not show that each row draws for itself, and of 20 passes over two copies of four images, "
        "the two copies of a pass are nearer to each other than copies of different passes: a permutation test at level 0.0001 on "
        "the distances of logits. Draws that the seed does not control are not tested."
    )
    why: ClassVar[str] = (
        "The expectation over copies of an image in one batch (EOT) then follows one draw, and all images of a pass are scored on "
        "one draw. For such models this project makes one pass per draw, and its interval counts draws; other tools do not."
    )
    remedy: ClassVar[str] = (
        "Draw for each row inside forward: torch.rand(len(images), ...). Otherwise attack with one pass per draw, and score many."
    )
    source: ClassVar[str] = (
        "Own test; Athalye, Engstrom, Ilyas, Kwok: Synthesizing Robust Adversarial Examples. ICML 2018 (the expectation over "
        "independent draws)"
    )
    needs: ClassVar[tuple[Need, ...]] = ()
    position: ClassVar[int] = 45

    def raised_by_models(self, models: EvaluatedModels) -> bool:
        return shares_draws(models.setup.attacked)

    def applies(self, evaluation: FinishedEvaluation) -> bool:
        # A clock or a counter that changes the model from pass to pass is no draw.
        return super().applies(evaluation) and "not-repeatable" not in evaluation.raised

    def finding_in_model(self, probe: ModelProbe) -> Finding | None:
        if not shares_draws(probe.measured) or not is_repeatable(probe.measured):
            return None
        return self.finding(
            f"in {_PASSES} passes, copies of an image in a pass agree more than copies in different passes"
        )

    def passes(self, probe: ModelProbe) -> int:
        return 2 * _IMAGES * _PASSES if probe.randomized else 0


def shares_draws(measured: MeasuredModel) -> bool:
    """Whether the rows of a pass share a draw; measured once.

    Args:
        measured: The model.

    Returns:
        With a probability of at most 0.0001 for a model in which each row draws for itself.
    """
    if measured.row_draws is None or measured.row_draws.unit == "row":
        return False

    def share() -> bool:
        # Where one row fits the memory, no rows share a pass.
        return measured.size.rows != 1 and _copies_agree(_logits_of_copies(measured))

    def measure() -> bool:
        with torch.no_grad(), full_float32(measured.images.device), seeded(seed_from("shared draw")):
            return measured.size.retry_smaller(2 * _IMAGES, share)

    return measured.once("shares draws", measure)


def _logits_of_copies(measured: MeasuredModel) -> Tensor:
    """``(passes, 2, images, K)``: the logits of two copies of each image, which pass together."""
    most = _IMAGES if measured.size.rows is None else max(1, measured.size.rows // 2)
    images = measured.images[: min(_IMAGES, most)]
    rows = torch.cat([images, images])
    passes = torch.stack([single_pass(measured.model, rows) for _ in range(_PASSES)])
    return passes.view(_PASSES, 2, len(images), -1)


def _copies_agree(logits: Tensor) -> bool:
    """Whether the two copies of a pass are nearer than chance allows, by a permutation test.

    Where each row draws for itself, all copies of an image are exchangeable: each way to pair them is as likely as the
    pairs of the passes.

    Args:
        logits: See :func:`_logits_of_copies`.
    """
    copies = logits.flatten(0, 1)
    differences = copies[:, None] - copies
    # Masked classes, at infinity, are equal.
    differences = torch.where(copies[:, None] == copies, 0, differences)
    noise = rounding(copies).amax(0)[:, None]
    distances = torch.where(differences.abs() > noise, differences, 0).double().square().sum((2, 3)).cpu()
    others = distances[_permutations(len(copies)).unflatten(1, (-1, 2)).unbind(2)].sum(1)
    return bool(distances[::2, 1::2].diagonal().sum() < others.min())


@cache
def _permutations(count: int) -> Tensor:
    """Random permutations of some copies, one in each row."""
    return torch.rand(_PERMUTATIONS, count, generator=torch.Generator().manual_seed(0)).argsort(1)

"""Audits a model: plans which checks run within a budget, tells what they cost, and runs them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.attack import Attack
from robustbench_cli.attacks.base.inputs import (
    Images,
    Labels,
    Radius,
    checked_call,
    checked_keywords,
    checked_norm,
    checked_seed,
    parse_radius,
)
from robustbench_cli.attacks.base.losses import cross_entropy
from robustbench_cli.attacks.base.models.freezing import copy_of
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import preserve_generators
from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.benchmarks.audit.verdict import Audited, LeftOut, by_severity
from robustbench_cli.benchmarks.devices import current
from robustbench_cli.benchmarks.evaluation.checks import IN_EVALUATION, finding_or_failure, load_checks_at
from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.finding import BUDGETS, Budget, Finding, UndecidedError
from robustbench_cli.benchmarks.evaluation.checks.base.model_probe import Attacked, ModelProbe
from robustbench_cli.benchmarks.evaluation.evaluate import evaluate
from robustbench_cli.benchmarks.evaluation.pass_settings import measured_on
from robustbench_cli.benchmarks.evaluation.statistics.paired import ScoredDraws
from robustbench_cli.benchmarks.models.base.build import check_model
from robustbench_cli.core.errors import UserError, did_you_mean

__all__ = ["NORMS", "AuditOptions", "ModelAuditPlan", "audit", "expected_seconds", "passes_of", "probe_of", "run_check"]

NORMS: tuple[Norm, ...] = ("linf", "l2", "l1")
"""The norms in which a model can be audited: those of the baseline attack."""

_TIMED = 128
"""The most images of the passes that are timed: as many as make the batches of an attack."""

_SECONDS_OF_TIMING = 0.2
"""How long passes are timed, unless two take longer."""

_SECONDS_PER_CHECK = 0.025
"""What a check takes besides its passes, as measured on the digits."""

_SECONDS_AT_START = 1.0
"""What loading libraries, the first passes and storing take, as measured on the digits: most of a quick audit of a small model."""

_SHARE_OF_PASSES = 0.4
"""The usual share of the passes that are left where attacks stop on broken images."""


@dataclass(frozen=True, kw_only=True)
class AuditOptions:
    """How a model is audited.

    Attributes:
        norm: One of :data:`NORMS`.
        eps: The radius.
        budget: See :data:`~.finding.Budget`.
        seed: The seed of everything that is random.
        device: Where to compute.
        batch_size: Rows that pass through the model at once; chosen for the device by default.
    """

    norm: Norm
    eps: float
    budget: Budget
    seed: int = 0
    device: torch.device
    batch_size: int | None = None


@contextmanager
def probe_of(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    options: AuditOptions,
    *,
    training: Callable[[], tuple[Tensor, Tensor]] | None = None,
) -> Iterator[ModelProbe]:
    """Freezes a model on a device for the checks; it is as it was afterwards.

    Every evaluation gets a copy of the model that has answered no query, since an evaluation looks for memory.

    Args:
        model: Images in [0, 1] to logits.
        images: ``(N, C, H, W)`` in [0, 1].
        labels: ``(N,)``.
        options: How it is audited.
        training: See :class:`~.model_probe.ModelProbe`.

    Raises:
        UserError: The model does not give logits for these images, or the radius is not allowed.
    """
    PGD().threat(images[:1], norm=options.norm, eps=options.eps, targeted=False)
    if options.eps == 0:
        raise UserError("eps is 0, where nothing can be attacked: give a radius above 0, such as 8/255")
    fresh = copy_of(model)

    def run(
        attack: Attack, images: Tensor, labels: Tensor, *, other: nn.Module | None = None, **keywords: Any
    ) -> Attacked:
        attacked = other or (None if fresh is None else copy_of(fresh)) or model
        return evaluate(
            attacked,
            images,
            labels,
            attack=attack,
            **({"device": options.device, "batch_size": options.batch_size, "progress": _show_nothing} | keywords),
        )

    with (
        current(options.device),
        torch.inference_mode(mode=False),
        preserve_generators(),
        measured_on(model, images, options.device, "float32", batch_size=options.batch_size) as measured,
    ):
        classes = check_model(model, measured.images, labels)
        yield ModelProbe(
            measured=measured,
            images=images.to(options.device),
            labels=labels.to(options.device),
            norm=options.norm,
            eps=options.eps,
            classes=classes,
            seed=options.seed,
            budget=options.budget,
            run=run,
            fresh=fresh,
            training=training,
        )


@dataclass(frozen=True)
class ModelAuditPlan:
    """The checks of an audit of a model.

    Attributes:
        checks: Those that run.
        left_out: Those that do not, and why.
    """

    checks: Sequence[Check]
    left_out: Sequence[LeftOut]

    @classmethod
    def of(cls, probe: ModelProbe) -> ModelAuditPlan:
        """Plans the audit of a model within the budget of its probe.

        Args:
            probe: The model and the images.
        """
        run, left_out = [], []
        for check in load_checks_at("finding_in_model", *IN_EVALUATION):
            reason = _obstacle(check, probe)
            if reason:
                left_out.append(LeftOut(check=check.name, reason=reason))
            else:
                run.append(check)
        return cls(run, left_out)


def _show_nothing(_: int) -> None:
    """A notebook needs no bar for each of many short attacks."""


def passes_of(checks: Sequence[Check], probe: ModelProbe) -> int:
    """The cost of some checks with what they share, if no attack stops early.

    Args:
        checks: The checks.
        probe: The model and the images.

    Returns:
        Passes of one image through the model with one draw, forward and backward.
    """
    needs = {need for check in checks for need in check.needs}
    shared = probe.passes_of(probe.baseline_attack, probe.baseline_images) if "baseline" in needs else 0
    shared += len(probe) if "logits" in needs else 0
    shared += probe.path_passes if "path" in needs else 0
    return shared + sum(check.passes(probe) for check in checks)


def _obstacle(check: Check, probe: ModelProbe) -> str:
    """Why a check cannot run; empty if it can."""
    if BUDGETS.index(check.budget) > BUDGETS.index(probe.budget):
        return f"it needs the budget {check.budget}"
    if "gradients" in check.needs and probe.without_gradients:
        return "the model gives no input gradients"
    if "training" in check.needs and probe.training is None:
        return "the training images are not known"
    return ""


def expected_seconds(probe: ModelProbe, checks: Sequence[Check], passes: int) -> float:
    """The expected time of some checks, from timed forward and backward passes of a batch.

    Args:
        probe: The model and the images.
        checks: The checks.
        passes: Their passes, if no attack stopped early.
    """
    return _SECONDS_AT_START + len(checks) * _SECONDS_PER_CHECK + _SHARE_OF_PASSES * passes * _seconds_per_pass(probe)


def _seconds_per_pass(probe: ModelProbe) -> float:
    """The time of one pass of one image with one draw, in a batch."""
    rows = torch.arange(min(_TIMED, len(probe)), device=probe.images.device)
    source = probe.source(rows)

    def once() -> int:
        before = source.forwards + source.backwards
        if probe.without_gradients:
            source.logits(probe.images[rows])
        else:
            source.gradient(probe.images[rows], probe.labels[rows], cross_entropy)
        if rows.device.type == "cuda":
            torch.cuda.synchronize(rows.device)
        return round(source.forwards + source.backwards - before)

    once()
    # Other processes interrupt most passes on a busy machine, so the fastest of several counts.
    times: list[float] = []
    begun = time.perf_counter()
    while len(times) < 2 or time.perf_counter() - begun < _SECONDS_OF_TIMING:
        started = time.perf_counter()
        passes = once()
        times.append((time.perf_counter() - started) / passes)
    return min(times)


def run_check(
    check: Check, probe: ModelProbe, *, keep: Callable[[ScoredDraws], None] = lambda _: None
) -> Finding | LeftOut | None:
    """What a check finds in a model; its error is a finding too.

    Args:
        check: The check.
        probe: The model and the images.
        keep: Called with what the check keeps for comparisons with rows; see :meth:`~.check.Check.outcomes_for_rows`.

    Returns:
        Why it was left out, where it cannot decide; ``None`` if nothing speaks against the model.
    """

    def look() -> Finding | None:
        outcomes = check.outcomes_for_rows(probe)
        if outcomes is not None:
            keep(outcomes)
        return check.finding_in_model(probe)

    try:
        return finding_or_failure(check, look)
    except UndecidedError as undecided:
        return LeftOut(check=check.name, reason=str(undecided))


@checked_keywords
def audit(
    model: nn.Module,
    images: Images,
    labels: Labels,
    *,
    eps: Radius,
    norm: Norm = "linf",
    budget: Budget = "standard",
    seed: int = 0,
    device: torch.device | str | None = None,
) -> Audited:
    """Looks in a model for the known ways in which a robust accuracy deceives.

    Args:
        model: Images in [0, 1] to logits, normalization inside; it is left as it was.
        images: ``(N, C, H, W)``, floats in [0, 1] or uint8, as a tensor or an array.
        labels: ``(N,)`` in [0, K), of any integer type.
        eps: The radius, as a number or as ``"8/255"``.
        norm: ``"linf"``, ``"l2"`` or ``"l1"``.
        budget: ``"quick"``, ``"standard"`` or ``"thorough"``.
        seed: The seed of everything that is random.
        device: Where to compute; the model's own device by default.

    Returns:
        The verdict in ``verdict``, the evidence in ``findings``, and in ``left_out`` the checks that did not run.

    Raises:
        UserError: An argument is not allowed, or the model does not give logits.
    """
    tensor, whole, target = checked_call(model, images, labels, device)
    options = AuditOptions(
        norm=checked_norm(norm, NORMS, name="audit"),
        eps=parse_radius(eps),
        budget=_checked_budget(budget),
        seed=checked_seed(seed),
        device=target,
    )
    with probe_of(model, tensor, whole, options) as probe:
        plan = ModelAuditPlan.of(probe)
        found = {check.name: run_check(check, probe) for check in plan.checks}
    return Audited(
        findings=by_severity(finding for finding in found.values() if isinstance(finding, Finding)),
        passed=tuple(sorted(name for name, finding in found.items() if finding is None)),
        left_out=(*plan.left_out, *(entry for entry in found.values() if isinstance(entry, LeftOut))),
        budget=budget,
    )


def _checked_budget(budget: str) -> Budget:
    """A budget that a Python caller gave.

    Raises:
        UserError: There is no such budget.
    """
    for known in BUDGETS:
        if budget == known:
            return known
    raise UserError(f"no budget {budget!r}: {did_you_mean(str(budget), BUDGETS)}")

"""Evaluates a model under an attack: searches batch by batch, checks, and scores on held-out randomness."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor, nn

from robustbench_cli.attacks.base.attack import Attack
from robustbench_cli.attacks.base.inputs import (
    Images,
    Labels,
    checked_call,
    checked_count,
    checked_device,
    checked_eot,
    checked_norm,
    checked_seed,
    device_of,
    parse_radius,
)
from robustbench_cli.attacks.base.models.freezing import copy_of, frozen_on
from robustbench_cli.attacks.base.models.measured_model import MeasuredModel
from robustbench_cli.attacks.base.models.passes import BatchSize
from robustbench_cli.attacks.base.models.precision import Precision
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import preserve_generators, seed_from
from robustbench_cli.benchmarks.checkpoints.repeats import resolve_repeats
from robustbench_cli.benchmarks.devices import current
from robustbench_cli.benchmarks.evaluation.checks import raised_flags, row_flags
from robustbench_cli.benchmarks.evaluation.checks.base.moments import EvaluatedModels, FinishedEvaluation
from robustbench_cli.benchmarks.evaluation.context import RunContext
from robustbench_cli.benchmarks.evaluation.device_images import DeviceImages
from robustbench_cli.benchmarks.evaluation.early_stopping import (
    LOOK_EVERY,
    StoppingRule,
    accuracy_text,
    in_random_order,
    summarize_row,
)
from robustbench_cli.benchmarks.evaluation.notebook_bar import notebook_bar
from robustbench_cli.benchmarks.evaluation.options import EvaluationOptions
from robustbench_cli.benchmarks.evaluation.outcomes import Outcomes
from robustbench_cli.benchmarks.evaluation.partial_results import BatchResult, division, shared_batch
from robustbench_cli.benchmarks.evaluation.pass_settings import measured_on, pass_settings
from robustbench_cli.benchmarks.evaluation.scoring import Scorer
from robustbench_cli.benchmarks.evaluation.search import AttackSearch
from robustbench_cli.benchmarks.evaluation.setup import Setup, gradient_precision_of
from robustbench_cli.benchmarks.models.base.build import check_model
from robustbench_cli.core.errors import UserError, did_you_mean

__all__ = ["Evaluation", "attack_free_batches", "evaluate", "predict", "settings_of"]

IMAGES_AT_ONCE = 1024
"""The most images that an attack holds at once; the gradient source cuts them into the batches that pass through the model.
With more, a step of a small network on a GPU is no longer bound by its launches, and an interruption loses more.
"""

BYTES_AT_ONCE = 2**26
"""The most memory of these images; an attack holds some ten tensors of their size."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Evaluation:
    """The outcomes of an attack on a data slice, with its flags and costs.

    Attributes:
        outcomes: The outcome of every image.
        flags: Names of the :mod:`checks <.checks>` that speak against the result, in the order of a row.
        forwards: Images passed forward through the models, by the attack and by the scoring, in passes of one draw.
        backwards: Images passed backward to the input.
        seconds: Wall time; where several processes attacked batches, the sum of theirs.
        precision: The precision of the attack's gradients: ``"float32"``, also for an attack without gradients; ``"tf32"``,
            on a GPU; or ``"bf16"``.
        perturbed: ``(N, C, H, W)``, on the CPU: the perturbed image of the target that the deployed rule survives least.
            It is the clean image where a minimal-norm attack found nothing within the radius, where an earlier attack had
            broken the image, and where the evaluation stopped before it.
        is_sample: Whether the images were attacked in random order until the accuracy was decided, so that the outcomes are
            those of the attacked images in this order.
    """

    outcomes: Outcomes
    flags: tuple[str, ...]
    forwards: int
    backwards: int
    seconds: float
    precision: Precision
    perturbed: Tensor
    is_sample: bool = False

    @property
    def summary(self) -> dict[str, float]:
        """The figures of the table's row, by column; see :func:`~.early_stopping.summarize_row`."""
        return summarize_row(self.outcomes, is_sample=self.is_sample)

    def __repr__(self) -> str:
        accuracies = (accuracy_text(self.summary, name) for name in ("clean_accuracy", "robust_accuracy"))
        flags = f", flags {', '.join(self.flags)}" if self.flags else ""
        return f"{type(self).__name__}: {', '.join(accuracies)}{flags}; {self.forwards:,} + {self.backwards:,} passes"


def evaluate(
    model: nn.Module,
    images: Images,
    labels: Labels,
    *,
    attack: Attack,
    options: EvaluationOptions | None = None,
    context: RunContext | None = None,
    **keywords: Any,
) -> Evaluation:
    """Measures the accuracy of a model under an attack.

    The attack is never trusted: its images are projected into the ball and the box, and scored by the deployed rule on
    held-out draws. The clean image is always another candidate.

    Args:
        model: Images in [0, 1] to logits, normalization inside; it is left as it was.
        images: ``(N, C, H, W)``, floats in [0, 1] or uint8, as a tensor or an array.
        labels: ``(N,)`` in [0, K), of any integer type.
        attack: The attack and its parameters.
        options: What is measured; or give its fields as keywords: ``eps="8/255", repeats=10``.
        context: How it runs; or give its fields as keywords: ``device="cuda", batch_size=64``.
        **keywords: Fields of :class:`~.options.EvaluationOptions` and of :class:`~.context.RunContext`.

    Returns:
        The figures by column in ``summary``, and in ``flags`` the checks that speak against them.

    Raises:
        UserError: A keyword is unknown, an input is not allowed, the model does not give logits, the attack gives no
            images, or ``eot`` is exact and the draws of the model cannot be counted.
    """
    started = time.perf_counter()
    if not isinstance(attack, Attack):
        raise UserError(f"attack is {attack!r}: give an attack with its parameters, such as PGD(steps=40)")
    options, context = settings_of(attack.norms, type(attack).__name__, options, context, keywords)
    images, labels, context = _checked_inputs(model, images, labels, context)
    if context.progress is RunContext.progress:
        context = replace(context, progress=notebook_bar(len(images)))
    unbroken, is_sample = _to_attack(len(images), options, context), options.stop_when_decided is not None
    with _prepared(model, images, labels, attack=attack, options=options, context=context) as search:
        batches, resumed_seconds = _search_batches(search, images, unbroken, context)
        flags, precision = _flags(search.setup, batches), search.source.precision
        outcomes = replace(
            _all_outcomes(context.earlier, unbroken, batches, single_draw=search.setup.single_draw),
            draws_shared=np.asarray(search.setup.attacked.rows_share_draws),
        )
    perturbed = images.cpu().clone()
    for batch in batches:
        perturbed[batch.indices] = batch.perturbed
    return Evaluation(
        outcomes=outcomes,
        flags=flags,
        forwards=round(sum(batch.forwards for batch in batches)),
        backwards=round(sum(batch.backwards for batch in batches)),
        seconds=time.perf_counter() - started + resumed_seconds,
        precision=precision,
        perturbed=perturbed,
        is_sample=is_sample,
    )


def attack_free_batches(
    model: nn.Module,
    images: Images,
    labels: Labels,
    *,
    attack: Attack,
    options: EvaluationOptions,
    context: RunContext,
    take: Callable[[range], AbstractContextManager[bool]],
) -> bool:
    """Attacks the batches of an evaluation that no other process attacks, and stores their results.

    Once all are stored, :func:`evaluate` with the same arguments joins them. The batches depend on the number of images alone,
    so the result is the same for any number of processes, which may come and go.

    Args:
        model: See :func:`evaluate`.
        images: See :func:`evaluate`.
        labels: See :func:`evaluate`.
        attack: See :func:`evaluate`.
        options: What is measured.
        context: How it runs; its partial results are those of all processes.
        take: Takes a batch for the body of a ``with``, and gives whether this process may attack it.

    Returns:
        Whether the results of all batches are stored. A single batch is left to :func:`evaluate`, and counts as stored, and
        so is an evaluation that may stop after any batch.

    Raises:
        UserError: See :func:`evaluate`; or a result cannot be stored.
    """
    images, labels, context = _checked_inputs(model, images, labels, context)
    unbroken, stored = _unbroken(len(images), context), context.partial_results
    assert stored is not None
    batches = division(len(unbroken), shared_batch(len(unbroken), _images_at_once(images)), stored.batches)
    missing = [batch for batch in batches if not stored.has(batch, unbroken[batch])]
    if len(batches) <= 1 or options.stop_when_decided is not None:
        context.progress(0)
        return True
    with ExitStack() as stack:
        search: AttackSearch | None = None
        for batch in list(missing):
            with take(batch) as is_free:
                # Another process may have attacked it since the last look.
                if is_free and not stored.has(batch, unbroken[batch]):
                    # The first report begins the time limit.
                    context.progress(len(images) - sum(map(len, missing)))
                    if search is None:
                        prepared = _prepared(model, images, labels, attack=attack, options=options, context=context)
                        search = stack.enter_context(prepared)
                    stored.write(batch, search.run(unbroken[batch]))
            missing = [batch for batch in missing if not stored.has(batch, unbroken[batch])]
            context.progress(len(images) - sum(map(len, missing)))
    return not missing


def _checked_inputs(
    model: nn.Module, images: Images, labels: Labels, context: RunContext
) -> tuple[Tensor, Tensor, RunContext]:
    """The images and the labels as tensors, in the type of the model, and the context with its device.

    Raises:
        UserError: An input is not allowed.
    """
    tensor, whole, device = checked_call(model, images, labels, context.device)
    return tensor, whole, replace(context, device=device)


def _unbroken(count: int, context: RunContext) -> Tensor:
    """``(M,)``, the indices of the images that no earlier attack has broken."""
    if context.earlier is None:
        return torch.arange(count)
    return torch.from_numpy(~context.earlier.broken()).nonzero()[:, 0]


def _to_attack(count: int, options: EvaluationOptions, context: RunContext) -> Tensor:
    """``(M,)``, the indices of the images to attack, in the order in which they are attacked.

    Raises:
        UserError: An evaluation that may stop early continues another attack.
    """
    unbroken = _unbroken(count, context)
    if options.stop_when_decided is None:
        return unbroken
    if context.earlier is not None:
        raise UserError("stop_when_decided needs all images: leave out earlier, the outcomes of another attack")
    return in_random_order(unbroken, options.seed)


def settings_of(
    norms: tuple[Norm, ...],
    name: str,
    options: EvaluationOptions | None,
    context: RunContext | None,
    keywords: Mapping[str, Any],
) -> tuple[EvaluationOptions, RunContext]:
    """The options and the context of an evaluation, from objects or from keywords.

    Args:
        norms: The norms that are allowed.
        name: What supports them, for messages.
        options: See :func:`evaluate`.
        context: See :func:`evaluate`.
        keywords: See :func:`evaluate`.

    Raises:
        UserError: A keyword is unknown, is given twice, or its value is not allowed.
    """
    of_options = list(EvaluationOptions.model_fields)
    of_context = [field.name for field in fields(RunContext)]
    for key in keywords:
        if key not in {*of_options, *of_context}:
            parameters = ("model", "images", "labels", "attack", "options", "context", *of_options, *of_context)
            raise UserError(f"evaluate has no parameter '{key}': {did_you_mean(key, parameters)}")
    for given, value, names in (("options", options, of_options), ("context", context, of_context)):
        twice = [key for key in keywords if key in names]
        if value is not None and twice:
            raise UserError(f"evaluate has {given} and the keyword '{twice[0]}': give {twice[0]} in {given}")
    if options is None:
        options = _checked_options(norms, name, {key: value for key, value in keywords.items() if key in of_options})
    if context is None:
        context = RunContext(**{key: value for key, value in keywords.items() if key in of_context})
    return options, context


def _checked_options(norms: tuple[Norm, ...], name: str, values: Mapping[str, Any]) -> EvaluationOptions:
    """The options that a Python caller gave by keywords.

    Raises:
        UserError: A value is not allowed.
    """
    values = dict(values)
    if values.get("norm") is not None:
        values["norm"] = checked_norm(values["norm"], norms, name=name)
    if values.get("eps") is not None:
        values["eps"] = parse_radius(values["eps"])
    if "eot" in values:
        values["eot"] = checked_eot(values["eot"])
    if "seed" in values:
        values["seed"] = checked_seed(values["seed"])
    if values.get("repeats") is not None:
        values["repeats"] = checked_count(values["repeats"], "repeats")
    try:
        return EvaluationOptions(**values)
    except ValidationError as error:
        first = error.errors()[0]
        message = first["msg"].removeprefix("Value error, ").replace("Input should be", "it must be")
        raise UserError(f"{first['loc'][0]} is {first['input']!r}: {message}") from None


@contextmanager
def _prepared(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    attack: Attack,
    options: EvaluationOptions,
    context: RunContext,
) -> Iterator[AttackSearch]:
    """Puts the models on the device, frozen and checked; they are as they were afterwards."""
    assert isinstance(context.device, torch.device)
    device = context.device
    followed = attack.queried_model(model)
    probe = images[_spread_over_classes(labels, 8)]
    # Copied before the first query: what the model remembers of other evaluations is not deployed either.
    fresh = copy_of(model)
    with ExitStack() as stack:
        stack.enter_context(current(device))
        stack.enter_context(torch.inference_mode(mode=False))
        stack.enter_context(preserve_generators())
        precision = gradient_precision_of(attack, options)
        is_inside = any(followed is layer for layer in model.modules())
        networks = (model,) if is_inside else (model, followed)
        settings = {network: pass_settings(network, probe, device, precision) for network in networks}
        size = BatchSize(context.batch_size or min(fastest.rows for fastest in settings.values()))
        layouts = {
            network: stack.enter_context(frozen_on(network, device, probe, layout=fastest.memory_format, size=size))
            for network, fastest in settings.items()
        }
        if fresh is not None:
            # The copy gets the model's memory layout, on which its draws depend, without a query.
            fresh.to(device).to(memory_format=layouts[model]).eval().requires_grad_(False)
        shared = _shared_measurements(context, probe, layouts[model], size, precision)
        probe = probe.to(device)
        classes = _checked_classes(model, probe, labels, size)
        attacked = measured = MeasuredModel(model, probe, size, shared=shared)
        if followed is not model:
            _checked_classes(followed, probe, labels, size, classes=classes, name="the surrogate")
            measured = MeasuredModel(followed, probe, size)
        setup = Setup(attack=attack, options=options, attacked=attacked, followed=measured, classes=classes)
        yield _search(setup, fresh, DeviceImages(images, device), labels, context)


def _shared_measurements(
    context: RunContext, probe: Tensor, layout: torch.memory_format, size: BatchSize, precision: Precision
) -> dict[Hashable, Any]:
    """The measurements of equal models on the same images and device, in the same layout, batch size and precision."""
    if context.measurements is None:
        return {}
    images = hashlib.sha256(probe.detach().cpu().contiguous().numpy().tobytes()).hexdigest()
    key = (images, str(context.device), layout, size.rows, precision)
    shared: dict[Hashable, Any] = context.measurements.setdefault(key, {})
    return shared


def _checked_classes(model: nn.Module, probe: Tensor, labels: Tensor, size: BatchSize, **expected: Any) -> int:
    """The classes of a model that passes :func:`.check_model` on a few images, no more than fit the batch size."""
    few = probe[:4]
    return size.retry_smaller(len(few), lambda: check_model(model, few[: size.rows], labels, **expected))


def _search(
    setup: Setup, fresh: nn.Module | None, images: DeviceImages, labels: Tensor, context: RunContext
) -> AttackSearch:
    """The search of an attack, with the gradient sources and the scorer that it needs."""
    attack, options, attacked, followed = setup.attack, setup.options, setup.attacked, setup.followed
    scorer = Scorer(
        attacked,
        repeats=resolve_repeats(options.repeats, randomized=attacked.randomized),
        # Each attack is scored on draws of its own, on whichever images it runs.
        seed=seed_from(options.seed, repr(attack)) if setup.single_draw else options.seed,
        single_draw=setup.single_draw,
    )
    source = followed.source(options.eot, seed=options.seed, targeted=options.is_targeted, precision=setup.precision)
    return AttackSearch(
        images=images,
        labels=labels,
        setup=setup,
        source=source,
        # The attacked model chooses the target classes, also where the attack follows a surrogate.
        target_source=source if followed is attacked else attacked.source("auto"),
        scorer=scorer,
        fresh=None if fresh is None else scorer.of_copy(fresh),
        allow_no_gradients=context.allow_no_gradients,
    )


def _images_at_once(images: Tensor) -> int:
    """How many images an attack holds at once: the same on every device, since results are stored by these batches."""
    return max(1, min(IMAGES_AT_ONCE, BYTES_AT_ONCE // (images[:1].numel() * 4)))


def _search_batches(
    search: AttackSearch, images: Tensor, unbroken: Tensor, context: RunContext
) -> tuple[list[BatchResult], float]:
    """Attacks the unbroken images batch by batch, or reads the batches that an interrupted call has stored.

    Args:
        search: The attack and the models.
        images: ``(N, C, H, W)``, of the whole data slice.
        unbroken: ``(M,)``, indices of the images to attack.
        context: How the evaluation runs.

    Returns:
        The results of all batches, and the seconds that the stored ones took.
    """
    stored = context.partial_results
    results: list[BatchResult] = []
    resumed_seconds = 0.0
    limit = search.setup.options.stop_when_decided
    rule = StoppingRule(limit, len(unbroken))
    at_once = _images_at_once(images) if limit is None else LOOK_EVERY
    for batch in division(len(unbroken), at_once, () if stored is None else stored.batches):
        indices = unbroken[batch]
        result = None if stored is None else stored.read(batch, indices, images[indices].cpu())
        if result is not None:
            resumed_seconds += result.seconds
        else:
            result = search.run(indices)
            # A single batch is the whole evaluation, which is stored a moment later anyway. If a batch cannot be stored, an
            # interrupted evaluation repeats it, and a folder that cannot be written is an error when the result is stored.
            if stored is not None and len(unbroken) > len(indices):
                with suppress(UserError):
                    stored.write(batch, result)
        results.append(result)
        decided = rule.is_decided(result)
        context.progress(len(images) if decided else len(images) - len(unbroken) + batch.stop)
        if decided:
            break
    return results, resumed_seconds


def _flags(setup: Setup, batches: list[BatchResult]) -> tuple[str, ...]:
    """The flags of an evaluation, in the order of a row."""
    models = EvaluatedModels(setup=setup)
    raised = raised_flags(lambda check: check.raised_by_models(models))
    raised.update(*(batch.flags for batch in batches))
    return row_flags(FinishedEvaluation(setup=setup, batches=batches, raised=frozenset(raised)))


def _all_outcomes(
    earlier: Outcomes | None, unbroken: Tensor, batches: list[BatchResult], *, single_draw: bool
) -> Outcomes:
    """The outcomes of all images: those of the batches, joined with those of an earlier attack."""
    if earlier is not None and not batches:
        return earlier
    outcomes = Outcomes(
        **{name: np.concatenate([batch.outcomes[name] for batch in batches], axis=-1) for name in batches[0].outcomes}
    )
    if earlier is None:
        return outcomes
    rows = unbroken.numpy()
    if single_draw:
        # The clean image has had its one draw already.
        outcomes = replace(outcomes, clean=earlier.clean[:, rows], clean_survival=earlier.clean_survival[rows])
    return earlier.joined(rows, outcomes)


def _spread_over_classes(labels: Tensor, count: int) -> Tensor:
    """Indices of up to ``count`` images spread over the classes: the first of each, then the second of each."""
    rank = torch.zeros_like(labels)
    for label in labels.unique():
        of_class = (labels == label).nonzero().squeeze(1)
        rank[of_class] = torch.arange(len(of_class), device=labels.device)
    return rank.argsort(stable=True)[:count].sort().values


def predict(
    model: nn.Module,
    images: Tensor,
    *,
    repeats: int,
    seed: int = 0,
    device: torch.device | str | None = None,
    batch_size: int | None = None,
) -> NDArray[np.int64]:
    """The predictions of the deployed rule.

    Args:
        model: See :func:`evaluate`.
        images: ``(N, C, H, W)`` in [0, 1].
        repeats: R, the draws of a randomized model.
        seed: Seed of the draws.
        device: See :class:`~.context.RunContext`.
        batch_size: See :class:`~.context.RunContext`.

    Returns:
        ``(R, N)`` predictions, see :func:`~robustbench_cli.attacks.base.models.decision.decisions`; ``(1, N)`` for a
        deterministic model.
    """
    device = checked_device(device) if device is not None else device_of(model)
    with (
        current(device),
        preserve_generators(),
        measured_on(model, images, device, "float32", batch_size=batch_size) as measured,
    ):
        source = measured.source(repeats)
        predictions, at_once = [], _images_at_once(images)
        for indices, part in zip(
            torch.arange(len(images), device=device).split(at_once), images.split(at_once), strict=True
        ):
            source.bind_draws(seed_from(seed, "predict"), indices)
            predictions.append(source.decisions(part.to(device)).cpu())
    return np.asarray(torch.cat(predictions, dim=1).numpy())

"""Evaluates a model in memory under one or several attacks, by the cells, checks and defaults of the command line."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.inputs import Images, Labels, checked_call
from robustbench_cli.attacks.base.models.freezing import copy_of
from robustbench_cli.attacks.base.norm import NORMS, Norm
from robustbench_cli.attacks.base.rng import preserve_generators
from robustbench_cli.attacks.base.threat import distance, per_image
from robustbench_cli.benchmarks.audit.row_groups import flags_of_groups
from robustbench_cli.benchmarks.datasets.base.slice import Slice
from robustbench_cli.benchmarks.devices import current, device_name
from robustbench_cli.benchmarks.evaluation import evaluate as one_attack
from robustbench_cli.benchmarks.evaluation.context import RunContext
from robustbench_cli.benchmarks.evaluation.early_stopping import in_random_order
from robustbench_cli.benchmarks.evaluation.evaluate import Evaluation, settings_of
from robustbench_cli.benchmarks.evaluation.outcomes import Outcomes
from robustbench_cli.benchmarks.evaluation.pass_settings import measured_on
from robustbench_cli.benchmarks.execution.job import Job
from robustbench_cli.benchmarks.interface.evaluated import Evaluated
from robustbench_cli.benchmarks.interface.planned import Named, PlannedAttacks, described
from robustbench_cli.benchmarks.models.base.build import check_model
from robustbench_cli.benchmarks.reports.columns import COLUMNS
from robustbench_cli.benchmarks.reports.rows import model_and_threat, rows
from robustbench_cli.benchmarks.store.records import Result
from robustbench_cli.benchmarks.store.worst_case_flags import blinded
from robustbench_cli.core.errors import UserError

__all__ = ["Progress", "evaluate_attacks"]

Progress = Callable[[str, int, int], None]
"""Called with an attack's label, the number of its images done, and the number of all images."""

_OF_FILES = ("dataset", "model", "checkpoint", "checkpoint_sha256", "defense", "cell", "des")
"""Columns about files and stores, and the score that needs an undefended model."""


def evaluate_attacks(
    model: nn.Module,
    images: Images,
    labels: Labels,
    attack: Named,
    *,
    report: Progress,
    **keywords: Any,
) -> Evaluated:
    """Attacks a model with one or several attacks; see :func:`robustbench_cli.verbs.evaluate`.

    Args:
        model: Images in [0, 1] to logits; it is left as it was.
        images: ``(N, C, H, W)``, floats in [0, 1] or uint8, as a tensor or an array.
        labels: ``(N,)`` in [0, K), of any integer type.
        attack: The attacks.
        report: Called at the start of each attack and after each batch.
        **keywords: ``options``, ``context``, or fields of both.

    Raises:
        UserError: See :func:`~.evaluation.evaluate.evaluate`; or a name is unknown.
    """
    planned = PlannedAttacks(attack)
    text = keywords.get("eps")
    options, context = settings_of(
        NORMS, "evaluate", keywords.pop("options", None), keywords.pop("context", None), keywords
    )
    tensor, whole, device = checked_call(model, images, labels, context.device)
    context = replace(context, device=device)
    has_norm = options.norm is not None
    options = options.model_copy(update={"norm": planned.norm(options.norm)})
    examples = Slice(images=tensor, labels=whole, sha256="")
    # A model that remembers queries gets none before its evaluation.
    fresh = copy_of(model)
    with current(device), torch.inference_mode(mode=False), preserve_generators():
        with measured_on(_copy(fresh, model), tensor, device, "float32", batch_size=context.batch_size) as measured:
            classes = check_model(measured.model, measured.images, whole)
            defended = described(measured, classes)
        written = text if isinstance(text, str) else "" if options.eps is None else f"{options.eps:.9g}"
        jobs = planned.jobs(defended, examples, options, eps=written.strip(), has_norm=has_norm)
        if len(jobs) > 1 and context.partial_results is not None:
            raise UserError("partial_results are those of one attack: give one attack, or leave them out")
        run = _Run(planned, fresh, model, examples, context, report)
        for job in jobs:
            run.compute(job)
    return run.evaluated(jobs[0])


def _copy(fresh: nn.Module | None, model: nn.Module) -> nn.Module:
    """A copy that has answered no query; the model itself where it cannot be copied."""
    return (None if fresh is None else copy_of(fresh)) or model


@dataclass(frozen=True)
class _Computed:
    """A finished cell in memory; ``evaluation`` is ``None`` where its condition did not hold."""

    result: Result
    outcomes: Outcomes
    evaluation: Evaluation | None


class _Run:
    """Computes the cells of an evaluation one after the other, as a worker does with a store."""

    def __init__(
        self,
        planned: PlannedAttacks,
        fresh: nn.Module | None,
        model: nn.Module,
        examples: Slice,
        context: RunContext,
        report: Progress,
    ) -> None:
        self._planned, self._fresh, self._model, self._examples = planned, fresh, model, examples
        self._context, self._report = context, report
        self._computed: dict[str, _Computed] = {}

    def compute(self, job: Job) -> None:
        """Computes a cell, unless its condition does not hold."""
        cell = job.cell
        previous = None if job.previous is None else self._computed[job.previous.cell.id]
        if cell.only_if is not None and previous is not None and not self._holds(job):
            skipped = previous.result.model_copy(
                update={"cell": cell, "flags": (), "forwards": 0, "backwards": 0, "seconds": 0.0}
            )
            self._computed[cell.id] = _Computed(skipped, previous.outcomes, None)
            return
        number = len(self._examples)
        self._report(cell.attack_label, 0, number)

        def progress(done: int) -> None:
            self._context.progress(done)
            self._report(cell.attack_label, done, number)

        attack = self._planned.attack(cell.attack)
        evaluation = one_attack.evaluate(
            _copy(self._fresh, self._model),
            self._examples.images,
            self._examples.labels,
            attack=attack,
            options=cell.evaluation_options.model_copy(update={"eps": None} if attack.minimal_norm else {}),
            context=replace(
                self._context,
                earlier=self._context.earlier if previous is None else previous.outcomes,
                allow_no_gradients=self._context.allow_no_gradients or job.allow_no_gradients,
                progress=progress,
            ),
        )
        if attack.minimal_norm and cell.eps is not None:
            evaluation = _within(evaluation, self._examples.images.cpu(), cell.norm, cell.eps)
        self._computed[cell.id] = _Computed(self._result(job, evaluation), evaluation.outcomes, evaluation)

    def _holds(self, job: Job) -> bool:
        """Whether the earlier attacks of a cascade were blinded; there is no other condition."""
        chain = []
        earlier = job.previous
        while earlier is not None:
            chain.append(self._computed[earlier.cell.id])
            earlier = earlier.previous
        attacks = Outcomes.stacked([computed.outcomes for computed in chain])
        return blinded([computed.result for computed in chain], attacks, attacks.worst_attack())

    def _result(self, job: Job, evaluation: Evaluation) -> Result:
        """The record that a store would hold."""
        assert isinstance(self._context.device, torch.device)
        return Result(
            cell=job.cell,
            eps=job.eps,
            checkpoint="",
            summary={key: None if math.isnan(value) else value for key, value in evaluation.summary.items()},
            flags=evaluation.flags,
            forwards=evaluation.forwards,
            backwards=evaluation.backwards,
            seconds=evaluation.seconds,
            device=device_name(self._context.device),
            versions={},
            outcomes_sha256="",
            precision=evaluation.precision,
        )

    def evaluated(self, first: Job) -> Evaluated:
        """The result: the worst case over the attacks of the first cell's threat model, and the rows of all."""
        flags = flags_of_groups([], damaged=_raise)
        table = rows([computed.result for computed in self._computed.values()], self._read, flags)
        # A figure of every row stays, also where there is nothing to measure.
        figures = {entry.name for entry in COLUMNS if entry.gate is not None and entry.only in {None, "radius"}}
        optional = [name for name in table if name not in figures]
        empty = [name for name in optional if table[name].isna().all()]
        table = table.drop(columns={*_OF_FILES, *empty} & {*table.columns})
        ran = {
            computed.result.cell.attack_label: computed.evaluation
            for computed in self._computed.values()
            if computed.evaluation is not None
        }
        main = [
            computed
            for computed in self._computed.values()
            if computed.evaluation and model_and_threat(computed.result.cell) == model_and_threat(first.cell)
        ]
        stacked = Outcomes.stacked([computed.outcomes for computed in main])
        nearest = first.cell.eps is None
        strongest = stacked.strongest_attack(nearest=nearest)
        labels = np.asarray([computed.result.cell.attack_label for computed in main])
        indices = _attacked(len(self._examples), stacked, first)
        return Evaluated(
            table=table,
            attacks=ran,
            outcomes=stacked.worst_attack(nearest=nearest),
            perturbed=_perturbed(main, strongest, indices),
            strongest=labels[strongest],
            indices=indices,
        )

    def _read(self, results: Sequence[Result]) -> tuple[Sequence[Result], Outcomes]:
        return results, Outcomes.stacked([self._computed[result.cell.id].outcomes for result in results])


def _within(evaluation: Evaluation, images: Tensor, norm: Norm, eps: float) -> Evaluation:
    """What a minimal-norm attack, which searches at any distance, found within a radius."""
    outside = distance(evaluation.perturbed, images, norm) > eps + 1e-9
    perturbed = torch.where(per_image(outside, images), images, evaluation.perturbed)
    return replace(evaluation, outcomes=evaluation.outcomes.within(eps), perturbed=perturbed)


def _attacked(number: int, outcomes: Outcomes, job: Job) -> Any:
    """``(n,)``, the images whose outcomes there are, in their order."""
    every = torch.arange(number)
    order = every if job.cell.stop_when_decided is None else in_random_order(every, job.cell.seed)
    return order[: outcomes.labels.shape[-1]].numpy()


def _perturbed(main: Sequence[_Computed], strongest: Any, indices: Any) -> Tensor:
    """``(N, C, H, W)``, each image perturbed by its strongest attack."""
    chosen: Tensor | None = None
    for number, computed in enumerate(main):
        assert computed.evaluation is not None
        perturbed = computed.evaluation.perturbed
        chosen = perturbed.clone() if chosen is None else chosen
        rows = indices[strongest == number]
        chosen[rows] = perturbed[rows]
    assert chosen is not None
    return chosen


def _raise(error: UserError) -> None:
    raise error

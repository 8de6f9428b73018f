"""``advdef audit``: is this robustness real? Judges stored rows, or runs checks in a model."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from robustbench_cli.attacks.base.norm import NORMS
from robustbench_cli.benchmarks.evaluation.checks.base.finding import SEVERITIES, VERDICTS, Budget, Severity
from robustbench_cli.cli import console, tables
from robustbench_cli.cli.gate_args import informational_option, obey
from robustbench_cli.cli.model_args import ModelArgs, model_options
from robustbench_cli.cli.options import (
    Common,
    command,
    computing,
    is_given,
    is_on_command_line,
    option,
    output_files,
    output_format,
    training_settings,
    warn_of_fewer_images,
)
from robustbench_cli.cli.param_types import EPS, OneOf, Setting
from robustbench_cli.core.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from robustbench_cli.attacks.base.eps import Eps
    from robustbench_cli.attacks.base.norm import Norm
    from robustbench_cli.benchmarks.audit.records import AuditTarget
    from robustbench_cli.benchmarks.audit.verdict import AuditedRows
    from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel
    from robustbench_cli.benchmarks.datasets.base.dataset import Dataset
    from robustbench_cli.benchmarks.evaluation.checks.base.model_probe import ModelProbe
    from robustbench_cli.benchmarks.evaluation.statistics.paired import ScoredDraws
    from robustbench_cli.benchmarks.store.records import Failure, RequestedCell
    from robustbench_cli.benchmarks.store.store import Store

__all__ = ["audit"]

_FORMATS = ("json", "markdown", "html", "junit", "github", "sarif")
"""The formats of an audit beside the text for a terminal."""

_N: dict[Budget, int] = {"quick": 100, "standard": 500, "thorough": 1000}
"""The number of images of each budget."""

_TRAINING_IMAGES = 10_000
"""The most training images that the checks may look at."""

_OF_MODELS = ("budget", "norm", "eps", "n", "settings")
"""The options that only an audit of a model has."""

_OF_RUNS = ("seed", "device", "batch_size")
"""Options of all commands that compute, which an audit of a store does not."""


@command("audit")
@click.argument("store_to_judge", required=False, type=click.Path(path_type=Path), metavar="[STORE]")
@model_options(checkpoints=True, checkpoint_help="Audit the model in this file.")
@training_settings
@option(
    "--budget",
    type=OneOf(get_args(Budget)),
    default="standard",
    show_default=True,
    group="Audit",
    help="How much the checks in the model may cost.",
)
@option("--norm", type=OneOf(NORMS), default="linf", show_default=True, group="Audit", help="Norm of the perturbation.")
@option(
    "--eps", type=EPS, group="Audit", help="Radius of the perturbation.  [default in linf: the data set's usual radius]"
)
@option(
    "--n",
    type=click.IntRange(min=1),
    group="Data",
    help="Number of test images, from the first on.  [default: 100, 500 or 1000, by the budget]",
)
@option("--strict", is_flag=True, group="Gates", help="Exit with 1 unless all verdicts are 'consistent'.")
@option(
    "--fail-on-verdict",
    type=OneOf(SEVERITIES),
    group="Gates",
    help="Exit with 1 if a verdict is broken, or at least suspicious (which is --strict).",
)
@informational_option
@output_format("table", *_FORMATS)
@output_files(_FORMATS, content="audit")
@computing
def audit(
    common: Common,
    args: ModelArgs,
    store_to_judge: Path | None,
    settings: tuple[Setting, ...],
    budget: Budget,
    norm: Norm,
    eps: Eps | None,
    n: int | None,
    strict: bool,
    fail_on_verdict: Severity | None,
    informational: bool,
    output_format: str,
    outputs: tuple[Path, ...],
) -> None:
    """Look for the known ways in which a robust accuracy deceives, and show the evidence.

    "advdef audit STORE" judges stored rows, and runs nothing. With --checkpoint, --model, --dataset or --defense it runs
    checks in the model, within a budget, and stores what they find; the flags appear in "advdef report" too. The verdict
    is consistent, suspicious or broken, for the rows of each model, data slice and norm.
    """
    from robustbench_cli.benchmarks.audit.formats import FORMATS
    from robustbench_cli.benchmarks.reports.formats import format_of_file

    if strict and fail_on_verdict is not None:
        raise UserError("--strict is --fail-on-verdict suspicious: give one of them")
    given = args.given or ", ".join(f"--{name}" for name in _OF_MODELS if is_given(name))
    if store_to_judge is not None and given:
        raise UserError(
            f"the store {store_to_judge} is judged without running a model, and {given} is for a model: give one of them, and "
            f"--store {store_to_judge} for the folder of the results"
        )
    unused = [name for name in _OF_RUNS if is_on_command_line(name)] if not given else []
    if store_to_judge is not None and is_on_command_line("store"):
        unused.append("store")
    if unused:
        raise UserError(
            f"--{unused[0].replace('_', '-')} changes nothing: an audit of a store runs no model; leave it out"
        )
    tables.require_writable(outputs, _FORMATS)
    if given:
        groups, missing = _of_models(common, args, settings, budget, norm, eps, n)
    else:
        groups, missing = _of_store(store_to_judge or common.store)
    console.report(FORMATS[output_format](groups))
    for path in outputs:
        tables.write_text(path, FORMATS[format_of_file(path, _FORMATS)](groups))
    _judge(groups, missing, worst="suspicious" if strict else fail_on_verdict, informational=informational)


def _of_store(path: Path) -> tuple[list[AuditedRows], list[str]]:
    """The groups of a store, and a line for each damaged file, failed cell and missing cell."""
    from robustbench_cli.benchmarks.audit.verdict import with_labels
    from robustbench_cli.benchmarks.store.store import Store

    groups, lines = _judged_rows(Store(path))
    if not groups and not lines:
        raise UserError(f"{path} has no results: run 'advdef attack --store {path}' first")
    return with_labels(groups), lines


def _judged_rows(store: Store, *, checkpoint: str | None = None) -> tuple[list[AuditedRows], list[str]]:
    """The groups of a store, or of one model in it, and a line for each damaged file, failed cell and missing cell."""
    from robustbench_cli.benchmarks.audit.row_groups import audit_store
    from robustbench_cli.cli.descriptions import failure_line, missing_line

    lines: list[str] = []

    def collect(error: UserError) -> None:
        lines.append(str(error))

    def of_model(entry: Failure | RequestedCell) -> bool:
        return checkpoint in {None, entry.cell.checkpoint}

    groups = audit_store(store, damaged=collect, checkpoint=checkpoint)
    lines += map(failure_line, filter(of_model, store.failures(damaged=collect)))
    lines += map(missing_line, filter(of_model, store.missing(damaged=collect).values()))
    return groups, list(dict.fromkeys(lines))


def _judge(
    groups: Sequence[AuditedRows],
    missing: Sequence[str],
    *,
    worst: Severity | None,
    informational: bool,
) -> None:
    """Ends the command with its exit code.

    Raises:
        CellsFailed: A row is missing.
        GateFailed: A verdict is ``worst`` or worse, and the gate is not informational.
    """
    refused = () if worst is None else VERDICTS[VERDICTS.index(worst) :]
    failed = [group for group in groups if group.verdict in refused]
    lines = []
    if failed:
        first = failed[0]
        others = f" (and {len(failed) - 1} more)" if failed[1:] else ""
        option = "--strict" if is_given("strict") else f"--fail-on-verdict {worst}"
        lines = [f"{option}: {first.title}: {first.verdict}: {first.findings[0].check}{others}"]
    obey(missing, lines, informational=informational)


def _of_models(
    common: Common,
    args: ModelArgs,
    settings: Sequence[Setting],
    budget: Budget,
    norm: Norm,
    eps: Eps | None,
    n: int | None,
) -> tuple[list[AuditedRows], list[str]]:
    """Audits the models of the command line, and judges them with their rows in the store; see :func:`_judged_rows`."""
    from robustbench_cli.attacks.base.eps import parse_eps
    from robustbench_cli.benchmarks.audit.model_audit import NORMS as AUDITED
    from robustbench_cli.benchmarks.audit.verdict import with_labels
    from robustbench_cli.benchmarks.datasets.base.load import load_dataset
    from robustbench_cli.benchmarks.store.store import Store
    from robustbench_cli.benchmarks.suites.config import SuiteConfig
    from robustbench_cli.benchmarks.suites.plan import plan_models, train_models
    from robustbench_cli.cli.notices import warn_of_unused_options
    from robustbench_cli.cli.parameters import distribute
    from robustbench_cli.cli.session import cache_for

    if norm not in AUDITED:
        raise UserError(f"--norm {norm}: a model can be audited in {', '.join(AUDITED)}")
    dataset = args.dataset_name()
    loaded = load_dataset(dataset, data_dir=common.data_dir)
    if eps is None and norm != "linf":
        raise UserError(f"no default eps for {norm}: give --eps")
    radius = eps or parse_eps(loaded.eps)
    Store(common.store).ensure_writable()
    with console.progress() as shown:
        config = SuiteConfig.from_options(**args.suite_options(distribute(settings, args.settable())))
        planned = plan_models(config, cache_for=cache_for(common, shown), seed=common.seed)
        warn_of_unused_options(config, planned)
        train_models(planned)
        models = [model.defended() for model in planned]
        for model in models:
            _run(common, model, dataset, budget=budget, norm=norm, eps=radius, n=n or _N[budget], shown=shown)

    groups: list[AuditedRows] = []
    missing: dict[str, None] = {}
    for identity in dict.fromkeys(model.identity for model in models):
        of_model, lines = _judged_rows(Store(common.store), checkpoint=identity)
        groups += [group for group in of_model if group.norm == norm]
        missing |= dict.fromkeys(lines)
    return with_labels(groups), list(missing)


def _run(
    common: Common,
    defended: DefendedModel,
    dataset: str,
    *,
    budget: Budget,
    norm: Norm,
    eps: Eps,
    n: int,
    shown: console.Progress,
) -> None:
    """Runs the checks of a budget in one model, and stores what they find."""
    from robustbench_cli.benchmarks.audit.model_audit import AuditOptions, probe_of
    from robustbench_cli.benchmarks.audit.records import AuditTarget
    from robustbench_cli.benchmarks.datasets.base.load import load_dataset
    from robustbench_cli.benchmarks.datasets.base.slice import first_examples
    from robustbench_cli.benchmarks.devices import limit_threads
    from robustbench_cli.core.atomic_write import display_path
    from robustbench_cli.core.isolation import isolate_passes

    loaded = load_dataset(dataset, data_dir=common.data_dir)
    data = first_examples(loaded.split("test"), n)
    if is_given("n"):
        warn_of_fewer_images(n, len(data), dataset)
    defended.require_fit(data, dataset)
    limit_threads(defended.shape)
    target = AuditTarget(
        dataset=dataset,
        data=data.sha256,
        n=len(data),
        model=defended.model,
        checkpoint=defended.identity,
        path=display_path(defended.path),
        defense=defended.defense,
        norm=norm,
        eps=eps.value,
        eps_text=eps.text,
        seed=common.seed,
        budget=budget,
    )
    options = AuditOptions(
        norm=norm,
        eps=eps.value,
        budget=budget,
        seed=common.seed,
        device=common.torch_device(),
        batch_size=common.batch_size,
    )
    with probe_of(
        isolate_passes(defended.load()), data.images, data.labels, options, training=_training(loaded)
    ) as probe:
        _run_missing(probe, target, common.store, shown)


def _training(dataset: Dataset) -> Callable[[], tuple[Tensor, Tensor]] | None:
    """Reads the training images; ``None`` where the data set has test images only."""
    from robustbench_cli.benchmarks.datasets.base.dataset import NoTrainingImagesError

    try:
        return partial(dataset.split("train").first, _TRAINING_IMAGES)
    except NoTrainingImagesError:
        return None


def _run_missing(probe: ModelProbe, target: AuditTarget, store: Path, shown: console.Progress) -> None:
    """Runs the checks of an audit that the store does not have, and stores what they find."""
    from robustbench_cli.benchmarks.audit import records
    from robustbench_cli.benchmarks.audit.model_audit import ModelAuditPlan, expected_seconds, passes_of, run_check
    from robustbench_cli.benchmarks.audit.verdict import LeftOut
    from robustbench_cli.benchmarks.checkpoints.checkpoint import versions
    from robustbench_cli.benchmarks.devices import device_name
    from robustbench_cli.cli.descriptions import duration

    record = partial(records.CheckRecord, target=target, device=device_name(probe.images.device), versions=versions())
    plan = ModelAuditPlan.of(probe)
    missing = [check for check in plan.checks if records.read(store, target, check.name) is None]
    name = f"{target.model} {target.defense}"
    if len(missing) < len(plan.checks):
        console.note(f"{name}: {len(plan.checks) - len(missing)}/{len(plan.checks)} checks cached in {store}")
    if missing:
        passes = passes_of(missing, probe)
        seconds = expected_seconds(probe, missing, passes)
        console.note(
            f"{name}: {len(missing)} checks on {len(probe)} images, at most {passes:,} passes, about {duration(seconds)}"
        )
    bar = shown.add(name, total=len(missing))
    for check in missing:
        started = time.perf_counter()
        kept: list[ScoredDraws] = []
        found = run_check(check, probe, keep=kept.append)
        outcomes = (
            records.StoredDraws.of(
                probe.baseline_name, kept[0], clean_accuracy=float(probe.baseline.outcomes.clean_right.mean())
            )
            if kept
            else None
        )
        seconds = time.perf_counter() - started
        result = {"left_out": found.reason} if isinstance(found, LeftOut) else {"finding": found}
        records.RECORDS.write(store, record(check=check.name, **result, outcomes=outcomes, seconds=seconds))
        bar.advance()
    for entry in plan.left_out:
        records.RECORDS.write(store, record(check=entry.check, left_out=entry.reason))
    bar.remove()

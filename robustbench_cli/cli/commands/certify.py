"""``advdef certify``: certify a model and print its certified accuracy at several radii."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from robustbench_cli.benchmarks.reports.formats import format_names
from robustbench_cli.cli import console, tables
from robustbench_cli.cli.model_args import ModelArgs, model_options
from robustbench_cli.cli.options import (
    Common,
    command,
    computing,
    first_images,
    is_given,
    option,
    output_files,
    training_settings,
    warn_of_fewer_images,
)
from robustbench_cli.cli.param_types import EPS, OneOf, Setting
from robustbench_cli.core.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table
    from torch import Tensor, nn

    from robustbench_cli.attacks.base.eps import Eps
    from robustbench_cli.attacks.base.norm import Norm
    from robustbench_cli.benchmarks.certification.by_smoothing import Smoothing
    from robustbench_cli.benchmarks.certification.certify import CertifiedAccuracy, CertifiedModel
    from robustbench_cli.benchmarks.certification.procedures import Procedure
    from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel
    from robustbench_cli.benchmarks.datasets.base.slice import Slice
    from robustbench_cli.benchmarks.suites.config import SuiteConfig

__all__ = ["certify"]

METHODS = ("auto", "distance", "intervals", "linear", "branch-and-bound")

ALPHA = 0.001
"""The default chance that a certificate of smoothing is wrong."""


@command("certify")
@model_options(checkpoints=True, decisions=False, checkpoint_help="Certify the model in this file.")
@training_settings
@option(
    "--sigma",
    type=float,
    metavar="SIGMA",
    group="Certificate",
    help="Standard deviation of the smoothing noise, in pixel values: the one that the model was trained with.  [default: no "
    "noise; the model itself is certified]",
)
@option(
    "--method",
    type=OneOf(METHODS),
    default="auto",
    group="Certificate",
    help="How the model itself is certified, without --sigma. auto: the strongest of them that the model allows: distance for "
    "linear classifiers, branch and bound for small ReLU networks.  [default: auto]",
)
@option(
    "--norm",
    type=OneOf(["linf", "l2", "l1"]),
    group="Certificate",
    help="Norm of the radius, without --sigma.  [default: linf]",
)
@option(
    "--branches",
    type=int,
    metavar="N",
    group="Certificate",
    help="Most subproblems of branch and bound for one image and radius.  [default: 1000]",
)
@option(
    "--n0",
    type=int,
    metavar="N",
    group="Certificate",
    help="Monte-Carlo samples that choose the class (n0).  [default: 100]",
)
@option(
    "--samples",
    type=int,
    metavar="N",
    group="Certificate",
    help="Monte-Carlo samples that bound its probability (n).  [default: 10000]",
)
@option(
    "--alpha",
    type=float,
    metavar="P",
    group="Certificate",
    help="Largest probability that the certificate of an image is wrong.  [default: 0.001]",
)
@option(
    "--eps",
    type=EPS,
    multiple=True,
    group="Certificate",
    help="Radius at which the certified accuracy is printed; linear relaxation and branch and bound try these radii.  "
    "[default with --sigma: multiples of sigma / 2; in linf: quarters of the data set's usual radius]",
)
@first_images("Number of test images, from the first on.", default=500)
@output_files(format_names(any_table=True))
@computing
def certify(
    common: Common,
    args: ModelArgs,
    settings: tuple[Setting, ...],
    sigma: float | None,
    method: str,
    norm: Norm | None,
    branches: int | None,
    n0: int | None,
    samples: int | None,
    alpha: float | None,
    eps: tuple[Eps, ...],
    n: int,
    outputs: tuple[Path, ...],
) -> None:
    """Certify a model and print its certified accuracy: a lower bound that no attack can break.

    With --sigma, it certifies the vote of the model under Gaussian noise, in l2: CERTIFY of Cohen, Rosenfeld and Kolter
    (ICML 2019). Without it, it certifies the network itself: a linear classifier by its exact distances, others by interval
    bounds of the logits (Gowal et al., 2018), by linear relaxation (CROWN, Zhang et al., NeurIPS 2018), or by branch and
    bound on top of that (Wang et al., NeurIPS 2021). The result of each image is stored at once, and the same command resumes
    an interrupted run.
    """
    import pandas as pd

    from robustbench_cli.benchmarks.datasets.base.load import load_dataset
    from robustbench_cli.benchmarks.datasets.base.slice import first_examples
    from robustbench_cli.benchmarks.suites.config import SuiteConfig
    from robustbench_cli.cli.parameters import distribute
    from robustbench_cli.core.atomic_write import ensure_writable

    smoothing = _smoothing(
        sigma,
        {"n0": n0, "samples": samples},
        alpha,
        {"method": method if is_given("method") else None, "norm": norm, "branches": branches},
    )
    alpha = ALPHA if alpha is None else alpha
    tables.require_writable(outputs, format_names(any_table=True))
    parameters = distribute(settings, args.settable())
    dataset = args.dataset_name()
    loaded = load_dataset(dataset, data_dir=common.data_dir)
    usual = [] if eps and smoothing is None else _usual_radii(smoothing, alpha, norm or "linf", loaded.eps)
    radii = [radius.value for radius in eps] or usual
    ensure_writable(common.store)
    config = SuiteConfig.from_options(**args.suite_options(parameters))
    data = first_examples(loaded.split("test"), n)
    if is_given("n"):
        warn_of_fewer_images(n, len(data), dataset)
    choice = partial(_procedure, smoothing, method, data.images[:2], eps=radii, norm=norm or "linf", branches=branches)
    models = _certify_all(common, config, dataset, data, choice)
    rows = [model.rows(radii, alpha=alpha) for model in models]
    records = [row.model_dump(mode="json") for model_rows in rows for row in model_rows]
    tables.print_and_write(pd.DataFrame(records), _table(rows), outputs)


def _certify_all(
    common: Common, config: SuiteConfig, dataset: str, data: Slice, choice: Callable[[nn.Module], Procedure]
) -> list[CertifiedModel]:
    """Trains the models that are not trained yet, and certifies all.

    Args:
        common: The options of all commands that compute.
        config: The models.
        dataset: The data set, as the user named it.
        data: The images.
        choice: The procedure for a model.

    Raises:
        UserError: A model cannot be certified. It is not trained then.
    """
    from robustbench_cli.benchmarks.suites.plan import plan_models, train_models
    from robustbench_cli.benchmarks.training.train import untrained
    from robustbench_cli.cli.notices import warn_of_unused_options
    from robustbench_cli.cli.session import cache_for

    with console.progress() as shown:
        planned = plan_models(config, cache_for=cache_for(common, shown), seed=common.seed)
        procedures = [
            None if model.training is None else choice(untrained(model.training, data_dir=common.data_dir)[0])
            for model in planned
        ]
        warn_of_unused_options(config, planned)
        train_models(planned)
        models = []
        for model, procedure in zip(planned, procedures, strict=True):
            defended = model.defended()
            models.append(_certify(common, dataset, data, shown, defended, procedure or choice(defended.load())))
        return models


def _procedure(
    smoothing: Smoothing | None,
    method: str,
    images: Tensor,
    model: nn.Module,
    *,
    eps: Sequence[float],
    norm: Norm,
    branches: int | None,
) -> Procedure:
    """The procedure for a model: the smoothing, where there is one, or that of :func:`~.procedures.choose`.

    Raises:
        UserError: The model cannot be certified by it.
    """
    from robustbench_cli.benchmarks.certification.procedures import choose

    if smoothing is None:
        return choose(method, model, images, eps=eps, norm=norm, branches=branches)
    smoothing.require(model, images)
    return smoothing


def _smoothing(
    sigma: float | None, numbers: Mapping[str, int | None], alpha: float | None, others: Mapping[str, object]
) -> Smoothing | None:
    """The smoothing that the options select; ``None`` for a certificate of the model itself.

    Args:
        sigma: The noise; ``None`` without smoothing.
        numbers: The draws, by option, as the user gave them, or ``None``; like alpha, allowed with sigma only.
        alpha: As the numbers.
        others: Options that are allowed without sigma only, ``None`` where they are not given.

    Raises:
        UserError: An option does not fit the others, or a value is out of range.
    """
    from robustbench_cli.benchmarks.certification.by_smoothing import Smoothing

    if sigma is None:
        for name, value in {**numbers, "alpha": alpha}.items():
            if value is not None:
                raise UserError(f"--{name} is for a smoothed model: give --sigma SIGMA, such as 0.25, or leave it out")
        return None
    for name, other in others.items():
        if other is not None:
            raise UserError(
                f"--{name} is for a certificate of the model itself, and --sigma certifies its vote in l2: leave one out"
            )
    return Smoothing(sigma=sigma, **{name: value for name, value in numbers.items() if value is not None})


def _usual_radii(smoothing: Smoothing | None, alpha: float, norm: Norm, usual_eps: str) -> list[float]:
    """The default radii: multiples of sigma / 2 up to the largest certifiable radius, or quarters of the usual radius.

    Args:
        smoothing: ``None`` for a certificate of the model itself.
        alpha: The chance that a certificate is wrong.
        norm: The norm of the radii of a certificate of the model itself.
        usual_eps: The data set's usual radius, in linf.

    Raises:
        UserError: No radius is usual in the norm.
    """
    from robustbench_cli.attacks.base.eps import parse_eps

    if smoothing is None:
        if norm != "linf":
            raise UserError(f"no default eps for {norm}: pass --eps")
        return [float(f"{parse_eps(usual_eps).value * quarters / 4:.12g}") for quarters in range(5)]
    largest = smoothing.largest_radius(alpha)
    if largest < 0:
        console.warn(
            f"with {smoothing.samples} samples no image can be certified at alpha {alpha:g}: give more --samples"
        )
    step = smoothing.sigma / 2
    return [float(f"{step * number:.12g}") for number in range(int(max(largest, 0) / step) + 1)]


def _certify(
    common: Common,
    dataset: str,
    data: Slice,
    shown: console.Progress,
    defended: DefendedModel,
    procedure: Procedure,
) -> CertifiedModel:
    """Certifies one model with a progress bar, and prints a line when it is done."""
    from robustbench_cli.benchmarks.certification.certify import CertificationOptions, certify_model
    from robustbench_cli.benchmarks.devices import current

    device = common.torch_device()
    options = CertificationOptions(procedure=procedure, seed=common.seed, device=device, batch_size=common.batch_size)
    name = f"{defended.model} {defended.defense}"
    bar = shown.add(name, total=len(data))
    completed: list[int] = []

    def progress(done: int) -> None:
        completed.append(done)
        bar.update(completed=done)

    with current(device):
        model = certify_model(defended, data, options, dataset=dataset, store=common.store, progress=progress)
    bar.remove()
    new, seconds = completed[-1] - completed[0], sum(record.seconds for record in model.images)
    shown.finished(f"{name}: {len(data)} images, {new} of them certified now, {seconds:.1f} s in all")
    return model


def _table(models: Sequence[Sequence[CertifiedAccuracy]]) -> Table:
    """The table for the terminal: a section for each model, a row for each radius."""
    from rich import box
    from rich.table import Table

    from robustbench_cli.benchmarks.certification.procedures import CERTIFICATE_FLAGS

    one = models[0][0]
    methods = list(dict.fromkeys(rows[0].method for rows in models))
    procedure = f"method {' and '.join(methods)}"
    if one.sigma is not None:
        procedure = f"sigma {one.sigma:g}, n0 {one.n0}, samples {one.samples}, alpha {one.alpha:g}, seed {one.seed}"
    title = f"dataset {one.dataset}, n {one.n}, {procedure}"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    table.caption_justify = "left"
    for name in ("model", "defense", *(["method"] if len(methods) > 1 else [])):
        table.add_column(name, no_wrap=True)
    for name in (f"{one.norm} radius", "certified", "abstained", "average radius"):
        table.add_column(name, justify="right", no_wrap=True)
    raised = [name for name in CERTIFICATE_FLAGS if any(name in rows[0].flags.split(";") for rows in models)]
    if raised:
        table.add_column("flags", no_wrap=True)
        table.caption = "\n".join(f"{name}: {CERTIFICATE_FLAGS[name]}" for name in raised)
    for rows in models:
        for row in rows:
            cells = _table_cells(row, method=len(methods) > 1)
            table.add_row(*tables.plain(*cells, *([row.flags] if raised else [])))
        table.add_section()
    return table


def _table_cells(row: CertifiedAccuracy, *, method: bool) -> tuple[str, ...]:
    """The texts of a table row, with or without the method, and without the flags; shares are percentages."""
    shares = (row.certified_accuracy, row.certified_accuracy_low, row.certified_accuracy_high)
    accuracy, low, high = (f"{100 * share:.1f}" for share in shares)
    abstained, radius = f"{100 * row.abstained:.1f}", f"{row.average_certified_radius:.3f}"
    names = (row.model, row.defense, *([row.method] if method else []))
    return (*names, f"{row.eps:g}", f"{accuracy} [{low},{high}]", abstained, radius)

"""``advdef certify``: certify a model and print its certified accuracy at several radii."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from robustbench_cli.cli import console, tables
from robustbench_cli.cli.model_args import ModelArgs, model_options
from robustbench_cli.cli.options import (
    Common,
    command,
    computing,
    first_images,
    is_given,
    option,
    output_file,
    warn_of_fewer_images,
)
from robustbench_cli.cli.param_types import EPS, SETTING, Setting
from robustbench_cli.core.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from robustbench_cli.attacks.base.eps import Eps
    from robustbench_cli.benchmarks.certification.certify import CertificationOptions, CertifiedAccuracy, CertifiedModel
    from robustbench_cli.benchmarks.certification.procedures import Procedure
    from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel
    from robustbench_cli.benchmarks.datasets.base.slice import Slice

__all__ = ["certify"]

ALPHA = 0.001
"""The default chance that a certificate of smoothing is wrong."""


@command("certify")
@model_options(checkpoints=True, decisions=False, checkpoint_help="Certify the model in this file.")
@option(
    "--set",
    "settings",
    type=SETTING,
    multiple=True,
    group="Defense",
    help="Parameter of a defense or of the training, such as train.lr=0.01.",
)
@option(
    "--sigma",
    type=float,
    metavar="SIGMA",
    group="Certificate",
    help="Standard deviation of the smoothing noise, in pixel values: the one that the model was trained with.  [default: no "
    "noise; interval bounds certify the model itself, in linf]",
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
    help="Radius at which the certified accuracy is printed.  [default in l2: multiples of sigma / 2; in linf: quarters of "
    "the data set's usual radius]",
)
@first_images("Number of test images, from the first on.", default=500)
@output_file(any_table=True)
@computing
def certify(
    common: Common,
    args: ModelArgs,
    settings: tuple[Setting, ...],
    sigma: float | None,
    n0: int | None,
    samples: int | None,
    alpha: float | None,
    eps: tuple[Eps, ...],
    n: int,
    output: Path | None,
) -> None:
    """Certify a model and print its certified accuracy: a lower bound that no attack can break.

    With --sigma, it certifies the vote of the model under Gaussian noise, in l2: CERTIFY of Cohen, Rosenfeld and Kolter
    (ICML 2019). Without it, it certifies a sequential network itself, in linf, by interval bounds of its logits: Gowal
    et al. (2018). The result of each image is stored at once, and the same command resumes an interrupted run.
    """
    import pandas as pd

    from robustbench_cli.benchmarks.certification.certify import CertificationOptions
    from robustbench_cli.benchmarks.datasets.base.load import load_dataset
    from robustbench_cli.benchmarks.datasets.base.slice import first_examples
    from robustbench_cli.benchmarks.suites.config import SuiteConfig
    from robustbench_cli.benchmarks.suites.plan import plan_models, train_models
    from robustbench_cli.benchmarks.training.train import untrained
    from robustbench_cli.cli.parameters import distribute
    from robustbench_cli.cli.session import cache_for, warn_of_unused_recipe
    from robustbench_cli.core.atomic_write import ensure_writable

    procedure = _procedure(sigma, n0, samples, alpha)
    alpha = ALPHA if alpha is None else alpha
    if output is not None:
        tables.require_writable_table(output, any_table=True)
    parameters = distribute(settings, args.settable())
    dataset = args.dataset_name()
    loaded = load_dataset(dataset, data_dir=common.data_dir)
    usual = _usual_radii(procedure, alpha, loaded.eps)
    ensure_writable(common.store)
    with console.progress() as shown:
        config = SuiteConfig.from_options(**args.suite_options(parameters))
        planned = plan_models(config, cache_for=cache_for(common, shown), seed=common.seed)
        data = first_examples(loaded.split("test"), n)
        if is_given("n"):
            warn_of_fewer_images(n, len(data), dataset)
        for model in planned:
            if model.training is not None:
                procedure.require(untrained(model.training, data_dir=common.data_dir)[0], data.images[:2])
        warn_of_unused_recipe(config, planned)
        train_models(planned)
        options = CertificationOptions(
            procedure=procedure, seed=common.seed, device=common.torch_device(), batch_size=common.batch_size
        )
        models = [
            _certify(model.defended(), data, options, dataset=dataset, store=common.store, shown=shown)
            for model in planned
        ]
    rows = [model.rows([radius.value for radius in eps] or usual, alpha=alpha) for model in models]
    records = [row.model_dump(mode="json") for model_rows in rows for row in model_rows]
    tables.print_and_write(pd.DataFrame(records), _table(rows), output)


def _procedure(sigma: float | None, n0: int | None, samples: int | None, alpha: float | None) -> Procedure:
    """The procedure that the options select.

    Args:
        sigma: The noise of smoothing; ``None`` for interval bounds.
        n0: As the user gave it, or ``None``; like the next two, allowed with sigma only.
        samples: As n0.
        alpha: As n0.

    Raises:
        UserError: An option of smoothing has no sigma, or a value is out of range.
    """
    from robustbench_cli.benchmarks.certification.by_interval_bounds import Intervals
    from robustbench_cli.benchmarks.certification.by_smoothing import Smoothing

    if sigma is not None:
        numbers = {"n0": n0, "samples": samples}
        return Smoothing(sigma=sigma, **{name: value for name, value in numbers.items() if value is not None})
    for name, value in (("n0", n0), ("samples", samples), ("alpha", alpha)):
        if value is not None:
            raise UserError(f"--{name} is for a smoothed model: give --sigma SIGMA, such as 0.25, or leave it out")
    return Intervals()


def _usual_radii(procedure: Procedure, alpha: float, usual_eps: str) -> list[float]:
    """The default radii: multiples of sigma / 2 up to the largest certifiable radius, or quarters of the usual radius.

    Args:
        procedure: How the model is certified.
        alpha: The chance that a certificate is wrong.
        usual_eps: The data set's usual radius, in linf.
    """
    from robustbench_cli.attacks.base.eps import parse_eps
    from robustbench_cli.benchmarks.certification.by_interval_bounds import Intervals

    if isinstance(procedure, Intervals):
        return [float(f"{parse_eps(usual_eps).value * quarters / 4:.12g}") for quarters in range(5)]
    largest = procedure.largest_radius(alpha)
    if largest < 0:
        console.warn(
            f"with {procedure.samples} samples no image can be certified at alpha {alpha:g}: give more --samples"
        )
    step = procedure.sigma / 2
    return [float(f"{step * number:.12g}") for number in range(int(max(largest, 0) / step) + 1)]


def _certify(
    defended: DefendedModel,
    data: Slice,
    options: CertificationOptions,
    *,
    dataset: str,
    store: Path,
    shown: console.Progress,
) -> CertifiedModel:
    """Certifies one model with a progress bar, and prints a line when it is done."""
    from robustbench_cli.benchmarks.certification.certify import certify_model
    from robustbench_cli.benchmarks.devices import current

    name = f"{defended.model} {defended.defense}"
    bar = shown.add(name, total=len(data))
    completed: list[int] = []

    def progress(done: int) -> None:
        completed.append(done)
        bar.update(completed=done)

    with current(options.device):
        model = certify_model(defended, data, options, dataset=dataset, store=store, progress=progress)
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
    procedure = "interval bounds"
    if one.sigma is not None:
        procedure = f"sigma {one.sigma:g}, n0 {one.n0}, samples {one.samples}, alpha {one.alpha:g}, seed {one.seed}"
    title = f"dataset {one.dataset}, n {one.n}, {procedure}"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    table.caption_justify = "left"
    for name in ("model", "defense"):
        table.add_column(name, no_wrap=True)
    for name in (f"{one.norm} radius", "certified", "abstained", "average radius"):
        table.add_column(name, justify="right", no_wrap=True)
    raised = [name for name in CERTIFICATE_FLAGS if any(name in rows[0].flags.split(";") for rows in models)]
    if raised:
        table.add_column("flags", no_wrap=True)
        table.caption = "\n".join(f"{name}: {CERTIFICATE_FLAGS[name]}" for name in raised)
    for rows in models:
        for row in rows:
            cells = _table_cells(row)
            table.add_row(*tables.plain(*cells, *([row.flags] if raised else [])))
        table.add_section()
    return table


def _table_cells(row: CertifiedAccuracy) -> tuple[str, ...]:
    """The texts of a table row, without the flags; shares are percentages."""
    shares = (row.certified_accuracy, row.certified_accuracy_low, row.certified_accuracy_high)
    accuracy, low, high = (f"{100 * share:.1f}" for share in shares)
    abstained, radius = f"{100 * row.abstained:.1f}", f"{row.average_certified_radius:.3f}"
    return (row.model, row.defense, f"{row.eps:g}", f"{accuracy} [{low},{high}]", abstained, radius)

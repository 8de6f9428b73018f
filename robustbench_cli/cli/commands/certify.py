"""``advdef certify``: the accuracy that no attack can take from a model."""

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
    option,
    output_file,
    warn_of_fewer_images,
)
from robustbench_cli.cli.param_types import EPS, SETTING, Setting
from robustbench_cli.core.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from robustbench_cli.attacks.base.eps import Eps
    from robustbench_cli.benchmarks.certification.certify import CertifiedAccuracy, CertifiedModel, Procedure
    from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel
    from robustbench_cli.benchmarks.datasets.base.slice import Slice
    from robustbench_cli.benchmarks.training.train import Training

__all__ = ["certify"]

ALPHA = 0.001
"""The chance that a certificate of smoothing may be wrong, where nothing else is asked for."""


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
    words: ModelArgs,
    settings: tuple[Setting, ...],
    sigma: float | None,
    n0: int | None,
    samples: int | None,
    alpha: float | None,
    eps: tuple[Eps, ...],
    n: int,
    output: Path | None,
) -> None:
    """Certify a model and print how much of its accuracy no attack can take.

    With --sigma, what is certified is the vote of the model under Gaussian noise, against every perturbation up to a
    radius in l2: CERTIFY of Cohen, Rosenfeld and Kolter (ICML 2019). Without it, what a sequential network says itself,
    in linf, by bounds of its logits that interval arithmetic gives: Gowal et al. (2018). What is found of every image
    is stored as it comes, and the same command again goes on.
    """
    import pandas as pd

    from robustbench_cli.benchmarks.datasets.base.load import load_dataset
    from robustbench_cli.benchmarks.datasets.base.slice import first_examples
    from robustbench_cli.benchmarks.training.train import untrained
    from robustbench_cli.cli.parameters import distribute
    from robustbench_cli.cli.session import model_cache
    from robustbench_cli.core.atomic_write import ensure_writable

    procedure = _procedure(sigma, n0, samples, alpha)
    alpha = ALPHA if alpha is None else alpha
    if output is not None:
        tables.require_place(output, forms=("csv", "json"))
    parameters = distribute(settings, words.kinds())
    dataset = words.dataset_name()
    usual = _usual_radii(procedure, alpha, load_dataset(dataset, data_dir=common.data_dir).eps)
    radii = [radius.value for radius in eps] or usual
    ensure_writable(common.store)
    with console.progress() as shown:
        cache = model_cache(common, dataset, words.recipe(parameters), shown)
        data = first_examples(cache.data.split("test"), n)
        warn_of_fewer_images(n, len(data), dataset)

        def certifiable(training: Training) -> None:
            procedure.require(untrained(training, data_dir=common.data_dir)[0], data.images[:2])

        defended_models = words.defended_models(cache, parameters, before=certifiable)
        models = [_certified(common, defended, data, procedure, dataset, shown) for defended in defended_models]
    rows = [model.rows(radii, alpha=alpha) for model in models]
    records = [row.model_dump(mode="json") for of_model in rows for row in of_model]
    tables.report(pd.DataFrame(records), _drawn(rows), output)


def _procedure(sigma: float | None, n0: int | None, samples: int | None, alpha: float | None) -> Procedure:
    """How the user wants it certified."""
    from robustbench_cli.benchmarks.certification.by_interval_bounds import Intervals
    from robustbench_cli.benchmarks.certification.by_smoothing import Smoothing

    if sigma is not None:
        given = {"n0": n0, "samples": samples}
        return Smoothing(sigma=sigma, **{name: value for name, value in given.items() if value is not None})
    for name, value in (("n0", n0), ("samples", samples), ("alpha", alpha)):
        if value is not None:
            raise UserError(f"--{name} is for a smoothed model: give --sigma SIGMA, such as 0.25, or leave it out")
    return Intervals()


def _usual_radii(procedure: Procedure, alpha: float, usual_eps: str) -> list[float]:
    """Of smoothing the multiples of half of sigma up to the largest certifiable radius, else quarters of eps."""
    from robustbench_cli.attacks.base.eps import parse_eps
    from robustbench_cli.benchmarks.certification.by_interval_bounds import Intervals

    if isinstance(procedure, Intervals):
        return [float(f"{parse_eps(usual_eps).value * quarters / 4:.12g}") for quarters in range(5)]
    largest = procedure.largest_radius(alpha)
    if largest < 0:
        console.warn(
            f"with {procedure.samples} samples nothing can be certified at alpha {alpha:g}, whatever they give: give more"
        )
    step = procedure.sigma / 2
    return [float(f"{step * number:.12g}") for number in range(int(max(largest, 0) / step) + 1)]


def _certified(
    common: Common, defended: DefendedModel, data: Slice, procedure: Procedure, dataset: str, shown: console.Progress
) -> CertifiedModel:
    """Certifies one model, with a bar, or a line when it is done."""
    from robustbench_cli.benchmarks.certification.certify import certified
    from robustbench_cli.benchmarks.devices import current

    bar = shown.add(f"{defended.model} {defended.defense}", total=len(data))
    fresh = [0]

    def progress(done: int) -> None:
        fresh[0] += 1
        bar.update(completed=done)

    with current(common.torch_device()):
        model = certified(
            defended,
            data,
            procedure,
            dataset=dataset,
            seed=common.seed,
            store=common.store,
            device=common.torch_device(),
            batch_size=common.batch_size,
            progress=progress,
        )
    bar.remove()
    # It is called once before the first image.
    new, seconds = fresh[0] - 1, sum(image.seconds for image in model.images)
    shown.finished(
        f"{defended.model} {defended.defense}: {len(data)} images, {new} of them certified now, {seconds:.1f} s in all"
    )
    return model


def _drawn(models: Sequence[Sequence[CertifiedAccuracy]]) -> Table:
    from rich import box
    from rich.table import Table

    from robustbench_cli.benchmarks.certification.certify import CERTIFICATE_FLAGS

    one = models[0][0]
    how = "by intervals"
    if one.sigma is not None:
        how = f"sigma {one.sigma:g}, n0 {one.n0}, samples {one.samples}, alpha {one.alpha:g}, seed {one.seed}"
    title = f"dataset {one.dataset}, n {one.n}, {how}"
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
            ends = (row.certified_accuracy_low, row.certified_accuracy_high)
            accuracy, low, high = (f"{100 * share:.1f}" for share in (row.certified_accuracy, *ends))
            of_all = (f"{100 * row.abstained:.1f}", f"{row.average_certified_radius:.3f}")
            cells = (row.model, row.defense, f"{row.eps:g}", f"{accuracy} [{low},{high}]", *of_all)
            table.add_row(*tables.plain(*cells, *([row.flags] if raised else [])))
        table.add_section()
    return table

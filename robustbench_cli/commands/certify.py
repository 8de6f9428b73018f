"""``advdef certify``: the accuracy that no attack in l2 can take from a smoothed model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from robustbench_cli import console
from robustbench_cli.attacks.base.errors import UserError
from robustbench_cli.model_options import ModelWords, model_options
from robustbench_cli.options import Common, command, computing, first_images, output_file
from robustbench_cli.values import EPS, SETTING, Setting

if TYPE_CHECKING:
    from rich.table import Table

    from robustbench_cli.benchmarks.cell import Eps
    from robustbench_cli.benchmarks.certification import CertifiedAccuracy, CertifiedModel, Smoothing
    from robustbench_cli.benchmarks.datasets.base.slice import Slice
    from robustbench_cli.benchmarks.subject import Subject

__all__ = ["certify"]


@command("certify")
@model_options(checkpoints=True, decisions=False)
@click.option(
    "--set", "settings", type=SETTING, multiple=True, help="Set a parameter of a defense, or of the training."
)
@click.option(
    "--sigma",
    type=float,
    metavar="SIGMA",
    required=True,
    help="Smooth with noise of this standard deviation, in pixel values: that which the model was trained with.",
)
@click.option("--n0", type=int, default=100, show_default=True, metavar="N", help="Choose the class by so many draws.")
@click.option(
    "--samples",
    type=int,
    default=10_000,
    show_default=True,
    metavar="N",
    help="Bound its probability by so many further draws.",
)
@click.option(
    "--alpha",
    type=float,
    default=0.001,
    show_default=True,
    metavar="P",
    help="Let an image's certificate be wrong with this chance at most.",
)
@click.option(
    "--eps",
    type=EPS,
    multiple=True,
    help="Tell the accuracy that is certified within this radius in l2.  [default: multiples of half of sigma]",
)
@first_images("Certify the first N test images.", default=500)
@output_file(".csv", ".json")
@computing
def certify(
    common: Common,
    words: ModelWords,
    settings: tuple[Setting, ...],
    sigma: float,
    n0: int,
    samples: int,
    alpha: float,
    eps: tuple[Eps, ...],
    n: int,
    output: Path | None,
) -> None:
    """Certify a smoothed model and print how much of its accuracy no attack can take.

    What is certified is the vote of the model under Gaussian noise, against every perturbation up to a radius in l2:
    CERTIFY of Cohen, Rosenfeld and Kolter (ICML 2019). The draws of every image are stored as they come, and the same
    command again goes on.
    """
    from robustbench_cli.attacks.base.files import ensure_writable, write_whole
    from robustbench_cli.benchmarks.certification import Smoothing
    from robustbench_cli.benchmarks.datasets.base.slice import first_examples
    from robustbench_cli.running import preparation
    from robustbench_cli.words import distribute

    smoothing = Smoothing(sigma=sigma, n0=n0, samples=samples)
    usual = _usual_radii(smoothing, alpha)
    radii = [radius.value for radius in eps] or usual
    if output is not None:
        if output.suffix.lower() not in (".csv", ".json"):
            raise UserError(f"-o {output}: the ending names the form; give one of .csv, .json")
        ensure_writable(output.parent)
    ensure_writable(common.store)
    parameters = distribute(settings, words.kinds())
    dataset = words.dataset_name()
    with console.progress() as shown:
        prepare = preparation(common, dataset, words.recipe(parameters), shown)
        subjects = words.subjects(prepare, parameters)
        data = first_examples(prepare.data.split("test"), n)
        models = [_certified(common, subject, data, smoothing, dataset, shown) for subject in subjects]
    rows = [model.rows(radii, alpha=alpha) for model in models]
    console.report(_drawn(rows))
    if output is not None:
        everything = [row for of_model in rows for row in of_model]
        write_whole(output, _written(everything, output.suffix.lower()).encode())
        console.note(f"wrote {output}")


def _usual_radii(smoothing: Smoothing, alpha: float) -> list[float]:
    """The multiples of half of sigma up to the largest radius that can be certified."""
    largest = smoothing.largest_radius(alpha)
    if largest < 0:
        console.warn(
            f"with {smoothing.samples} samples nothing can be certified at alpha {alpha:g}, whatever they give: give more"
        )
    step = smoothing.sigma / 2
    return [float(f"{step * number:.12g}") for number in range(int(max(largest, 0) / step) + 1)]


def _certified(
    common: Common, subject: Subject, data: Slice, smoothing: Smoothing, dataset: str, shown: console.Progress
) -> CertifiedModel:
    """Certifies one model, with a bar, or a line when it is done."""
    from robustbench_cli.benchmarks.certification import certified

    bar = shown.add(f"{subject.model} {subject.defense}", total=len(data))
    fresh = [0]

    def progress(done: int) -> None:
        fresh[0] += 1
        bar.update(completed=done)

    model = certified(
        subject,
        data,
        smoothing,
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
        f"{subject.model} {subject.defense}: {len(data)} images, {new} of them sampled now, {seconds:.1f} s in all"
    )
    return model


def _drawn(models: Sequence[Sequence[CertifiedAccuracy]]) -> Table:
    from rich import box
    from rich.table import Table

    from robustbench_cli.benchmarks.certification import FLAGS

    one = models[0][0]
    title = f"dataset {one.dataset}, n {one.n}, sigma {one.sigma:g}, n0 {one.n0}, samples {one.samples}, alpha {one.alpha:g}"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=f"{title}, seed {one.seed}", title_justify="left")
    table.caption_justify = "left"
    for name in ("model", "defense"):
        table.add_column(name, no_wrap=True)
    for name in ("l2 radius", "certified", "abstained", "average radius"):
        table.add_column(name, justify="right", no_wrap=True)
    raised = [name for name in FLAGS if any(name in rows[0].flags.split(";") for rows in models)]
    if raised:
        table.add_column("flags", no_wrap=True)
        table.caption = "\n".join(f"{name}: {FLAGS[name]}" for name in raised)
    for rows in models:
        for row in rows:
            ends = (row.certified_accuracy_low, row.certified_accuracy_high)
            accuracy, low, high = (f"{100 * share:.1f}" for share in (row.certified_accuracy, *ends))
            of_all = (f"{100 * row.abstained:.1f}", f"{row.average_certified_radius:.3f}")
            cells = (row.model, row.defense, f"{row.eps:g}", f"{accuracy} [{low},{high}]", *of_all)
            table.add_row(*cells, *([row.flags] if raised else []))
        table.add_section()
    return table


def _written(rows: Sequence[CertifiedAccuracy], ending: str) -> str:
    import json

    import pandas as pd

    records = [row.model_dump(mode="json") for row in rows]
    return json.dumps(records, indent=1) + "\n" if ending == ".json" else str(pd.DataFrame(records).to_csv(index=False))

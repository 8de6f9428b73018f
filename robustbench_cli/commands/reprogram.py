"""``advdef reprogram``: how well a model can be made to do a task that it was not trained for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from robustbench_cli import console
from robustbench_cli.model_options import ModelWords, model_options
from robustbench_cli.options import Common, command, computing, eot_option, first_images, output_file, repeats_option
from robustbench_cli.values import SETTING, Setting

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from robustbench_cli.attacks.base.draws import Draws
    from robustbench_cli.benchmarks.reprogramming import ReprogrammedModel

__all__ = ["reprogram"]


@command("reprogram")
@model_options(checkpoints=True)
@click.option("--task", metavar="NAME", required=True, help="Make the model classify this data set.")
@click.option(
    "--set",
    "settings",
    type=SETTING,
    multiple=True,
    help="Set a parameter of the reprogramming (reprogramming.kernel=5), a defense or the training.",
)
@eot_option
@first_images("Score the first N test images of the task.")
@repeats_option
@output_file(".csv", ".json")
@computing
def reprogram(
    common: Common,
    words: ModelWords,
    task: str,
    settings: tuple[Setting, ...],
    eot: Draws | None,
    n: int,
    repeats: int | None,
    output: Path | None,
) -> None:
    """Reprogram a defended model to another task and print how well it does it.

    A program in front of the frozen model is trained until the model's answers solve the task: adversarial
    reprogramming. The less accurate it gets, the better the model is protected.
    """
    import pandas as pd

    from robustbench_cli.attacks.base.files import ensure_writable
    from robustbench_cli.benchmarks.datasets.base.load import load_dataset
    from robustbench_cli.benchmarks.reprogramming import Reprogramming, reprogrammed
    from robustbench_cli.running import preparation
    from robustbench_cli.tables import report, require_place
    from robustbench_cli.words import distribute

    if output is not None:
        require_place(output, forms=("csv", "json"))
    ensure_writable(common.store)
    parameters = distribute(settings, {"reprogramming": Reprogramming, **words.kinds()})
    method = Reprogramming.from_parameters(parameters["reprogramming"], name="reprogramming")
    data = load_dataset(task, data_dir=common.data_dir)
    with console.progress() as shown:
        prepare = preparation(common, words.dataset_name(), words.recipe(parameters), shown)
        rows = [
            reprogrammed(
                subject,
                data,
                method,
                eot=eot or "auto",
                n=n,
                repeats=repeats,
                seed=common.seed,
                store=common.store,
                device=common.torch_device(),
                batch_size=common.batch_size,
                progress=prepare.progress,
            )
            for subject in words.subjects(prepare, parameters)
        ]
    table = pd.DataFrame([row.model_dump(mode="json", exclude={"versions"}) for row in rows])
    report(table, _drawn(rows), output)


def _drawn(rows: Sequence[ReprogrammedModel]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("model", "defense", "task", "attack"):
        table.add_column(name, no_wrap=True)
    for name in ("eot", "n", "reprogrammed", "commonest class"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        ends = (row.reprogrammed_accuracy_low, row.reprogrammed_accuracy_high)
        accuracy, low, high = (f"{100 * share:.1f}" for share in (row.reprogrammed_accuracy, *ends))
        words = (row.model, row.defense, row.task, row.reprogramming, str(row.eot), str(row.n))
        table.add_row(*words, f"{accuracy} [{low},{high}]", f"{100 * row.commonest_class:.1f}")
    return table

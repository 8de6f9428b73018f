"""``advdef reprogram``: how well a model can be made to do a task that it was not trained for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustbench_cli.cli import console
from robustbench_cli.cli.completion import complete_names
from robustbench_cli.cli.model_args import ModelArgs, model_options
from robustbench_cli.cli.options import (
    Common,
    command,
    computing,
    eot_option,
    first_images,
    option,
    output_file,
    repeats_option,
    warn_of_fewer_images,
)
from robustbench_cli.cli.param_types import SETTING, Setting
from robustbench_cli.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rich.table import Table

    from robustbench_cli.attacks.base.gradients.draws import Draws
    from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel
    from robustbench_cli.benchmarks.reprogramming.run import ReprogrammedModel
    from robustbench_cli.benchmarks.training.model_cache import ModelCache

__all__ = ["reprogram"]


@command("reprogram")
@model_options(checkpoints=True, checkpoint_help="Reprogram the model in this file.")
@option(
    "--suite",
    "suite_name",
    metavar="NAME|FILE.yaml",
    group="Model",
    shell_complete=complete_names("suite"),
    help="Models of a suite, instead of --checkpoint or --model.",
)
@option(
    "--task",
    metavar="NAME",
    required=True,
    group="Task",
    shell_complete=complete_names("dataset"),
    help="Data set that the model is reprogrammed to classify.",
)
@option(
    "--set",
    "settings",
    type=SETTING,
    multiple=True,
    group="Task",
    help="Parameter of the reprogramming (reprogramming.kernel=5), a defense or the training.",
)
@eot_option
@first_images("Number of test images of the task, from the first on.")
@repeats_option
@output_file(any_table=True)
@computing
def reprogram(
    common: Common,
    words: ModelArgs,
    suite_name: str | None,
    task: str,
    settings: tuple[Setting, ...],
    eot: Draws | None,
    n: int,
    repeats: int | None,
    output: Path | None,
) -> None:
    """Reprogram a defended model to another task and print how well it does it.

    A program in front of the frozen model is trained until the model's answers solve the task: adversarial
    reprogramming. The less accurate it gets, the better the model is protected. Of a suite, every model is attacked with
    every rule of decision that it names; what is to be trained is trained once, for 'advdef sweep' too.
    """
    import pandas as pd

    from robustbench_cli.benchmarks.datasets.base.load import load_dataset
    from robustbench_cli.benchmarks.reprogramming.program import Reprogramming
    from robustbench_cli.benchmarks.reprogramming.run import reprogrammed
    from robustbench_cli.cli.parameters import distribute
    from robustbench_cli.cli.tables import report, require_place
    from robustbench_cli.core.atomic_write import ensure_writable

    if output is not None:
        require_place(output, forms=("csv", "json"))
    ensure_writable(common.store)
    if suite_name is not None and words.given:
        raise UserError(f"--suite names the models too: leave out {words.given}")
    # A suite says itself what its models are trained with.
    of_models = words.kinds() if suite_name is None else {}
    parameters = distribute(settings, {"reprogramming": Reprogramming, **of_models})
    method = Reprogramming.from_parameters(parameters["reprogramming"], name="reprogramming")
    data = load_dataset(task, data_dir=common.data_dir)
    with console.progress() as shown:
        if suite_name is None:
            defended_models = _of_words(common, words, parameters, shown)
        else:
            defended_models = _of_suite(common, suite_name, shown)
        rows = [
            reprogrammed(
                defended,
                data,
                method,
                eot=eot or "auto",
                n=n,
                repeats=repeats,
                seed=common.seed,
                store=common.store,
                device=common.torch_device(),
                batch_size=common.batch_size,
                progress=cache.progress,
            )
            for defended, cache in defended_models
        ]
    warn_of_fewer_images(n, max((row.n for row in rows), default=n), task)
    table = pd.DataFrame([row.model_dump(mode="json", exclude={"versions"}) for row in rows])
    report(table, _drawn(rows), output)


def _of_words(
    common: Common, words: ModelArgs, parameters: Mapping[str, Mapping[str, Any]], shown: console.Progress
) -> Iterator[tuple[DefendedModel, ModelCache]]:
    """The models that the command line names, with what prepared them."""
    from robustbench_cli.cli.session import model_cache

    cache = model_cache(common, words.dataset_name(), words.recipe(parameters), shown)
    for defended in words.defended_models(cache, parameters):
        yield defended, cache


def _of_suite(common: Common, name: str, shown: console.Progress) -> Iterator[tuple[DefendedModel, ModelCache]]:
    """The models of a suite, with what prepared them: one that has no draws once, by whatever rules the others decide."""
    from robustbench_cli.benchmarks.suites.load import read_suite
    from robustbench_cli.benchmarks.suites.plan import plan
    from robustbench_cli.cli.session import model_cache

    planned = plan(
        read_suite(name),
        cache=lambda dataset, recipe, seed: model_cache(common, dataset, recipe, shown, seed=seed),
        seed=common.seed,
    )
    known = set()
    for model in planned.models:
        defended = model.defended()
        if defended.identity not in known:
            known.add(defended.identity)
            yield defended, model.cache


def _drawn(rows: Sequence[ReprogrammedModel]) -> Table:
    from rich import box
    from rich.table import Table

    from robustbench_cli.cli.tables import plain

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("model", "defense", "task", "attack"):
        table.add_column(name, no_wrap=True)
    for name in ("eot", "n", "reprogrammed", "commonest class"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        ends = (row.reprogrammed_accuracy_low, row.reprogrammed_accuracy_high)
        accuracy, low, high = (f"{100 * share:.1f}" for share in (row.reprogrammed_accuracy, *ends))
        words = (row.model, row.defense, row.task, row.reprogramming, str(row.eot), str(row.n))
        table.add_row(*plain(*words, f"{accuracy} [{low},{high}]", f"{100 * row.commonest_class:.1f}"))
    return table

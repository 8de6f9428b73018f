"""``advdef reprogram``: train adversarial programs that make models solve another task, and print their accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustbench_cli.benchmarks.reports.formats import format_names
from robustbench_cli.cli import console
from robustbench_cli.cli.model_args import ModelArgs, model_options
from robustbench_cli.cli.options import (
    Common,
    command,
    computing,
    eot_option,
    first_images,
    is_given,
    option,
    output_files,
    repeats_option,
    warn_of_fewer_images,
)
from robustbench_cli.cli.param_types import SETTING, NameOf, Setting
from robustbench_cli.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.table import Table

    from robustbench_cli.attacks.base.gradients.draws import Draws
    from robustbench_cli.benchmarks.reprogramming.records import ReprogrammedModel
    from robustbench_cli.benchmarks.suites.plan import PlannedModel

__all__ = ["reprogram"]


@command("reprogram")
@model_options(checkpoints=True, checkpoint_help="Reprogram the model in this file.")
@option(
    "--suite",
    "suite_name",
    metavar="NAME|FILE.yaml",
    group="Model",
    type=NameOf("suite"),
    help="Models of a suite, instead of --checkpoint or --model.",
)
@option(
    "--task",
    metavar="NAME",
    required=True,
    group="Task",
    type=NameOf("dataset"),
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
@output_files(format_names(any_table=True))
@computing
def reprogram(
    common: Common,
    args: ModelArgs,
    suite_name: str | None,
    task: str,
    settings: tuple[Setting, ...],
    eot: Draws | None,
    n: int,
    repeats: int | None,
    outputs: tuple[Path, ...],
) -> None:
    """Reprogram a defended model to solve another task, and print its accuracy on that task.

    Adversarial reprogramming trains a program in front of the frozen model until the model's output solves the task. A
    lower accuracy means a better protected model. With --suite, it attacks every model of the suite with every decision
    rule that the suite names. Each model is trained once, and 'advdef sweep' uses the same training.
    """
    import pandas as pd

    from robustbench_cli.benchmarks.datasets.base.load import load_dataset
    from robustbench_cli.benchmarks.reprogramming.program import Reprogramming, ReprogrammingOptions
    from robustbench_cli.benchmarks.reprogramming.run import reprogram_model
    from robustbench_cli.cli.parameters import distribute
    from robustbench_cli.cli.tables import print_and_write, require_writable
    from robustbench_cli.core.atomic_write import ensure_writable

    require_writable(outputs, format_names(any_table=True))
    ensure_writable(common.store)
    if suite_name is not None and args.given:
        raise UserError(f"--suite names the models too: leave out {args.given}")
    # A suite names the parameters of its own models.
    settable = args.settable() if suite_name is None else {}
    parameters = distribute(settings, {"reprogramming": Reprogramming, **settable})
    method = Reprogramming.from_parameters(parameters["reprogramming"], name="reprogramming")
    data = load_dataset(task, data_dir=common.data_dir)
    options = ReprogrammingOptions(
        eot=eot or "auto",
        repeats=repeats,
        seed=common.seed,
        device=common.torch_device(),
        batch_size=common.batch_size,
    )
    with console.progress() as shown:
        distinct = _distinct_models(common, args, suite_name, parameters, shown)
        rows = [
            reprogram_model(
                model.defended(), data, method, options, n=n, store=common.store, progress=model.cache.progress
            )
            for model in distinct
        ]
    if is_given("n"):
        warn_of_fewer_images(n, max((row.n for row in rows), default=n), task)
    table = pd.DataFrame([row.model_dump(mode="json", exclude={"versions"}) for row in rows])
    print_and_write(table, _table(rows), outputs)


def _distinct_models(
    common: Common,
    args: ModelArgs,
    suite_name: str | None,
    parameters: Mapping[str, Mapping[str, Any]],
    progress: console.Progress,
) -> list[PlannedModel]:
    """The trained models of the suite or of the options; models that differ in nothing are listed once."""
    from robustbench_cli.benchmarks.suites.config import SuiteConfig
    from robustbench_cli.benchmarks.suites.load import read_suite
    from robustbench_cli.benchmarks.suites.plan import plan, plan_models, train_models
    from robustbench_cli.cli.notices import warn_of_unused_options
    from robustbench_cli.cli.session import cache_for

    caches = cache_for(common, progress)
    if suite_name is None:
        config = SuiteConfig.from_options(**args.suite_options(parameters))
        models = plan_models(config, cache_for=caches, seed=common.seed)
    else:
        config = read_suite(suite_name)
        models = plan(config, cache_for=caches, seed=common.seed).models
    warn_of_unused_options(config, models)
    train_models(models)
    # A model without random draws is the same model under every decision rule.
    return list({model.defended().identity: model for model in models}.values())


def _table(rows: Sequence[ReprogrammedModel]) -> Table:
    """The table for the terminal: a row for each model."""
    from rich import box
    from rich.table import Table

    from robustbench_cli.cli.tables import plain

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("model", "defense", "task", "attack"):
        table.add_column(name, no_wrap=True)
    for name in ("eot", "n", "reprogrammed", "commonest class"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        shares = (row.reprogrammed_accuracy, row.reprogrammed_accuracy_low, row.reprogrammed_accuracy_high)
        accuracy, low, high = (f"{100 * share:.1f}" for share in shares)
        cells = (row.model, row.defense, row.task, row.reprogramming, str(row.eot), str(row.n))
        table.add_row(*plain(*cells, f"{accuracy} [{low},{high}]", f"{100 * row.commonest_class:.1f}"))
    return table

"""``advdef train``: a defended model in a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from robustbench_cli.cli import console
from robustbench_cli.cli.model_args import ModelArgs, model_options
from robustbench_cli.cli.options import Common, command, computing_options, option, training_settings
from robustbench_cli.cli.param_types import Setting
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.training.processes import Processes

if TYPE_CHECKING:
    from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel
    from robustbench_cli.benchmarks.training.model_cache import ModelCache

__all__ = ["train"]


@command("train", in_processes=True)
@model_options(checkpoints=False, checkpoint_help="Start from the model in this file.")
@training_settings
@option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    group="Output",
    help="Write the checkpoint to this .safetensors file.",
)
@computing_options(stores_results=False)
def train(common: Common, args: ModelArgs, settings: tuple[Setting, ...], output: Path) -> None:
    """Train a defended model and write it to a checkpoint.

    Run the same command again to resume an interrupted training; a finished one is not repeated.
    With --set train.held_out=, train.ema= or train.swa_start= the latest, averaged and best weights are all kept: the selected
    ones in the checkpoint, the others in FILE.latest.safetensors and so on beside it.
    Started by "accelerate launch" or "torchrun", its processes train on a GPU each, and share every batch.
    """
    from robustbench_cli.benchmarks.checkpoints.footprint import footprint
    from robustbench_cli.benchmarks.suites.config import SuiteConfig
    from robustbench_cli.benchmarks.suites.plan import plan_models
    from robustbench_cli.cli.parameters import distribute
    from robustbench_cli.cli.session import cache_for

    if args.checkpoints and output.resolve() == args.checkpoints[0].resolve():
        raise UserError(f"-o {output} is the checkpoint that the training starts from: give another file")
    config = SuiteConfig.from_options(**args.suite_options(distribute(settings, args.settable())))
    with console.progress() as progress:
        (model,) = plan_models(config, cache_for=cache_for(common, progress), seed=common.seed)
        if model.training is None:
            raise UserError(f"nothing to train: name a --defense to put around {args.checkpoints[0]}")
        defended = model.cache.trained(model.training, output)
        processes = Processes.from_environment()
        processes.disconnect()
        if processes.rank:
            return
        correct, images = model.cache.accuracy(defended)
    kind, draws = ("randomized", " under one draw each") if defended.randomized else ("deterministic", "")
    accuracy = f"clean accuracy {100 * correct:.1f}{draws} on {images:,} test images"
    lines = [f"{output}: {model.training.label}, {kind}, {accuracy}", str(footprint(defended))]
    console.report("\n".join([*lines, *_weights_lines(defended, model.cache)]))


def _weights_lines(defended: DefendedModel, cache: ModelCache) -> Iterator[str]:
    """A line for each of the weights that a training has kept: their accuracies and their file."""
    from robustbench_cli.benchmarks.checkpoints.defended_model import open_defended_model
    from robustbench_cli.benchmarks.training.train import beside

    record = list(defended.training["stages"][-1]["trained"].values())[-1]
    weights = record.get("weights", {})
    for name, values in weights.items():
        is_selected = name == list(weights)[-1]
        file = defended.path if is_selected else beside(defended.path, name)
        if not file.exists():
            continue
        loading = {} if is_selected else defended.loading
        correct, images = cache.accuracy(defended if is_selected else open_defended_model(file, **loading))
        parts = [f"clean {100 * correct:.1f} on {images:,} test images"]
        parts += [
            f"{key.replace('_', ' ').replace('held out', 'held-out')} {100 * value:.1f}"
            for key, value in values.items()
        ]
        epoch = f" (epoch {record['kept_epoch']})" if name == "best" else ""
        yield f"{name}{epoch}: {', '.join(parts)}: {file}"

"""``advdef train``: a defended model in a file."""

from __future__ import annotations

from pathlib import Path

import click

from robustbench_cli.cli import console
from robustbench_cli.cli.model_args import ModelArgs, model_options
from robustbench_cli.cli.options import Common, command, computing_options, option
from robustbench_cli.cli.param_types import SETTING, Setting
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.training.processes import Processes

__all__ = ["train"]


@command("train", in_processes=True)
@model_options(checkpoints=False, checkpoint_help="Start from the model in this file.")
@option(
    "--set",
    "settings",
    type=SETTING,
    multiple=True,
    group="Defense",
    help="Parameter of a defense or of the training, such as train.lr=0.01; see 'advdef show training'.",
)
@option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    group="Output",
    help="Write the checkpoint to this .safetensors file.",
)
@computing_options(stores_results=False)
def train(common: Common, words: ModelArgs, settings: tuple[Setting, ...], output: Path) -> None:
    """Train a defended model and write it to a checkpoint.

    The same command again goes on with a training that was interrupted, and does nothing when it is done.
    Started by "accelerate launch" or "torchrun", its processes train on a GPU each, and share every batch.
    """
    from robustbench_cli.benchmarks.checkpoints.footprint import footprint
    from robustbench_cli.cli.parameters import distribute
    from robustbench_cli.cli.session import model_cache

    if words.checkpoints and output.resolve() == words.checkpoints[0].resolve():
        raise UserError(f"-o {output} is the checkpoint that the training starts from: give another file")
    parameters = distribute(settings, words.kinds())
    with console.progress() as shown:
        cache = model_cache(common, words.dataset_name(), words.recipe(parameters), shown)
        base = words.base(cache, words.checkpoints[0]) if words.checkpoints else None
        training = words.training(cache, parameters, base)
        defended = cache.trained(training, output)
        processes = Processes.launched()
        processes.disconnect()
        if processes.rank:
            return
        right, images = cache.accuracy(defended)
    kind, draws = ("randomized", " in one draw each") if defended.randomized else ("deterministic", "")
    accuracy = f"clean accuracy {100 * right:.1f}{draws} on {images:,} test images"
    console.report(f"{output}: {training.label}, {kind}, {accuracy}\n{footprint(defended)}")

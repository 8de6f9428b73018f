"""``advdef train``: a defended model in a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from robustbench_cli.cli import console
from robustbench_cli.cli.model_args import ModelArgs, model_options
from robustbench_cli.cli.options import Common, command, computing_options, option, training_settings
from robustbench_cli.cli.param_types import NameOf, Setting
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.training.processes import Processes

if TYPE_CHECKING:
    from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel
    from robustbench_cli.benchmarks.training.model_cache import ModelCache
    from robustbench_cli.benchmarks.training.train import Training

__all__ = ["train"]


@command("train", in_processes=True)
@model_options(checkpoints=False, checkpoint_help="Start from the model in this file.")
@training_settings
@option(
    "--extra",
    metavar="NAME",
    group="Data",
    type=NameOf("dataset"),
    help="Extra training images, such as npz:generated.npz; 0.7 of each batch, or train.extra_fraction.",
)
@option(
    "--pseudo-labels",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    group="Data",
    help="Checkpoint that labels the extra images, instead of their own labels.",
)
@option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    group="Output",
    help="Write the checkpoint to this .safetensors file.",
)
@option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    group="Model",
    help="Train for about this time: chooses epochs, batch size, learning rate and steps of the attack for this device.",
)
@option(
    "--passes",
    type=click.IntRange(1, 10**18),
    group="Model",
    help="Like --seconds for this number of images that pass through the network, those of the attack included.",
)
@computing_options(stores_results=False)
def train(
    common: Common,
    args: ModelArgs,
    settings: tuple[Setting, ...],
    extra: str | None,
    pseudo_labels: str | None,
    output: Path,
    seconds: float | None,
    passes: int | None,
) -> None:
    """Train a defended model and write it to a checkpoint.

    Run the same command again to resume an interrupted training; a finished one is not repeated.
    With --set train.held_out=, train.ema= or train.swa_start= the latest, averaged and best weights are all kept: the selected
    ones in the checkpoint, the others in FILE.latest.safetensors and so on beside it. Images that the defense learns, as
    advkip does, are in FILE.learned.npz; an architecture that it finds, as dsara does, is printed as a --model.
    Started by "accelerate launch" or "torchrun", its processes train on a GPU each, and share every batch.
    """
    from robustbench_cli.benchmarks.checkpoints.footprint import footprint
    from robustbench_cli.benchmarks.suites.config import SuiteConfig
    from robustbench_cli.benchmarks.suites.plan import plan_models
    from robustbench_cli.cli.parameters import distribute
    from robustbench_cli.cli.session import cache_for

    if args.checkpoints and output.resolve() == args.checkpoints[0].resolve():
        raise UserError(f"-o {output} is the checkpoint that the training starts from: give another file")
    given = distribute(settings, args.settable())
    _require_one_length(args, given, seconds, passes)
    _set_extra(given["train"], extra=extra, pseudo_labels=pseudo_labels)
    config = SuiteConfig.from_options(**args.suite_options(given))
    with console.progress() as progress:
        (model,) = plan_models(config, cache_for=cache_for(common, progress), seed=common.seed)
        if model.training is None:
            raise UserError(f"nothing to train: name a --defense to put around {args.checkpoints[0]}")
        training = model.training
        if seconds is not None or passes is not None:
            training = _within(common, model.training, output, given, args.recipe, seconds=seconds, passes=passes)
        defended = model.cache.trained(training, output)
        processes = Processes.from_environment()
        processes.disconnect()
        if processes.rank:
            return
        correct, images = model.cache.accuracy(defended)
    kind, draws = ("randomized", " under one draw each") if defended.randomized else ("deterministic", "")
    accuracy = f"clean accuracy {100 * correct:.1f}{draws} on {images:,} test images"
    lines = [f"{output}: {training.label}, {kind}, {accuracy}", str(footprint(defended))]
    lines += [*_weights_lines(defended, model.cache), *_learned_lines(defended, model.cache)]
    console.report("\n".join([*lines, *_architecture_lines(defended)]))


def _weights_lines(defended: DefendedModel, cache: ModelCache) -> Iterator[str]:
    """A line for each of the weights that a training has kept: their accuracies and their file."""
    from robustbench_cli.benchmarks.checkpoints.defended_model import open_defended_model
    from robustbench_cli.benchmarks.training.train import beside

    stages = defended.training.get("stages")
    # A user's own defense may train without the trainer.
    if not stages or not stages[-1]["trained"]:
        return
    record = list(stages[-1]["trained"].values())[-1]
    weights = record.get("weights", {})
    for name, values in weights.items():
        is_selected = name == list(weights)[-1]
        file = defended.path if is_selected else beside(defended.path, name)
        if not file.exists():
            continue
        opened = defended if is_selected else open_defended_model(file, **defended.loading)
        correct, images = cache.accuracy(opened)
        parts = [f"clean {100 * correct:.1f} on {images:,} test images"]
        parts += [
            f"{key.replace('_', ' ').replace('held out', 'held-out')} {100 * value:.1f}"
            for key, value in values.items()
        ]
        epoch = f" (epoch {record['kept_epoch']:.0f})" if name == "best" else ""
        yield f"{name}{epoch}: {', '.join(parts)}: {file}"


def _learned_lines(defended: DefendedModel, cache: ModelCache) -> Iterator[str]:
    """Writes the images that the model has learned, if there are any, beside its checkpoint; yields a line about them."""
    from robustbench_cli.benchmarks.training.learned_data import learned_examples_of, write_learned_data

    learned = learned_examples_of(defended.load())
    if learned is not None:
        file = defended.path.with_suffix(".learned.npz")
        count = write_learned_data(learned, cache.data, file)
        yield f"learned: {count:,} images, as training data for --dataset npz:{file}"


def _architecture_lines(defended: DefendedModel) -> Iterator[str]:
    """A line for an architecture that the model has searched: the option that names it."""
    from robustbench_cli.defenses.base.architectures.searched_network import SearchedNetwork

    for module in defended.load().modules():
        if isinstance(module, SearchedNetwork):
            yield f"architecture, for any other training: --model dsara:{module.architecture}"


def _require_one_length(
    args: ModelArgs, given: Mapping[str, Mapping[str, Any]], seconds: float | None, passes: int | None
) -> None:
    """Checks that only one option says how long to train.

    Raises:
        UserError: Several do, or a time is given to several processes.
    """
    options = {"--seconds": seconds, "--passes": passes, "--epochs": args.epochs}
    options["--set train.epochs"] = given["train"].get("epochs")
    named = [option for option, value in options.items() if value is not None]
    if len(named) > 1 and (seconds is not None or passes is not None):
        raise UserError(f"{named[0]} and {named[1]} both say how long to train: give one of them")
    if seconds is not None and Processes.from_environment().number > 1:
        raise UserError("--seconds is for one process, because several measure different speeds: give --epochs")


def _within(
    common: Common,
    training: Training,
    output: Path,
    given: Mapping[str, Mapping[str, Any]],
    recipe: str | None,
    **budget: Any,
) -> Training:
    """The training with epochs, batch size and attack chosen for a budget; a note names the choice."""
    from robustbench_cli.benchmarks.training.budget import Budget, keep_to

    keys = {f"{name}.{key}" for name, values in given.items() for key in values}
    if (recipe or given["train"].get("recipe", "default")) != "default":
        # A paper's recipe keeps its batch size and its attack.
        keys |= {"train.batch_size", *(f"{spec.name}.steps" for spec in training.defenses)}
    chosen, choice = keep_to(
        Budget(**budget), training, output, given=keys, device=common.torch_device(), data_dir=common.data_dir
    )
    length = f"--seconds {budget['seconds']:g}" if budget["passes"] is None else f"--passes {budget['passes']}"
    console.note(f"{length}: {choice.label}")
    return chosen


def _set_extra(recipe: dict[str, Any], **options: str | None) -> None:
    """Adds ``--extra`` and ``--pseudo-labels`` to the parameters of ``--set train``.

    Args:
        recipe: The parameters; changed in place.
        **options: The options by parameter; ``None`` where one is not given.

    Raises:
        UserError: A parameter is given in both ways, and differently.
    """
    for key, value in options.items():
        if value is not None and recipe.setdefault(key, value) != value:
            option_name = f"--{key.replace('_', '-')}"
            raise UserError(f"{option_name} {value} and --set train.{key}={recipe[key]} differ: leave one out")

"""Notes and warnings about a run: options that change nothing, attacks in other norms, few images, models at chance."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from robustbench_cli.cli import console
from robustbench_cli.cli.options import is_on_command_line, warn_of_fewer_images

if TYPE_CHECKING:
    from robustbench_cli.attacks.base.norm import Norm
    from robustbench_cli.benchmarks.execution.job import Job
    from robustbench_cli.benchmarks.store.records import Result
    from robustbench_cli.benchmarks.suites.config import SuiteConfig
    from robustbench_cli.benchmarks.suites.plan import Plan, PlannedModel

__all__ = [
    "note_cascades",
    "note_idle_processes",
    "note_other_norms",
    "warn_of_chance",
    "warn_of_radii",
    "warn_of_small_datasets",
    "warn_of_unused_options",
]


def note_other_norms(planned: Plan) -> None:
    """Notes the attacks that run in another norm than the user's, where the user's radii mean nothing.

    Args:
        planned: The plan; nothing is noted where the user gave neither a norm nor radii.
    """
    if not (planned.config.norm or planned.config.eps):
        return
    pairs = {(attack.spec.name, suite.norm): attack for suite, _ in planned.suites for attack in suite.attacks}
    for (name, norm), attack in pairs.items():
        if attack.minimal_norm and norm not in attack.norms:
            console.note(f"{name} does not support {norm}: it runs in {attack.norms[0]}, at any distance")


def note_cascades(planned: Plan) -> None:
    """Notes the randomized defenses that a cascade attacks, which is made for deterministic ones.

    Args:
        planned: The plan, with trained models.
    """
    names = {
        model.defended().defense
        for suite, models in planned.suites
        for model in models
        if suite.cascade and suite.accounting == "expected" and model.defended().randomized
    }
    for name in sorted(names):
        console.note(
            f"{name} is randomized, and a cascade is for deterministic defenses, since an image leaves it only if every draw "
            "fails: the suite 'randomized' attacks every image by its expectation over draws"
        )


def note_idle_processes(jobs: Sequence[Job], processes: int, *, split: bool) -> None:
    """Notes that a command has more processes than work that can be shared.

    Args:
        jobs: The jobs to run.
        processes: The number of processes.
        split: Whether several processes may compute one cell.
    """
    from robustbench_cli.benchmarks.evaluation.partial_results import LEAST_SHARED, shared_batch

    shares = sum(math.ceil(job.cell.n / shared_batch(job.cell.n, job.cell.n)) if split else 1 for job in jobs)
    if 0 < shares < processes:
        cells = f"{len(jobs)} {'cell' if len(jobs) == 1 else 'cells'} to compute"
        limit = (
            f"and processes share a cell in batches of at least {LEAST_SHARED} images"
            if split
            else "each in one process"
        )
        console.note(f"{processes} processes but work for {shares}: {cells}, {limit}")


def warn_of_unused_options(config: SuiteConfig, models: Sequence[PlannedModel]) -> None:
    """Warns a user who sets options of the training where nothing is trained, or of draws where nothing is random.

    Args:
        config: The suite.
        models: Its models.
    """
    _warn_of_unused_recipe(config, models)
    names = _options_of_draws(config)
    if names and not any(model.expected.randomized for model in models):
        for name in names:
            console.warn(
                f"{name} changes nothing: no model here is randomized (name a --defense that is randomized, or leave it out)"
            )


def _options_of_draws(config: SuiteConfig) -> list[str]:
    """What the user set about the draws of randomized models, by file and line or by option."""
    in_file = [
        f"{config.prefix(key)}{key}"
        for key in ("decision", "repeats")
        if getattr(config, key) and config.position(key) is not None
    ]
    options = {"decisions": "--decision", "eot": "--eot", "repeats": "--repeats"}
    given = [name for parameter, name in options.items() if is_on_command_line(parameter)]
    of_names = [
        f"--attack eot-{entry.name}"
        for group in config.groups
        for entry in group.attacks
        if entry.eot and not entry.location and "--eot" not in given
    ]
    return [*in_file, *given, *of_names]


def _warn_of_unused_recipe(config: SuiteConfig, models: Sequence[PlannedModel]) -> None:
    if any(model.training is not None and model.training.learns_after(None) for model in models):
        return
    unused = models[0].base.path if models and models[0].base is not None else "the model"
    for key in sorted({key for recipe in config.train for key in recipe}):
        option = f"--{key}" if key in {"epochs", "recipe"} else f"--set train.{key}"
        location = config.prefix("train")
        name = f"{location}{key}" if location else option
        console.warn(
            f"{name} changes nothing: {unused} is used as it is, and nothing is trained (name a --defense that trains, or "
            "leave it out)"
        )


def warn_of_radii(config: SuiteConfig, norms: Collection[Norm]) -> None:
    """Warns of a radius that is probably a mistake, once for a suite.

    Args:
        config: The suite.
        norms: Those in which its attacks run.
    """
    from robustbench_cli.benchmarks.suites.radii import unusual_radius

    if doubt := unusual_radius(config, norms):
        console.warn(doubt)


def warn_of_small_datasets(config: SuiteConfig, used: dict[str, int]) -> None:
    """Warns a user who asked for more images than a data set has.

    Args:
        config: The suite.
        used: The number of images used, by data set.
    """
    wanted = max(config.n or (0,))
    for dataset, n in used.items():
        warn_of_fewer_images(wanted, n, dataset, location=config.prefix("n"))


def warn_of_chance(planned: Plan, results: Sequence[Result]) -> None:
    """Warns of models that classify clean images no better than chance: their robustness means nothing.

    Args:
        planned: The plan, with trained models.
        results: The results of its cells.
    """
    for model in {
        planned_model.defended().identity: planned_model.defended() for planned_model in planned.models
    }.values():
        of_model = [result for result in results if result.cell.checkpoint == model.identity]
        clean = of_model[0].summary["clean_accuracy"] if of_model else None
        if clean is not None and clean <= 1.5 / model.classes:
            console.warn(
                f"{model.model} with {model.defense if model.defenses else 'no defense'} classifies clean images no better "
                f"than chance ({model.classes} classes): check its data set, class order, image size and normalization, or "
                "train it longer"
            )

"""The options that name models and defenses, shared by the commands that train and that attack."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from robustbench_cli.benchmarks.datasets import DEFAULT_DATASET
from robustbench_cli.cli import console, help_page
from robustbench_cli.cli.completion import complete_names
from robustbench_cli.cli.param_types import OneOf, decimal
from robustbench_cli.core.errors import UserError

if TYPE_CHECKING:
    from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel
    from robustbench_cli.benchmarks.training.model_cache import ModelCache
    from robustbench_cli.benchmarks.training.train import Training
    from robustbench_cli.core.settings import Settings
    from robustbench_cli.defenses.base.decision_rules import DecisionRule

__all__ = ["ModelArgs", "model_options"]

DECISIONS = ("one-draw", "mean", "vote", "exact", "deterministic", "frozen")


@dataclass(frozen=True)
class ModelArgs:
    """What the command line says of the models.

    Attributes:
        checkpoints: Files to start from.
        model: As the user named it.
        classes: K, of a foreign checkpoint.
        mean: Of the normalisation inside the model.
        std: Of that normalisation.
        dataset: As the user named it.
        defenses: Names, in the order in which they are put around the model.
        epochs: Of a training.
        decisions: Rules by which the draws of a randomized model decide, each for a model of its own; its own rule
            where there are none.
    """

    checkpoints: tuple[Path, ...]
    model: str | None
    classes: int | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    dataset: str | None
    defenses: tuple[str, ...]
    epochs: int | None
    decisions: tuple[DecisionRule, ...] = ()

    @property
    def given(self) -> str:
        """The options that were given; empty where none was."""
        options = {
            "--checkpoint": self.checkpoints,
            "--model": self.model,
            "--classes": self.classes,
            "--mean": self.mean,
            "--std": self.std,
            "--dataset": self.dataset,
            "--defense": self.defenses,
            "--epochs": self.epochs,
            "--decision": self.decisions,
        }
        return ", ".join(option for option, value in options.items() if value not in (None, ()))

    def kinds(self) -> dict[str, type[Settings]]:
        """The methods to which ``--set`` can give a parameter: the defenses, and the training as ``train``."""
        from robustbench_cli.defenses import registry
        from robustbench_cli.defenses.base.training.recipe import Recipe

        return {name: registry.load(name) for name in self.defenses} | {"train": Recipe}

    def recipe(self, parameters: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """What the user set of the training recipe, by ``--epochs`` and ``--set train.KEY=VALUE``."""
        epochs = {} if self.epochs is None else {"epochs": self.epochs}
        return {**parameters["train"], **epochs}

    def dataset_name(self) -> str:
        """The data set that was named, or the one that the first checkpoint was trained on, or the embedded one."""
        from robustbench_cli.benchmarks.checkpoints.checkpoint import read_own_info
        from robustbench_cli.benchmarks.datasets import registry as datasets

        if self.dataset is not None:
            return self.dataset
        if not self.checkpoints:
            return DEFAULT_DATASET
        path, unsaid = self.checkpoints[0], "what it was trained on: give --dataset"
        info = read_own_info(path, missing=unsaid)
        if info.dataset is None:
            raise UserError(f"{path} does not say {unsaid}")
        return datasets.trusted(info.dataset, file=path)

    def named(self) -> list[str]:
        """The models and defenses that were named, some of which may be code of the user's own."""
        return [name for name in (self.model, *self.defenses) if name is not None]

    def base(self, cache: ModelCache, path: Path) -> DefendedModel:
        """One of the checkpoints, loaded."""
        from robustbench_cli.benchmarks.checkpoints.checkpoint import read_info
        from robustbench_cli.benchmarks.checkpoints.defended_model import open_defended_model

        named = self.named()
        if read_info(path) is not None:
            return open_defended_model(
                path, named=named, model=self.model, classes=self.classes, mean=self.mean, std=self.std
            )
        data = cache.data
        return open_defended_model(
            path,
            named=named,
            model=self.model,
            classes=self.classes or data.classes,
            mean=self.mean,
            std=self.std,
            shape=data.shape,
        )

    def training(
        self, cache: ModelCache, parameters: Mapping[str, Mapping[str, Any]], base: DefendedModel | None
    ) -> Training:
        """The training that puts the defenses around a checkpoint's model, or around a fresh one."""
        from robustbench_cli.cli.parameters import defense_specs
        from robustbench_cli.defenses import registry

        specs = defense_specs(self.defenses, parameters)
        if base is not None and not any(each.build(registry).fitted for each in specs):
            self._tell_of_no_training(base.path, parameters)
        return cache.training(model=self.model, mean=self.mean, std=self.std, base=base, defenses=specs)

    def _tell_of_no_training(self, path: Path, parameters: Mapping[str, Mapping[str, Any]]) -> None:
        """Tells who says something of a training that there is none."""
        keys = [f"--set train.{key}" for key in parameters.get("train", {})]
        for option in [*(["--epochs"] if self.epochs is not None else []), *keys]:
            console.warn(
                f"{option} changes nothing: {path} is taken as it is, and nothing is trained (name a --defense that trains, "
                "or leave it out)"
            )

    def defended_models(
        self,
        cache: ModelCache,
        parameters: Mapping[str, Mapping[str, Any]],
        *,
        before: Callable[[Training], None] = lambda _: None,
    ) -> list[DefendedModel]:
        """The defended models: what is made of each checkpoint, or of a fresh model, with each rule of decision.

        A checkpoint is taken as it is where no defense is named, or just those that it has: naming them is how a user
        allows the code of their own that it needs.

        Args:
            cache: By which they are come by.
            parameters: What the user set, by method.
            before: Called with each training before it is begun, or its checkpoint taken from the cache.
        """
        trained = self._trained(cache, parameters, before)
        if not self.decisions:
            return trained
        # What has no draws is the same model by every rule.
        deciding = [defended.with_decision(rule) for defended in trained for rule in self.decisions]
        return list({defended.identity: defended for defended in deciding}.values())

    def _trained(
        self,
        cache: ModelCache,
        parameters: Mapping[str, Mapping[str, Any]],
        before: Callable[[Training], None],
    ) -> list[DefendedModel]:
        def trained(base: DefendedModel | None) -> DefendedModel:
            training = self.training(cache, parameters, base)
            before(training)
            return cache.trained(training)

        if not self.checkpoints:
            return [trained(None)]
        names = [name for name in self.defenses if name != "none"]
        defended_models = []
        for path in self.checkpoints:
            base = self.base(cache, path)
            as_it_is = names in ([], [each.name for each in base.defenses])
            if as_it_is and any(parameters[name] for name in names):
                raise UserError(f"{path} is trained with {base.defense} already: leave out --set for it")
            if as_it_is:
                self._tell_of_no_training(path, parameters)
            defended_models.append(base if as_it_is else trained(base))
        return defended_models


def _numbers(context: click.Context, option: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    """Reads ``0.5`` or ``0.49,0.48,0.45``."""
    if value is None:
        return None
    try:
        return tuple(decimal(part.strip()) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(
            f"'{value}' is no list of numbers: give one, or one a channel, as 0.49,0.48,0.45"
        ) from None


def model_options(
    *, checkpoints: bool, decisions: bool = True, checkpoint_help: str = "Attack the model in this file."
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Adds the options that name models and defenses; they arrive as ``words``.

    Args:
        checkpoints: Whether several checkpoints may be given.
        decisions: Whether other rules of decision may be named for them.
        checkpoint_help: The help of ``--checkpoint``.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        @help_page.option(
            "--checkpoint",
            type=click.Path(path_type=Path),
            multiple=checkpoints,
            metavar="FILE",
            group="Model",
            help=checkpoint_help,
        )
        @help_page.option(
            "--model",
            metavar="SPEC",
            group="Model",
            shell_complete=complete_names("model"),
            help="Model to build, such as 'paper-cnn' or 'torchvision:resnet18'.",
        )
        @help_page.option(
            "--classes",
            type=click.IntRange(min=2),
            group="Model",
            help="Number of classes of a checkpoint that advdef did not write.",
        )
        @help_page.option(
            "--mean",
            callback=_numbers,
            metavar="M[,M...]",
            group="Model",
            help="Mean of the input normalization, for all channels or per channel (pixels in [0, 1]).",
        )
        @help_page.option(
            "--std",
            callback=_numbers,
            metavar="S[,S...]",
            group="Model",
            help="Standard deviation of the input normalization, for all channels or per channel.",
        )
        @help_page.option(
            "--dataset",
            metavar="NAME",
            group="Data",
            shell_complete=complete_names("dataset"),
            help=f"Data set.  [default: the checkpoint's, or {DEFAULT_DATASET}]",
        )
        @help_page.option(
            "--defense",
            "defenses",
            multiple=True,
            metavar="NAME",
            group="Defense",
            shell_complete=complete_names("defense"),
            help="Defense around the model; several compose in order.",
        )
        @help_page.option(
            "--epochs",
            type=click.IntRange(min=1),
            group="Model",
            help="Number of training epochs.  [default: the data set's usual number]",
        )
        @functools.wraps(function)
        def with_words(
            *args: Any,
            checkpoint: Any,
            model: str | None,
            classes: int | None,
            mean: tuple[float, ...] | None,
            std: tuple[float, ...] | None,
            dataset: str | None,
            defenses: tuple[str, ...],
            epochs: int | None,
            decisions: tuple[DecisionRule, ...] = (),
            **others: Any,
        ) -> None:
            files = checkpoint if checkpoints else (checkpoint,) if checkpoint else ()
            words = ModelArgs(files, model, classes, mean, std, dataset, defenses, epochs, decisions)
            function(*args, words=words, **others)

        if not (checkpoints and decisions):
            return with_words
        return help_page.option(
            "--decision",
            "decisions",
            type=OneOf(DECISIONS),
            multiple=True,
            group="Defense",
            help="Decision rule of a randomized defense at test time (no retraining); 'deterministic' is its deterministic "
            "counterpart.  [default: the rule that it was trained with]",
        )(with_words)

    return decorate

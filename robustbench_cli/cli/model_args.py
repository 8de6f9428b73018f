"""The options that name models and defenses, shared by the commands that train and that attack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from robustbench_cli.benchmarks.datasets import DEFAULT_DATASET
from robustbench_cli.benchmarks.datasets.base.choices import Channels, Crop, Interpolation, OnBadImage
from robustbench_cli.benchmarks.models.base.names import read_class_names, with_weights
from robustbench_cli.benchmarks.weights.file_names import require_existing
from robustbench_cli.cli import help_page
from robustbench_cli.cli.option_sets import OptionSet
from robustbench_cli.cli.param_types import NameOf, OneOf, decimal
from robustbench_cli.core.errors import UserError

if TYPE_CHECKING:
    from robustbench_cli.benchmarks.suites.config import DefenseConfig
    from robustbench_cli.core.settings import Settings
    from robustbench_cli.defenses.base.decision_rules import DecisionRule

__all__ = ["ModelArgs", "model_options"]

DECISIONS = ("one-draw", "mean", "vote", "exact", "deterministic", "frozen")


@dataclass(frozen=True)
class ModelArgs:
    """The models of a command line.

    Attributes:
        checkpoints: The files to start from.
        model: As the user named it.
        classes: The number of classes of a foreign checkpoint, or of a model where the labels alone do not say it.
        mean: Per-channel mean of the normalization inside the model.
        std: Per-channel standard deviation of the normalization.
        class_names: The file with the names of the classes, for a model that depends on them.
        dataset: As the user named it.
        data_options: The options of the data set that the user gave, by name.
        defenses: Names, in the order in which they are put around the model.
        epochs: Training epochs.
        decisions: Decision rules of a randomized defense, each for a model of its own; the defense's own where empty.
        recipe: The named recipe of the training.
    """

    checkpoints: tuple[Path, ...]
    model: str | None
    classes: int | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    class_names: Path | None
    dataset: str | None
    data_options: Mapping[str, object]
    defenses: tuple[str, ...]
    epochs: int | None
    decisions: tuple[DecisionRule, ...] = ()
    recipe: str | None = None

    @property
    def given(self) -> str:
        """The options that the user gave, for messages; empty for none."""
        options = {
            "--checkpoint": self.checkpoints,
            "--model": self.model,
            "--classes": self.classes,
            "--mean": self.mean,
            "--std": self.std,
            "--class-names": self.class_names,
            "--dataset": self.dataset,
            **{f"--{key.replace('_', '-')}": value for key, value in self.data_options.items()},
            "--defense": self.defenses,
            "--recipe": self.recipe,
            "--epochs": self.epochs,
            "--decision": self.decisions,
        }
        return ", ".join(option for option, value in options.items() if value not in (None, ()))

    def settable(self) -> dict[str, type[Settings]]:
        """What ``--set`` can change: the defenses, and the training as ``train``."""
        from robustbench_cli.defenses import registry
        from robustbench_cli.defenses.base.training.recipe import Recipe

        return {name: registry.load(name) for name in self.defenses} | {"train": Recipe}

    def suite_options(self, parameters: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """The models as options of a suite; see :meth:`~.suites.config.SuiteConfig.from_options`.

        Args:
            parameters: The values of ``--set``, by name of the defense or ``train``.

        Raises:
            UserError: A checkpoint cannot be read, does not name its data set, or a parameter is set of a defense that
                it was trained with.
        """
        from robustbench_cli.benchmarks.suites.config import ModelConfig

        options = {"recipe": self.recipe, "epochs": self.epochs}
        recipe = {
            **parameters.get("train", {}),
            **{key: value for key, value in options.items() if value is not None},
        }
        return {
            "dataset": self.dataset_name(),
            "model": None
            if self.checkpoints or {self.model, self.mean, self.std, self.classes, self.class_names} == {None}
            else ModelConfig(
                name=self.model, mean=self.mean, std=self.std, classes=self.classes, class_names=self._names()
            ),
            "defenses": self._chains(parameters),
            "decision": self.decisions,
            "train": recipe,
        }

    def dataset_name(self) -> str:
        """The data set that the user named, the first checkpoint's, or the embedded one, with its options.

        Raises:
            UserError: The first checkpoint does not name its data set, or an option is not allowed.
        """
        from robustbench_cli.benchmarks.datasets.base.options import split_name, with_options

        name = self._plain_dataset_name()
        in_name = split_name(name)[1] if self.dataset is not None else {}
        for key in in_name.keys() & self.data_options:
            if in_name[key].lower() != (given := str(self.data_options[key]).lower()):
                raise UserError(
                    f"--{key.replace('_', '-')} {given} and {key}={in_name[key]} in the name of the data set differ: leave one out"
                )
        return with_options(name, self.data_options)

    def _plain_dataset_name(self) -> str:
        """The data set, without the options of the command line."""
        from robustbench_cli.benchmarks.checkpoints.checkpoint import read_advdef_info
        from robustbench_cli.benchmarks.datasets.base.options import trusted

        if self.dataset is not None:
            return self.dataset
        if not self.checkpoints:
            return DEFAULT_DATASET
        path, missing = self.checkpoints[0], "what it was trained on: give --dataset"
        info = read_advdef_info(path, missing=missing, named=(self.model, *self.defenses))
        if info.dataset is None:
            raise UserError(f"{path} does not say {missing}")
        return trusted(info.dataset, file=path)

    def _names(self) -> tuple[str, ...] | None:
        """The names of the classes in the user's file."""
        return None if self.class_names is None else read_class_names(self.class_names)

    def _chains(self, parameters: Mapping[str, Mapping[str, Any]]) -> list[list[DefenseConfig]]:
        """The defenses around each checkpoint, or around a new model.

        A checkpoint is used as it is if the user names no defense, or just those that it has: naming them is how a user
        allows their own code that it needs.
        """
        from robustbench_cli.benchmarks.checkpoints.checkpoint import read_info
        from robustbench_cli.benchmarks.suites.config import DefenseConfig

        entries = [DefenseConfig(name=name, **parameters.get(name, {})) for name in self.defenses]
        if not self.checkpoints:
            return [entries or [DefenseConfig(name="none")]]
        names = [name for name in self.defenses if name != "none"]
        loading = {key: getattr(self, key) for key in ("model", "classes", "mean", "std")}
        loading["class_names"] = self._names()
        chains = []
        for path in self.checkpoints:
            info = read_info(path, named=(self.model, *self.defenses))
            existing = [spec for spec in info.defenses if spec.name != "none"] if info is not None else []
            is_used_as_it_is = names in ([], [spec.name for spec in existing])
            if is_used_as_it_is and any(parameters.get(name) for name in names):
                labels = "+".join(spec.label for spec in existing)
                raise UserError(f"{path} is trained with {labels} already: leave out --set for it")
            base = DefenseConfig(checkpoint=path, **loading)
            chains.append([base.allowing(names)] if is_used_as_it_is else [base, *entries])
        return chains


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


_DATA_OPTIONS = OptionSet(
    "data_options",
    lambda **values: {key: value for key, value in values.items() if value is not None},
    (
        help_page.option(
            "--image-size",
            metavar="N|HxW",
            group="Data",
            help="Size of the images that the model gets: resized and cropped to it.",
        ),
        help_page.option(
            "--resize",
            type=click.IntRange(min=1),
            group="Data",
            help="Shorter side of an image before the crop.  [default: what the crop needs]",
        ),
        help_page.option(
            "--crop",
            type=OneOf(get_args(Crop)),
            group="Data",
            help="Crop the center, or scale the whole image whatever its proportions.  [default: center]",
        ),
        help_page.option(
            "--interpolation",
            type=OneOf(get_args(Interpolation)),
            group="Data",
            help="Filter of the resizing.  [default: bilinear]",
        ),
        help_page.option(
            "--channels",
            type=OneOf([str(number) for number in get_args(Channels)]),
            group="Data",
            help="Channels of the images: 3 for gray images and a color model, 1 converts color images to gray.",
        ),
        help_page.option(
            "--on-bad-image",
            type=OneOf(get_args(OnBadImage)),
            group="Data",
            help="Whether an image file that cannot be read is an error, or is skipped.  [default: stop]",
        ),
    ),
)

_MODEL_OPTIONS = (
    help_page.option(
        "--model",
        metavar="SPEC",
        group="Model",
        type=NameOf("model"),
        help="Model to build, such as 'paper-cnn' or 'torchvision:resnet18'.",
    ),
    help_page.option(
        "--weights",
        metavar="NAME",
        group="Model",
        help="Published weights of the model, by name; DEFAULT are the library's newest.",
    ),
    help_page.option(
        "--classes",
        type=click.IntRange(min=2),
        group="Model",
        help="Number of classes, where neither a checkpoint of advdef nor the data set says it.",
    ),
    help_page.option(
        "--class-names",
        type=click.Path(path_type=Path),
        metavar="FILE",
        group="Model",
        help="Names of the classes for a zero-shot model, one per line.  [default: the data set's]",
    ),
    help_page.option(
        "--mean",
        callback=_numbers,
        metavar="M[,M...]",
        group="Model",
        help="Mean of the input normalization, for all channels or per channel (pixels in [0, 1]).",
    ),
    help_page.option(
        "--std",
        callback=_numbers,
        metavar="S[,S...]",
        group="Model",
        help="Standard deviation of the input normalization, for all channels or per channel.",
    ),
    help_page.option(
        "--dataset",
        metavar="NAME",
        group="Data",
        type=NameOf("dataset"),
        help=f"Data set.  [default: the checkpoint's, or {DEFAULT_DATASET}]",
    ),
    help_page.option(
        "--defense",
        "defenses",
        multiple=True,
        metavar="NAME",
        group="Defense",
        type=NameOf("defense"),
        help="Defense around the model; several compose in order.",
    ),
    help_page.option(
        "--recipe",
        metavar="NAME",
        group="Model",
        type=NameOf("recipe"),
        help="Recipe of the training: a paper's settings, and its defense without --defense; see 'advdef list recipes'.  [default: quick settings, named default]",
    ),
    help_page.option(
        "--epochs",
        type=click.IntRange(min=1),
        group="Model",
        help="Number of training epochs.  [default: the data set's usual number]",
    ),
)

_DECISION_OPTION = help_page.option(
    "--decision",
    "decisions",
    type=OneOf(DECISIONS),
    multiple=True,
    group="Defense",
    help="Decision rule of a randomized defense at test time (no retraining); 'deterministic' is its deterministic "
    "counterpart.  [default: the rule that it was trained with]",
)


def model_options(
    *, checkpoints: bool, decisions: bool = True, checkpoint_help: str = "Attack the model in this file."
) -> OptionSet:
    """The options that name models and defenses; they arrive as ``args``, a :class:`ModelArgs`.

    Args:
        checkpoints: Whether several checkpoints may be given.
        decisions: Whether ``--decision`` may replace a randomized defense's own decision rule; it needs ``checkpoints``.
        checkpoint_help: The help of ``--checkpoint``.
    """
    checkpoint = help_page.option(
        "--checkpoint",
        "checkpoints",
        type=click.Path(path_type=Path),
        multiple=checkpoints,
        metavar="FILE",
        group="Model",
        help=checkpoint_help,
    )

    def build(*, checkpoints: Any, model: str | None, weights: str | None, **values: Any) -> ModelArgs:
        files = checkpoints if isinstance(checkpoints, tuple) else (checkpoints,) if checkpoints else ()
        for file in files:
            require_existing(file)
        if weights is not None:
            if files:
                raise UserError(f"--weights {weights} and --checkpoint {files[0]} both give weights: leave one out")
            if model is None:
                raise UserError(f"--weights {weights} needs --model, such as torchvision:resnet18")
            model = with_weights(model, weights)
        if (recipe := values["recipe"]) is not None and not values["defenses"] and not files:
            from robustbench_cli.defenses.base.training.recipes import registry

            values["defenses"] = registry.load(recipe).defenses[:1]
        data_options = _DATA_OPTIONS.build(**{name: values.pop(name) for name in _DATA_OPTIONS.names})
        return ModelArgs(checkpoints=files, model=model, data_options=data_options, **values)

    decision = (_DECISION_OPTION,) if checkpoints and decisions else ()
    return OptionSet("args", build, (*decision, checkpoint, *_MODEL_OPTIONS, *_DATA_OPTIONS.options))

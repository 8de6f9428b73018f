"""The base of all defenses, and ``defend``, which protects and trains a model from Python."""

from __future__ import annotations

import copy
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.inputs import (
    Images,
    Labels,
    checked_device,
    checked_images,
    checked_labels,
    checked_logits,
    checked_model,
    checked_seed,
    require_classes,
)
from robustbench_cli.attacks.base.models.freezing import frozen
from robustbench_cli.core.errors import Choice, UserError
from robustbench_cli.defenses import registry
from robustbench_cli.defenses.base.training.augmentations import registry as augmentations
from robustbench_cli.defenses.base.training.loading import Examples, TensorExamples
from robustbench_cli.defenses.base.training.named_recipe import NamedRecipe
from robustbench_cli.defenses.base.training.recipe import Recipe
from robustbench_cli.defenses.base.training.recipes import registry as recipes
from robustbench_cli.defenses.base.training.trainer import Trainer
from robustbench_cli.defenses.base.usual_radius import USUAL_RADIUS, UsualRadiusDefaults

__all__ = ["Defense", "defend", "protected_by"]


class Defense(UsualRadiusDefaults, ABC):
    """Turns a model into a defended model.

    Whether the defended model is randomized is measured, not declared
    (:func:`~robustbench_cli.attacks.base.models.probes.is_randomized`). A randomized model draws from torch's global
    generators, independently for every row of a batch and in each forward pass, in ``train()`` and in ``eval()`` mode. If
    its draws are enumerable, it implements
    :class:`~robustbench_cli.attacks.base.models.enumerable_draws.EnumerableDraws`.

    Attributes:
        family: One of those on the page of defenses, for catalogs; ``"own"`` for a user's.
        trains: Whether :meth:`fit` trains the network's weights, from any initial weights. ``False``: the defense needs
            a network that is trained already, so all such defenses of one network share its training. A class that
            defines ``fit`` trains, unless it declares ``trains: ClassVar[bool] = False``.
        attacked_by: What an adaptive attack has to follow, for the reader. Gradient attacks do so by themselves where
            the defended model backpropagates it.
    """

    family: ClassVar[str] = "own"
    trains: ClassVar[bool] = False
    attacked_by: ClassVar[str] = "its own gradient"

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for base in cls.__mro__:
            if "trains" in vars(base):
                break
            if not {"fit", "train_draws"}.isdisjoint(vars(base)):
                cls.trains = True
                break

    @property
    def needs_fit(self) -> bool:
        """Whether the defended model is unusable before :meth:`fit`.

        True if ``fit`` trains weights, and also if it only sets a threshold on clean examples.
        """
        return type(self).fit is not Defense.fit

    @property
    def takes_mixed_labels(self) -> bool:
        """Whether :meth:`fit` can learn from probabilities ``(B, K)`` as labels, which augmentations such as cutmix give."""
        return True

    def for_classes(self, classes: int | None, names: Sequence[str] | None, *, name: str) -> Self:
        """The defense for the classes of some data; a defense with parameters that name classes looks them up here.

        Args:
            classes: K; ``None`` if it is unknown.
            names: The names of the classes, in order; ``None`` if the data have none.
            name: How the user called the defense, for the messages.

        Raises:
            UserError: A parameter names a class that does not exist.
        """
        return self

    def require_labels(self, recipe: Recipe, *, name: str) -> None:
        """Checks that the defense can learn from the labels of a recipe.

        Args:
            recipe: The recipe.
            name: How the user called the defense, for the message.

        Raises:
            UserError: An augmentation mixes labels, and the defense needs one class per image.
        """
        if self.takes_mixed_labels:
            return
        for entry in recipe.augmentations or ():
            if augmentations.load(entry["name"]).mixes_labels:
                raise UserError(
                    f"{name} needs one class per image, and {entry['name']} mixes images of several classes: leave it out of "
                    "train.augmentations"
                )

    @abstractmethod
    def protect(self, model: nn.Module, example: Tensor) -> nn.Module:
        """Builds the defended model.

        Its structure and the names in its state dict must depend only on the model's structure, the example's shape and
        the defense's parameters. So a checkpoint can be loaded into a new one.

        Args:
            model: Images ``(N, C, H, W)`` in [0, 1] to logits ``(N, K)``. It stays unchanged, and shares no parameter
                with the result.
            example: One image ``(1, C, H, W)`` in [0, 1], on the model's device.

        Raises:
            UserError: The defense does not support the model.
        """

    def fit(self, model: nn.Module, trainer: Trainer) -> None:
        """Trains the defended model in place by the defense's own procedure, or sets its threshold.

        Args:
            model: The model that :meth:`protect` built.
            trainer: The examples, the recipe and the loop.
        """


def protected_by(defense: Defense, model: nn.Module, example: Tensor) -> nn.Module:
    """Builds the defended model, and checks that it is one.

    Args:
        defense: The defense.
        model: See :meth:`Defense.protect`.
        example: See :meth:`Defense.protect`.

    Raises:
        UserError: The defense does not support the model, or gives something else than a module.
    """
    protected: object = defense.protect(model, example)
    if not isinstance(protected, nn.Module):
        raise UserError(f"{type(defense).__name__}.protect gives {_kind_of(protected)}: it must return an nn.Module")
    return protected


def defend(
    model: nn.Module,
    defense: Defense | str,
    examples: Examples | tuple[Images, Labels],
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    extra: Examples | tuple[Images, Labels] | None = None,
    **recipe: Any,
) -> nn.Module:
    """Protects a model, and trains it if the defense needs training.

    Args:
        model: Images ``(N, C, H, W)`` in [0, 1] to logits ``(N, K)``. It stays unchanged.
        defense: The defense with its parameters, or its name on the command line. Parameters whose default depends on the data set's usual radius use that
            of ``examples``, or 8/255 if it is unknown.
        examples: A split of a data set, which has a ``usual_eps``; what ``first_examples`` gives; or images and labels as arrays.
        seed: Determines the initial weights and the training.
        device: The device to train on.
        extra: Extra training data, in the same form, that take the fraction ``extra_fraction`` of each batch.
        **recipe: Fields of :class:`~.recipe.Recipe`, such as ``epochs``, or ``recipe="rice-2020"`` for a named recipe.

    Returns:
        The defended model, in ``eval()`` mode.

    Raises:
        UserError: An argument has the wrong type or shape, the defense does not support the model, or a field of the
            recipe is unknown or out of range.

    Examples:
        >>> import torch
        >>> from robustbench_cli.defenses.base.defense import defend
        >>> from robustbench_cli.defenses.gaussian_noise import GaussianNoise
        >>> images, labels = torch.rand(64, 1, 8, 8), torch.arange(64) % 10
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 10))
        >>> noisy = defend(network, GaussianNoise(sigma_init=0.1), (images, labels), epochs=1)
        >>> noisy(images).shape
        torch.Size([64, 10])
        >>> torch.equal(noisy(images), noisy(images))  # each pass draws new noise
        False
    """
    checked_model(model)
    data = _as_examples(examples)
    defense, named = _with_recipe(_resolved(defense), recipe.get("recipe"), data)
    defense = defense.for_radius(_usual_radius(data))
    target = checked_device(device)
    more = None if extra is None else _as_extra(extra, data)
    settings = _settings(recipe, named, defense, data, has_extra=more is not None)
    trainer = Trainer(data, settings, seed=checked_seed(seed), device=target, extra=more)
    example = _first(data)[0].to(target)
    copied = copy.deepcopy(model).to(target)
    with frozen(copied), trainer.seeded("probe"):
        classes = checked_logits(copied, example).shape[1]
    _require_classes(classes, data, more)
    defense = defense.for_classes(classes, getattr(data, "class_names", None), name=type(defense).__name__)
    with trainer.seeded("weights"):
        protected = protected_by(defense, copied, example)
    if defense.needs_fit:
        defense.fit(protected, trainer)
    return protected.eval()


def _resolved(defense: object) -> Defense:
    """The defense that a user named or gave."""
    if isinstance(defense, str):
        defense = registry.load(defense)()
    if not isinstance(defense, Defense):
        raise UserError(
            f"the defense is {_kind_of(defense)}: give one with its parameters, such as HRS(channels=(5, 5))"
        )
    return defense


def _usual_radius(examples: Examples) -> float:
    """The usual radius of the examples in linf."""
    radius: float | None = getattr(examples, "usual_eps", None)
    return USUAL_RADIUS if radius is None else radius


def _with_recipe(defense: Defense, name: Any, examples: Examples) -> tuple[Defense, Mapping[str, Any]]:
    """The defense with the values of the named recipe where the user gives none, and that recipe's fields."""
    if name is None:
        return defense, {}
    named: type[NamedRecipe] = recipes.load(name)
    own = registry.name_of(type(defense))
    applied = named.apply(
        name,
        {own: [*type(defense).model_fields]},
        dataset="these images",
        shape=tuple(_first(examples)[0].shape[1:]),
        radius=_usual_radius(examples),
    )
    for misfit in applied.misfits:
        warnings.warn(misfit, Choice, stacklevel=3)
    given = {key: getattr(defense, key) for key in defense.model_fields_set}
    return type(defense)(**{**applied.defenses.get(own, {}), **given}), applied.training


def _as_examples(examples: object) -> Examples:
    """The examples that a user gave, checked."""
    # What first_examples gives, which belongs to a floor above.
    images, labels = getattr(examples, "images", None), getattr(examples, "labels", None)
    if isinstance(images, Tensor) and isinstance(labels, Tensor):
        examples = (images, labels)
    if isinstance(examples, list | tuple) and len(examples) == 2:
        images = checked_images(examples[0]).float().cpu()
        return TensorExamples(images, checked_labels(examples[1], len(images)).cpu())
    if callable(getattr(examples, "batch", None)) and hasattr(examples, "__len__"):
        data = cast("Examples", examples)
        if not len(data):
            raise UserError("the examples are empty: give at least one image")
        return data
    advice = (
        "give one of its splits, dataset.split('train')"
        if hasattr(examples, "split")
        else "give a split, or (images, labels)"
    )
    raise UserError(f"the examples are {_kind_of(examples)}: {advice}")


def _first(examples: Examples) -> tuple[Tensor, Tensor]:
    """The first image ``(1, C, H, W)`` and its label ``(1,)``."""
    return examples.batch(torch.zeros(1, dtype=torch.int64))


def _as_extra(extra: object, examples: Examples) -> Examples:
    """The extra examples that a user gave, which must have the shape of the others."""
    checked = _as_examples(extra)
    theirs, ours = (tuple(_first(part)[0].shape[1:]) for part in (checked, examples))
    if theirs != ours:
        raise UserError(f"extra has images {theirs}, and the examples have {ours}: give images of the same shape")
    return checked


def _require_classes(classes: int, *parts: Examples | None) -> None:
    """Checks the labels of examples: all of those in memory, else the first."""
    for part in parts:
        if part is not None:
            require_classes(part.labels if isinstance(part, TensorExamples) else _first(part)[1], classes)


def _settings(
    recipe: dict[str, Any], named: Mapping[str, Any], defense: Defense, examples: Examples, *, has_extra: bool
) -> Recipe:
    """The recipe for a defense, with the named recipe's fields or what is usual for the examples where the user set nothing."""
    if "pseudo_labels" in recipe:
        raise UserError("pseudo_labels is for the command line: give extra with the labels, as (images, labels)")
    usual = {"augmentations": getattr(examples, "usual_augmentations", ())}
    fields = {**usual, **named, **recipe, **({"extra": "in memory"} if has_extra else {})}
    settings = Recipe.from_parameters(fields, name="recipe")
    settings.require_effect(recipe, name="recipe")
    defense.require_labels(settings, name=type(defense).__name__)
    return settings


def _kind_of(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"

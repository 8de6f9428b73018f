"""The base of every defense."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.inputs import (
    Images,
    Labels,
    checked_count,
    checked_device,
    checked_images,
    checked_labels,
    checked_logits,
    checked_model,
    require_classes,
)
from robustbench_cli.attacks.base.models.freezing import frozen
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.training.recipe import Recipe
from robustbench_cli.defenses.base.training.trainer import Examples, Trainer
from robustbench_cli.defenses.base.usual_radius import USUAL_RADIUS, UsualRadiusDefaults

__all__ = ["Defense", "defend"]


class Defense(UsualRadiusDefaults, ABC):
    """Turns a model into a defended one.

    Whether the defended model is randomized is measured (:func:`~robustbench_cli.attacks.base.models.probes.is_randomized`),
    not declared. A randomized one draws from torch's global generators, for every row of a batch by itself, anew in
    each forward pass, and in ``eval()`` as in ``train()``; where its draws can be counted it satisfies
    :class:`~robustbench_cli.attacks.base.models.enumerable_draws.EnumerableDraws`.

    Attributes:
        trains: Whether :meth:`fit` trains the network's weights, from any initial weights. ``False``: the defense needs
            a network that is trained already, so all such defenses of one network share its training. A class that
            defines ``fit`` trains, unless it declares ``trains: ClassVar[bool] = False``.
        attacked_by: What an adaptive attack has to follow, for the reader. Gradient attacks do so by themselves where
            the defended model backpropagates it.
    """

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

    @abstractmethod
    def protect(self, model: nn.Module, example: Tensor) -> nn.Module:
        """Builds the defended model.

        Its structure and the names in its state dict follow from the model's structure, the example's shape and the
        defense's parameters alone, so that a checkpoint can be loaded into one built anew.

        Args:
            model: Images ``(N, C, H, W)`` in [0, 1] to logits ``(N, K)``. It is left as it is, and shares no parameter
                with what is returned.
            example: One image ``(1, C, H, W)`` in [0, 1], on the model's device.

        Raises:
            UserError: The model is not of the kind that the defense needs.
        """

    def fit(self, model: nn.Module, trainer: Trainer) -> None:
        """Trains in place, by the defense's own procedure, what :meth:`protect` returned, or sets what it left open.

        Args:
            model: The protected model.
            trainer: The examples, the recipe and the loop.
        """


def defend(
    model: nn.Module,
    defense: Defense,
    examples: Examples | tuple[Images, Labels],
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    **recipe: Any,
) -> nn.Module:
    """Protects a model and trains it where the defense needs training, from Python.

    Args:
        model: Images ``(N, C, H, W)`` in [0, 1] to logits ``(N, K)``; left as it is.
        defense: The defense and its parameters. Those that follow from the data set's usual radius, and are not given,
            follow from that of the examples, or from 8/255 where they do not say which it is.
        examples: What to train on: a split of a data set, which knows its ``usual_eps``, or images and labels as two tensors
            or arrays.
        seed: Of the fresh weights and of the training.
        device: Where to train.
        **recipe: Fields of :class:`~.recipe.Recipe`, such as ``epochs``.

    Returns:
        The defended model, in ``eval()`` mode.

    Raises:
        UserError: An argument is not what it must be, the model is not of the kind that the defense needs, or a part of
            the recipe is unknown or not allowed.
    """
    checked_model(model)
    if not isinstance(defense, Defense):
        raise UserError(
            f"the defense is {_called(defense)}: give one with its parameters, such as HRS(channels=(5, 5))"
        )
    found = _examples(examples)
    radius: float | None = getattr(found, "usual_eps", None)
    defense = defense.for_radius(USUAL_RADIUS if radius is None else radius)
    where = checked_device(device)
    seed = checked_count(seed, "seed", "give a whole number, at least 0", least=0)
    trainer = Trainer(found, Recipe.from_parameters(recipe, name="recipe"), seed=seed, device=where)
    image, label = found.batch(torch.zeros(1, dtype=torch.int64))
    copied = copy.deepcopy(model).to(where)
    with frozen(copied), trainer.seeded("probe"):
        labels = found.labels if isinstance(found, _InMemory) else label
        require_classes(labels, checked_logits(copied, image.to(where)).shape[1])
    with trainer.seeded("weights"):
        protected = defense.protect(copied, image.to(where))
    if defense.needs_fit:
        defense.fit(protected, trainer)
    return protected.eval()


@dataclass(frozen=True)
class _InMemory:
    """Examples held as two tensors: ``(N, C, H, W)`` float32 in [0, 1], and ``(N,)`` int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return self.images[indices], self.labels[indices]


def _examples(examples: object) -> Examples:
    if isinstance(examples, list | tuple) and len(examples) == 2:
        images = checked_images(examples[0]).float().cpu()
        return _InMemory(images, checked_labels(examples[1], len(images)).cpu())
    if callable(getattr(examples, "batch", None)) and hasattr(examples, "__len__"):
        found = cast("Examples", examples)
        if not len(found):
            raise UserError("the examples are none: give at least one image")
        return found
    way = (
        "give one of its splits, dataset.split('train')"
        if hasattr(examples, "split")
        else "give a split, or (images, labels)"
    )
    raise UserError(f"the examples are {_called(examples)}: {way}")


def _called(thing: object) -> str:
    return f"the class {thing.__name__}" if isinstance(thing, type) else f"a {type(thing).__name__}"

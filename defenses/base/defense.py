"""The base of every defense."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from robustbench_cli.defenses.base.following import USUAL_RADIUS, Following
from robustbench_cli.defenses.base.recipe import Recipe
from robustbench_cli.defenses.base.training import Examples, Trainer

__all__ = ["Defense", "defend"]


class Defense(Following, ABC):
    """Turns a model into a defended one.

    Whether the defended model is randomized is measured (:func:`~robustbench_cli.attacks.base.model.is_randomized`),
    not declared. A randomized one draws from torch's global generators, for every row of a batch by itself, anew in
    each forward pass, and in ``eval()`` as in ``train()``; where its draws can be counted it satisfies
    :class:`~robustbench_cli.attacks.base.model.EnumerableDraws`.

    Attributes:
        trained: Whether :meth:`fit` trains the model, from whatever weights it has.
        attacked_by: What an attack has to follow in order to adapt to it, in words; every attack by gradients does so
            by itself where it is what the defended model passes back.
    """

    trained: ClassVar[bool] = False
    attacked_by: ClassVar[str] = "its own gradient"

    @property
    def fitted(self) -> bool:
        """Whether :meth:`fit` has to follow :meth:`protect` before the defended model is of use.

        So it has where it trains, and where it only looks at clean examples, as the choice of a threshold does.
        """
        return self.trained

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
    examples: Examples,
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
        examples: What to train on; a split of a data set knows its ``usual_eps``.
        seed: Of the fresh weights and of the training.
        device: Where to train.
        **recipe: Fields of :class:`~.recipe.Recipe`, such as ``epochs``.

    Returns:
        The defended model, in ``eval()`` mode.

    Raises:
        UserError: The model is not of the kind that the defense needs, or a part of the recipe is unknown or not
            allowed.
    """
    radius: float | None = getattr(examples, "usual_eps", None)
    defense = defense.for_radius(USUAL_RADIUS if radius is None else radius)
    trainer = Trainer(examples, Recipe.from_parameters(recipe, name="recipe"), seed=seed, device=torch.device(device))
    image, _ = examples.batch(torch.zeros(1, dtype=torch.int64))
    with trainer.draws("weights"):
        protected = defense.protect(copy.deepcopy(model).to(device), image.to(device))
    if defense.fitted:
        defense.fit(protected, trainer)
    return protected.eval()

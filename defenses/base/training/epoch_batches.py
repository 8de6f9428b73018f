"""Which examples a training trains on, which it holds out, and the batches of an epoch."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from robustbench_cli.attacks.base.rng import seed_from
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.training.loading import Examples, mixed_batches
from robustbench_cli.defenses.base.training.recipe import Recipe

__all__ = ["EpochBatches"]


class EpochBatches:
    """The examples of a training by their indices: those to train on in batches, and those that are held out.

    Args:
        examples: The training examples.
        recipe: Says how many are held out, how many an epoch takes, and the size of a batch.
        seed: Determines which are held out.
        extra: The number of extra examples, whose indices follow those of the others.

    Attributes:
        train_indices: ``(n,)``, the examples to train on.
        held_out_indices: ``(m,)``, the others.
        extra: The number of extra examples.

    Raises:
        UserError: A class has no image to train on, or none that is held out.
    """

    def __init__(self, examples: Examples, recipe: Recipe, *, seed: int, extra: int = 0) -> None:
        self._recipe = recipe
        self.extra = extra
        self._count = len(examples)
        self.train_indices, self.held_out_indices = torch.arange(self._count), torch.arange(0)
        if recipe.held_out:
            order = torch.randperm(self._count, generator=torch.Generator().manual_seed(seed_from(seed, "held out")))
            held_out = min(max(round(recipe.held_out * self._count), 1), self._count - 1)
            self.train_indices, self.held_out_indices = order[held_out:], order[:held_out]
            self._require_all_classes(getattr(examples, "labels", None))

    @property
    def images(self) -> int:
        """The number of images in an epoch, without extra ones."""
        return max(1, round(self._recipe.epoch_fraction * len(self.train_indices)))

    @property
    def count(self) -> int:
        """The number of batches in an epoch."""
        return math.ceil(self.images / self._recipe.batch_size)

    def only(self, indices: Tensor) -> Self:
        """The same with fewer examples to train on.

        Args:
            indices: ``(n,)``, among :attr:`train_indices`.
        """
        fewer = copy.copy(self)
        fewer.train_indices = indices
        return fewer

    def of_epoch(self, seed: int) -> Sequence[Tensor]:
        """The batches of an epoch, each the indices of its examples.

        Args:
            seed: Determines the order.
        """
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self.train_indices), generator=generator)
        own = self.train_indices[order[: self.images]]
        if not self.extra:
            return own.tensor_split(self.count)
        extra = torch.arange(self.extra) + self._count
        fraction = self._recipe.share_of_extra
        return mixed_batches(own, extra, fraction=fraction, batches=self.count, generator=generator)

    def _require_all_classes(self, labels: Tensor | None) -> None:
        """Checks that every class has images to train on and held-out ones, if the examples tell their labels.

        Raises:
            UserError: A class has none.
        """
        if labels is None:
            return
        for indices, what in (
            (self.train_indices, "leaves no image to train on"),
            (self.held_out_indices, "holds out no image"),
        ):
            missing = sorted(set(labels.unique().tolist()) - set(labels[indices].unique().tolist()))
            if missing:
                given = self._recipe.held_out
                smaller = indices is self.train_indices
                share, other = ("smaller", given / 2) if smaller else ("larger", max(0.1, min(2 * given, 0.5)))
                raise UserError(
                    f"train.held_out={given:g} {what} of class {missing[0]}: give a {share} share, as in --set "
                    f"train.held_out={other:.2g}, or 0"
                )

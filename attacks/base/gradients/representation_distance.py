"""The distance between hidden representations of two images under one draw, as another output of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.losses import Loss, closed_form, slope_and_value
from robustbench_cli.attacks.base.models.hidden_layer import HiddenLayer
from robustbench_cli.core.errors import UserError

__all__ = ["RepresentationDistance"]

Pass = Callable[[Tensor], Tensor]
"""Maps images ``(N, C, H, W)`` to logits ``(D, N, K)`` of the same D draws at each call."""


@dataclass(frozen=True)
class RepresentationDistance:
    """The l2 distance of an image's representation from that of its reference, of each draw by itself.

    Both images pass under the same draw. With two draws, their noise would be part of the distance; and a representation may
    have a meaning only within its draw, as behind a random switch between networks.

    Attributes:
        layer: Gives the representations; ``None`` for the logits.
        references: ``(N, C, H, W)``.
        weight: The factor of the distance in a loss.
    """

    layer: HiddenLayer | None
    references: Tensor
    weight: float

    @contextmanager
    def appended(
        self, network: nn.Module, seeded: Callable[[Tensor], AbstractContextManager[Pass]], leaf: Tensor, part: slice
    ) -> Iterator[Pass]:
        """A model whose last logit is the distance.

        Args:
            network: Has the layer.
            seeded: Opens the model for images; it has the same draws each time.
            leaf: ``(n, C, H, W)``, the images.
            part: Their rows among the references.

        Yields:
            A function from the images to ``(D, n, K + 1)``.

        Raises:
            UserError: The layer does not have one row per image and draw.
        """
        references = self.references[part]
        with seeded(references) as model, torch.no_grad():
            _, targets = self._pass(network, model, references)
        with seeded(leaf) as model:

            def with_distance(images: Tensor) -> Tensor:
                logits, representations = self._pass(network, model, images)
                # Masked classes have logits of -inf, whose difference is NaN.
                differences = (representations - targets).nan_to_num(0, 0, 0)
                distances = torch.linalg.vector_norm(differences, dim=2, keepdim=True)
                return torch.cat([logits, distances.to(logits.dtype)], 2)

            yield with_distance

    def _pass(self, network: nn.Module, model: Pass, images: Tensor) -> tuple[Tensor, Tensor]:
        """The logits ``(D, N, K)`` and the representations ``(D, N, d)``, which are float32 in bf16 too."""
        if self.layer is None:
            logits = model(images)
            return logits, logits.to(images.dtype)
        with self.layer.captured(network) as values:
            logits = model(images)
        runs = [value for value in values if isinstance(value, Tensor)]
        # The last run counts. Where rows or draws pass one after the other, all runs together have a row for each.
        for rows in (runs[-1:], runs):
            if sum(map(len, rows)) == logits.shape[0] * logits.shape[1]:
                return logits, torch.cat(rows).to(images.dtype).view(*logits.shape[:2], -1)
        raise UserError(
            f"layer '{self.layer.name}' has {sum(map(len, runs))} rows for {logits.shape[1]} images and {logits.shape[0]} draws: "
            "give a layer that every draw of every image passes, or a number of draws (eot 10)"
        )

    def added_to(self, loss: Loss | None) -> Loss:
        """A loss of what the :meth:`appended` model gives: the loss of the logits plus the weighted distance.

        Args:
            loss: The loss of the logits; ``None`` for 0.
        """

        def slope(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
            slopes = torch.full_like(outputs, self.weight)
            slopes[:, :-1] = 0 if loss is None else slope_and_value(loss, outputs[:, :-1], labels)[0]
            return slopes, lambda: total(outputs, labels)

        @closed_form(slope)
        def total(outputs: Tensor, labels: Tensor) -> Tensor:
            distances = self.weight * outputs[:, -1]
            return distances if loss is None else loss(outputs[:, :-1], labels) + distances

        return total

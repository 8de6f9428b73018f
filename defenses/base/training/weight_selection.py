"""Selects a network's final weights: the last, their running mean, the best epoch's, or those before a collapse."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["Collapse", "WeightSelection"]


@dataclass(frozen=True, kw_only=True)
class Collapse:
    """Ends a training early when an accuracy drops sharply from one epoch to the next (catastrophic overfitting).

    Attributes:
        accuracy: Measures the accuracy of the network, in [0, 1].
        drop: The drop in accuracy, in [0, 1], from which on the training ends. The weights from before it are restored.
    """

    accuracy: Callable[[nn.Module], float]
    drop: float


class WeightSelection:
    """Follows a training and selects the final weights.

    Args:
        network: The network in training.
        decay: Decay of the running mean of the weights and of the batch statistics. 0: no running mean.
        held_out: Measures the accuracy on held-out images, which selects the best epoch. ``None``: the last epoch's
            weights are used.
        collapse: The condition for early stopping, if there is one.

    Attributes:
        metrics: What was measured so far, by name. It is stored in the checkpoint's record. The next epoch is compared
            with it.
        copies: Other states of the network that a resumed training needs, by name.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        decay: float,
        held_out: Callable[[nn.Module], float] | None,
        collapse: Collapse | None,
    ) -> None:
        self.metrics: dict[str, float] = {}
        self.copies: dict[str, dict[str, Tensor]] = {}
        self._network = network
        self._decay = decay
        self._held_out = held_out
        self._collapse = collapse
        # The network's own tensors, which training changes in place.
        self._current = dict(network.state_dict())
        self._averaged_names = [name for name, tensor in self._current.items() if tensor.is_floating_point()]
        # These names are part of the resume file's format.
        if decay:
            self.copies["mean"] = self._snapshot()
        if held_out or collapse:
            self.copies["kept"] = self._snapshot()

    def after_step(self, step: int) -> None:
        """Adds the weights after a step to the running mean.

        Args:
            step: The step's number in the training, from 0.
        """
        if mean := self.copies.get("mean"):
            decay = min(self._decay, (1 + step) / (10 + step))
            names = self._averaged_names
            with torch.no_grad():
                torch._foreach_lerp_([mean[name] for name in names], [self._current[name] for name in names], 1 - decay)

    def after_epoch(self, epoch: int) -> bool:
        """Measures the network after an epoch.

        Args:
            epoch: The epoch's number, from 0.

        Returns:
            Whether the network has collapsed.
        """
        if self._collapse:
            before, after = self.metrics.get("watched_accuracy"), self._collapse.accuracy(self._network)
            if before is not None and before - after >= self._collapse.drop:
                self.metrics |= {"collapsed_epoch": epoch + 1, "collapsed_accuracy": after}
                return True
            self.metrics["watched_accuracy"] = after
        if self._held_out:
            with self._with_mean():
                accuracy = self._held_out(self._network)
            # On a tie the later epoch wins: it has trained longer.
            if accuracy >= self.metrics.get("held_out_accuracy", 0):
                self.metrics |= {"held_out_accuracy": accuracy, "kept_epoch": epoch + 1}
                self._select()
        elif self._collapse:
            self._select()
        return False

    def finish(self) -> str:
        """Loads the selected weights into the network.

        Returns:
            A note for the user; empty for the usual selection.
        """
        self._load(self.copies.get("kept") or self._averaged())
        notes = []
        if "collapsed_epoch" in self.metrics:
            before, after = self.metrics["watched_accuracy"], self.metrics["collapsed_accuracy"]
            notes.append(
                f"collapsed in epoch {self.metrics['collapsed_epoch']:.0f} (robust accuracy on training images fell from "
                f"{before:.1%} to {after:.1%}); the weights before it are used"
            )
        if "kept_epoch" in self.metrics:
            notes.append(
                f"the weights of epoch {self.metrics['kept_epoch']:.0f} are used: "
                f"{self.metrics['held_out_accuracy']:.1%} held-out accuracy"
            )
        return "; ".join(notes)

    def _snapshot(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self._current.items()}

    def _load(self, state: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, tensor in self._current.items():
                tensor.copy_(state[name])

    def _select(self) -> None:
        averaged = self._averaged()
        for name, tensor in self.copies["kept"].items():
            tensor.copy_(averaged[name])

    def _averaged(self) -> dict[str, Tensor]:
        """The network's state, with the running mean's values if there is a running mean."""
        mean = self.copies.get("mean", self._current)
        return {**self._current, **{name: mean[name] for name in self._averaged_names}}

    @contextmanager
    def _with_mean(self) -> Iterator[None]:
        """Gives the network the running mean's weights within the context, if there is a running mean."""
        current = self._snapshot()
        self._load(self._averaged())
        try:
            yield
        finally:
            self._load(current)

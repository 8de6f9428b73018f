"""Selects a network's final weights: the latest, their average, the best epoch's, or those before a collapse."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

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
        swa_start: The fraction of the epochs from which on the weights after each epoch are averaged equally. ``None``: they
            are not. Not together with ``decay``.
        held_out: Measures the network; its ``held_out_robust``, or else its ``held_out_clean``, selects the best epoch.
            ``None``: the last epoch's weights are used.
        recompute_statistics: Computes new batch statistics of the network for the equal average.
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
        swa_start: float | None,
        held_out: Callable[[nn.Module], dict[str, float]] | None,
        recompute_statistics: Callable[[nn.Module], None],
        collapse: Collapse | None,
    ) -> None:
        self.metrics: dict[str, Any] = {}
        self.copies: dict[str, dict[str, Tensor]] = {}
        self._network = network
        self._decay = decay
        self._swa_start = swa_start
        self._held_out = held_out
        self._recompute_statistics = recompute_statistics
        self._collapse = collapse
        # The network's own tensors, which training changes in place.
        self._current = dict(network.state_dict())
        self._averaged_names = [name for name, tensor in self._current.items() if tensor.is_floating_point()]
        # These names are part of the resume file's format.
        if decay or swa_start is not None:
            self.copies["mean"] = self._snapshot()
        if held_out or collapse:
            self.copies["kept"] = self._snapshot()

    def after_step(self, step: int) -> None:
        """Adds the weights after a step to the running mean.

        Args:
            step: The step's number in the training, from 0.
        """
        if self._decay:
            decay = min(self._decay, (1 + step) / (10 + step))
            self._move_mean(1 - decay)

    def after_epoch(self, epoch: int, epochs: int, loss: float) -> bool:
        """Averages and measures the network after an epoch.

        Args:
            epoch: The epoch's number, from 0.
            epochs: The number of all epochs.
            loss: The mean training loss of the epoch, for the learning curve.

        Returns:
            Whether the network has collapsed.
        """
        point: dict[str, float] = {"epoch": epoch + 1, "loss": loss}
        self.metrics["curve"] = [*self.metrics.get("curve", []), point]
        if self._collapse:
            before, after = self.metrics.get("watched_accuracy"), self._collapse.accuracy(self._network)
            if before is not None and before - after >= self._collapse.drop:
                self.metrics |= {"collapsed_epoch": epoch + 1, "collapsed_accuracy": after}
                return True
            self.metrics["watched_accuracy"] = after
        # The tolerance is for fractions such as 3/7. The last epoch always counts.
        if self._swa_start is not None and (epoch >= self._swa_start * epochs - 1e-6 or epoch + 1 == epochs):
            self.metrics["averaged_epochs"] = self.metrics.get("averaged_epochs", 0) + 1
            self._move_mean(1 / self.metrics["averaged_epochs"])
        if self._held_out or self._collapse:
            with self._with_average():
                if self._held_out:
                    point |= self._held_out(self._network)
                accuracy = point.get("held_out_robust", point.get("held_out_clean", 0))
                # On a tie the later epoch wins: it has trained longer.
                if accuracy >= self.metrics.get("held_out_accuracy", 0):
                    if self._held_out:
                        self.metrics |= {"held_out_accuracy": accuracy, "kept_epoch": epoch + 1}
                    for name, tensor in self.copies["kept"].items():
                        tensor.copy_(self._current[name])
        return False

    def finals(self) -> dict[str, dict[str, Tensor]]:
        """The weights that the training ends with, by name: ``latest``, ``averaged``, ``best``, as far as there are any.

        The last ones are selected. After a collapse they are those from before it.
        """
        states = {"latest": self._snapshot()}
        if self._has_average:
            with self._with_average():
                states["averaged"] = self._snapshot()
        if self._held_out:
            states["best"] = self.copies["kept"]
        elif "collapsed_epoch" in self.metrics:
            states[list(states)[-1]] = self.copies["kept"]
        return states

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Loads a state of :meth:`finals` into the network.

        Args:
            state: Tensors by name.
        """
        with torch.no_grad():
            for name, tensor in self._current.items():
                tensor.copy_(state[name])

    def finish(self, finals: Mapping[str, Mapping[str, Tensor]]) -> str:
        """Loads the selected weights into the network.

        Args:
            finals: See :meth:`finals`.

        Returns:
            A note for the user; empty for the usual selection.
        """
        self.load(list(finals.values())[-1])
        notes = []
        if "collapsed_epoch" in self.metrics:
            before, after = self.metrics["watched_accuracy"], self.metrics["collapsed_accuracy"]
            notes.append(
                f"collapsed in epoch {self.metrics['collapsed_epoch']:.0f} (robust accuracy on training images fell from "
                f"{before:.1%} to {after:.1%}); the weights before it are used"
            )
        if "kept_epoch" in self.metrics:
            kind = "robust" if any("held_out_robust" in point for point in self.metrics["curve"]) else "clean"
            notes.append(
                f"the weights of epoch {self.metrics['kept_epoch']:.0f} are used: "
                f"{self.metrics['held_out_accuracy']:.1%} held-out {kind} accuracy"
            )
        return "; ".join(notes)

    @property
    def _has_average(self) -> bool:
        return bool(self._decay) or "averaged_epochs" in self.metrics

    def _snapshot(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self._current.items()}

    @torch.no_grad()
    def _move_mean(self, share: float) -> None:
        """Moves the average towards the current state by a share of the way."""
        mean, names = self.copies["mean"], self._averaged_names
        torch._foreach_lerp_([mean[name] for name in names], [self._current[name] for name in names], share)

    @contextmanager
    def _with_average(self) -> Iterator[None]:
        """Gives the network the averaged weights within the context, if there are any."""
        if not self._has_average:
            yield
            return
        current = self._snapshot()
        self.load(current | {name: self.copies["mean"][name] for name in self._averaged_names})
        if self._swa_start is not None:
            self._recompute_statistics(self._network)
        try:
            yield
        finally:
            self.load(current)

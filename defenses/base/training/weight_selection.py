"""Which weights a training ends with: the last, their running mean, the best epoch's, or those before a collapse."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["Collapse", "WeightSelection"]


@dataclass(frozen=True, kw_only=True)
class Collapse:
    """What ends a training early: an accuracy that falls suddenly from one epoch to the next.

    Attributes:
        accuracy: Of the network, in [0, 1].
        fall: From how large a fall on the training ends, with the weights that it had before.
    """

    accuracy: Callable[[nn.Module], float]
    fall: float


class WeightSelection:
    """Follows a training and settles what weights it ends with.

    Args:
        network: In training.
        decay: Of the running mean of all numbers of the network's state, its batch statistics among them; 0 for none.
        held_out: The accuracy on held-out images, by which the best epoch is chosen; ``None`` where the last one stays.
        collapse: What ends the training early, if anything does.

    Attributes:
        measured: For the record; what the next epoch is compared with is in it.
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
        self.measured: dict[str, float] = {}
        self.copies: dict[str, dict[str, Tensor]] = {}
        self._network = network
        self._decay = decay
        self._held_out = held_out
        self._collapse = collapse
        # The very tensors of the network, which change as it is trained.
        self._now = dict(network.state_dict())
        self._numbers = [name for name, tensor in self._now.items() if tensor.is_floating_point()]
        if decay:
            self.copies["mean"] = self._snapshot()
        if held_out or collapse:
            self.copies["kept"] = self._snapshot()

    def after_step(self, step: int) -> None:
        """Takes step ``step`` (0-based) of the training into the mean."""
        if mean := self.copies.get("mean"):
            decay = min(self._decay, (1 + step) / (10 + step))
            with torch.no_grad():
                torch._foreach_lerp_(
                    [mean[name] for name in self._numbers], [self._now[name] for name in self._numbers], 1 - decay
                )

    def after_epoch(self, epoch: int) -> bool:
        """Measures the network after epoch ``epoch`` (0-based).

        Returns:
            Whether it has collapsed.
        """
        if self._collapse:
            before, now = self.measured.get("watched_accuracy"), self._collapse.accuracy(self._network)
            if before is not None and before - now >= self._collapse.fall:
                self.measured |= {"collapsed_epoch": epoch + 1, "collapsed_accuracy": now}
                return True
            self.measured["watched_accuracy"] = now
        if self._held_out:
            with self._with_mean():
                accuracy = self._held_out(self._network)
            # Of equal ones the later has learnt more.
            if accuracy >= self.measured.get("held_out_accuracy", 0):
                self.measured |= {"held_out_accuracy": accuracy, "kept_epoch": epoch + 1}
                self._keep()
        elif self._collapse:
            self._keep()
        return False

    def settle(self) -> str:
        """Gives the network the weights that it ends with; what is to be said of them, in words."""
        self._load(self.copies.get("kept") or self._averaged())
        words = []
        if "collapsed_epoch" in self.measured:
            before, after = self.measured["watched_accuracy"], self.measured["collapsed_accuracy"]
            words.append(
                f"collapsed in epoch {self.measured['collapsed_epoch']:.0f}, where robust accuracy on training images fell "
                f"from {before:.1%} to {after:.1%}: the weights before it stay"
            )
        if "kept_epoch" in self.measured:
            accuracy = self.measured["held_out_accuracy"]
            words.append(
                f"epoch {self.measured['kept_epoch']:.0f} stays: {accuracy:.1%} of the held-out images are right"
            )
        return "; ".join(words)

    def _snapshot(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self._now.items()}

    def _load(self, state: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, tensor in self._now.items():
                tensor.copy_(state[name])

    def _keep(self) -> None:
        averaged = self._averaged()
        for name, tensor in self.copies["kept"].items():
            tensor.copy_(averaged[name])

    def _averaged(self) -> dict[str, Tensor]:
        """The network's state with the mean's numbers, if there is a mean."""
        mean = self.copies.get("mean", self._now)
        return {**self._now, **{name: mean[name] for name in self._numbers}}

    @contextmanager
    def _with_mean(self) -> Iterator[None]:
        """Within it, the network has the mean's weights, if there is a mean."""
        own = self._snapshot()
        self._load(self._averaged())
        try:
            yield
        finally:
            self._load(own)

"""Networks of one architecture that are trained together, as one network of stacked weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F

from robustbench_cli.core.errors import is_out_of_memory
from robustbench_cli.defenses.base.decision_rules import mean_softmax

__all__ = ["BatchedEnsemble", "ensemble_cross_entropy"]


class BatchedEnsemble(nn.Module):
    """Networks of one architecture on the same rows, in one pass.

    A parameter holds those of all networks, one after the other along its first dimension, so that an optimizer that
    works number by number does to each network what it would do to it alone.

    In ``train()`` it gives the logits ``(M, B, K)`` of the M networks on B rows, in ``eval()`` the logarithm ``(B, K)``
    of their mean softmax. A network that draws, draws for itself.

    Args:
        networks: M of them, each from rows ``(B, ...)`` to logits ``(B, K)``; they are left as they are.
        vectorized: Whether a layer runs for all networks in one call, as a GPU likes it; otherwise, and where
            ``torch.vmap`` does not know what a network does, one network follows another, which a CPU likes better: it
            has no calls to save, and is slow at convolutions in groups. Either way a step takes the memory of M networks.
    """

    def __init__(self, networks: Sequence[nn.Module], *, vectorized: bool) -> None:
        super().__init__()
        self._vectorized = vectorized
        self._count = len(networks)
        # In a tuple it is no submodule: only its structure is used, never its numbers.
        self._structure = (copy.deepcopy(networks[0]),)
        states = [_numbers(network) for network in networks]
        self._shapes = {name: tuple(tensor.shape) for name, tensor in states[0].items()}
        for place, (name, shape) in enumerate(self._shapes.items()):
            # Joined, not stacked: a convolution's weights keep four dimensions, and so can lie channels last.
            joined = torch.cat([state[name].detach().reshape(shape or (1,)) for state in states])
            if isinstance(states[0][name], nn.Parameter):
                self.register_parameter(_place(place), nn.Parameter(joined))
            else:
                self.register_buffer(_place(place), joined)

    def forward(self, rows: Tensor) -> Tensor:
        """Logits of rows ``(B, ...)``; see the class."""
        # Not in train(): whoever restores modes sets them module by module, and it is none.
        self._structure[0].train(self.training)
        stacked = self._stacked()
        if self._vectorized:
            try:
                logits = vmap(self._logits, in_dims=(0, None), randomness="different")(stacked, rows)
            except RuntimeError as error:
                if is_out_of_memory(error):
                    raise
                # Stochastic depth, for one.
                self._vectorized = False
                return self.forward(rows)
        else:
            logits = torch.stack([self._logits(state, rows) for state in _each(stacked)])
        return logits if self.training else mean_softmax(logits)

    @torch.no_grad()
    def copy_to(self, networks: Sequence[nn.Module]) -> None:
        """Gives M networks of the same architecture the parameters and buffers, in place."""
        for network, state in zip(networks, _each(self._stacked()), strict=True):
            for name, tensor in _numbers(network).items():
                tensor.copy_(state[name])

    def _logits(self, state: Mapping[str, Tensor], rows: Tensor) -> Tensor:
        after = dict(state)
        logits = cast("Tensor", functional_call(self._structure[0], after, (rows,)))
        # A layer may have put another tensor in the place of a buffer, instead of changing it.
        for name, tensor in after.items():
            if tensor is not state[name]:
                state[name].copy_(tensor.detach())
        return logits

    def _stacked(self) -> dict[str, Tensor]:
        """Parameters and buffers ``(M, ...)``, by their names in a network."""
        return {
            name: cast("Tensor", getattr(self, _place(place))).unflatten(0, (self._count, *shape[:1]))
            for place, (name, shape) in enumerate(self._shapes.items())
        }


def ensemble_cross_entropy(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The mean cross-entropy of a network that ends in a :class:`BatchedEnsemble`; its slope is that of the sum over the M.

    So that each network learns as it would alone.
    """
    logits = network(images)
    mean = F.cross_entropy(logits.flatten(0, 1), labels.repeat(len(logits)))
    return mean + (len(logits) - 1) * (mean - mean.detach())


def _numbers(network: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers of a network by name."""
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


def _place(number: int) -> str:
    return f"numbers_{number}"


def _each(stacked: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """The parameters and buffers of each network, as views."""
    parts = zip(*(tensor.unbind() for tensor in stacked.values()), strict=True)
    return [dict(zip(stacked, part, strict=True)) for part in parts]

"""A network of cells whose operations are searched."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.architectures.architecture import EDGES, KINDS, NONE, OPERATIONS, Architecture
from robustbench_cli.defenses.base.architectures.cell_network import CellNetwork
from robustbench_cli.defenses.base.surgery.resized import ResizedLayer

__all__ = ["SearchedNetwork"]

_SHAPE = (len(KINDS), sum(map(len, EDGES)), len(OPERATIONS))
_BETAS, _DECAY = (0.5, 0.999), 1e-3
"""The decay rates of Adam and the weight decay for the architecture, as in DARTS."""


class SearchedNetwork(ResizedLayer):
    """A :class:`~.cell_network.CellNetwork` of the :attr:`architecture`, or, during the search, of all operations.

    During the search an edge is the mean of its operations, weighted by the softmax of ``alphas``.

    Args:
        cells: The number of cells.
        width: The channels of a node in the first cells.
        channels: C.
        classes: K.

    Attributes:
        alphas: The logits of the operations, ``(3, 5, 5)`` for kinds of cells, edges and operations.
        network: The network.
    """

    alphas: Tensor
    means: Tensor
    squares: Tensor
    steps: Tensor
    searching: Tensor

    def __init__(self, cells: int, width: int, *, channels: int, classes: int) -> None:
        super().__init__()
        self._size, self._channels, self._classes = (cells, width), channels, classes
        # Buffers, so that the weights' optimizer leaves them alone and a resumed search has them.
        for name in ("alphas", "means", "squares"):
            self.register_buffer(name, torch.zeros(_SHAPE))
        self.register_buffer("steps", torch.zeros(()))
        self.register_buffer("searching", torch.zeros(()))
        self._mixes = False
        self.network = self._built()

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` in [0, 1] → logits ``(N, K)``."""
        logits: Tensor = self.network(images, self.alphas.softmax(-1) if self._mixes else None)
        return logits

    @property
    def architecture(self) -> Architecture:
        """The strongest operation of each edge, on the two edges of each node whose operations are the strongest."""
        strengths, best = self.alphas.softmax(-1).max(-1)
        operations = []
        for of_edges, indices in zip(strengths, best.tolist(), strict=True):
            names, offset = [OPERATIONS[index] for index in indices], 0
            for sources in EDGES:
                of_node = of_edges[offset : offset + len(sources)]
                for weaker in of_node.argsort(descending=True, stable=True)[2:].tolist():
                    names[offset + weaker] = NONE
                offset += len(sources)
            operations.append(tuple(names))
        return Architecture(*self._size, tuple(operations))

    def begin_search(self) -> None:
        """Becomes the network of all operations; weights and ``alphas`` are drawn from torch's global generator."""
        self.alphas.normal_(std=1e-3)
        self._set(searching=True)

    def end_search(self) -> None:
        """Becomes the network of the :attr:`architecture`, with new weights from torch's global generator."""
        self._set(searching=False)

    @property
    def is_searching(self) -> bool:
        """Whether it is between the two."""
        return self._mixes

    @torch.no_grad()
    def descend(self, gradient: Tensor, rate: float) -> None:
        """One step of Adam for ``alphas``.

        Args:
            gradient: ``(3, 5, 5)``.
            rate: The learning rate.
        """
        direction = gradient + _DECAY * self.alphas
        self.steps += 1
        self.means.lerp_(direction, 1 - _BETAS[0])
        self.squares.lerp_(direction.square(), 1 - _BETAS[1])
        mean, square = self.means / (1 - _BETAS[0] ** self.steps), self.squares / (1 - _BETAS[1] ** self.steps)
        self.alphas -= rate * mean / (square.sqrt() + 1e-8)

    def resize(self, state: Mapping[str, Tensor]) -> None:
        alphas, searching = state.get("alphas"), state.get("searching")
        if alphas is None or searching is None:
            return  # What is missing is named when the state is loaded.
        if alphas.shape != _SHAPE or searching.numel() != 1 or not alphas.isfinite().all():
            raise UserError(f"alphas {tuple(alphas.shape)} are no logits of operations: they are finite, {_SHAPE}")
        before = self._mixes or self.architecture
        self.alphas.copy_(alphas)
        self._mixes = bool(searching)
        # Otherwise an optimizer may already have the weights.
        if before != (self._mixes or self.architecture):
            self._set(searching=self._mixes)

    def _set(self, *, searching: bool) -> None:
        """Replaces the network."""
        self._mixes = searching
        self.searching.fill_(searching)
        self.network = self._built().to(self.alphas.device).train(self.training)

    def _built(self) -> CellNetwork:
        """A new network, of all operations or of the architecture."""
        if not self._mixes:
            return CellNetwork.of(self.architecture, channels=self._channels, classes=self._classes)
        every = [[OPERATIONS] * _SHAPE[1]] * _SHAPE[0]
        return CellNetwork(*self._size, every, channels=self._channels, classes=self._classes)

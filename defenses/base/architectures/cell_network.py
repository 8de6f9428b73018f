"""A network of cells, with one operation or several on each edge."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from robustbench_cli.defenses.base.architectures.architecture import (
    EDGES,
    KINDS,
    NONE,
    OPERATIONS,
    Architecture,
    kinds_of_cells,
)

__all__ = ["CellNetwork", "Edge"]

_STEM = 3
"""The channels of the first convolution, relative to those of a node in the first cells."""

Choices = Sequence[Sequence[Iterable[str]]]
"""Of each kind of cell and of each of its edges: the names of the operations."""


class CellNetwork(nn.Module):
    """A classifier of cells, each of which sees the two cells before it.

    A cell has two nodes. A node is the sum of its edges, and the cell is the concatenation of its nodes. The channels of a
    node double in the first reduction cell and stay in the second.

    Args:
        cells: The number of cells.
        width: The channels of a node in the first cells.
        choices: The operations of each edge.
        channels: C.
        classes: K.
    """

    def __init__(self, cells: int, width: int, choices: Choices, *, channels: int, classes: int) -> None:
        super().__init__()
        self.kinds = kinds_of_cells(cells)
        self.stem = nn.Sequential(
            nn.Conv2d(channels, _STEM * width, 3, padding=1, bias=False), nn.BatchNorm2d(_STEM * width)
        )
        before, last, reduced = _STEM * width, _STEM * width, False
        self.cells = nn.ModuleList()
        for index, kind in enumerate(self.kinds):
            size = width if index < cells // 3 else 2 * width
            names = choices[KINDS.index(kind)]
            self.cells.append(_Cell(before, last, size, names, reduces=kind == "reduction", after_reduction=reduced))
            before, last, reduced = last, len(EDGES) * size, kind == "reduction"
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(last, classes)

    @classmethod
    def of(cls, architecture: Architecture, *, channels: int, classes: int) -> CellNetwork:
        """The network of an architecture.

        Args:
            architecture: The operation of each edge.
            channels: C.
            classes: K.
        """
        choices = [[() if name == NONE else (name,) for name in names] for names in architecture.operations]
        return cls(architecture.cells, architecture.width, choices, channels=channels, classes=classes)

    def forward(self, images: Tensor, weights: Tensor | None = None) -> Tensor:
        """Images to logits.

        Args:
            images: ``(N, C, H, W)`` in [0, 1].
            weights: The factor of each operation, ``(3, 5, 5)`` for kinds, edges and :data:`OPERATIONS`; 1 by default.

        Returns:
            ``(N, K)``.
        """
        before = last = self.stem(images)
        for kind, cell in zip(self.kinds, self.cells, strict=True):
            of_cell = None if weights is None else weights[KINDS.index(kind)]
            before, last = last, cell(before, last, of_cell)
        logits: Tensor = self.classifier(self.flatten(self.pool(last)))
        return logits


class Edge(nn.ModuleDict):
    """The sum of the weighted outputs of operations.

    Args:
        names: The operations.
        width: The channels.
        stride: 2 if the edge halves the size of the feature maps, else 1.
    """

    def __init__(self, names: Iterable[str], width: int, stride: int) -> None:
        super().__init__({name: _operation(name, width, stride) for name in names})

    def forward(self, features: Tensor, weights: Tensor | None = None) -> Tensor:
        """Features to features.

        Args:
            features: ``(N, width, H, W)``.
            weights: The factors ``(5,)`` of :data:`OPERATIONS`; 1 by default.

        Returns:
            ``(N, width, H', W')``.
        """
        outputs = [
            operation(features) if weights is None else weights[OPERATIONS.index(name)] * operation(features)
            for name, operation in self.items()
        ]
        return _sum(outputs)


class _Cell(nn.Module):
    """Two nodes, each with edges from the two cells before and from the nodes before it."""

    def __init__(
        self,
        before: int,
        last: int,
        width: int,
        choices: Sequence[Iterable[str]],
        *,
        reduces: bool,
        after_reduction: bool,
    ) -> None:
        super().__init__()
        # The last cell has halved its maps; those of the cell before it are still large.
        self.before = _projection(before, width, stride=2 if after_reduction else 1)
        self.last = _projection(last, width, stride=1)
        sources = [source for node in EDGES for source in node]
        self.edges = nn.ModuleList(
            Edge(names, width, stride=2 if reduces and source < 2 else 1)
            for source, names in zip(sources, choices, strict=True)
        )

    def forward(self, before: Tensor, last: Tensor, weights: Tensor | None) -> Tensor:
        maps = [self.before(before), self.last(last)]
        number = 0
        for sources in EDGES:
            inputs = []
            for source in sources:
                edge = self.edges[number]
                assert isinstance(edge, Edge)
                if len(edge):
                    inputs.append(edge(maps[source], None if weights is None else weights[number]))
                number += 1
            maps.append(_sum(inputs))
        return torch.cat(maps[2:], 1)


def _sum(tensors: Sequence[Tensor]) -> Tensor:
    total = tensors[0]
    for tensor in tensors[1:]:
        total = total + tensor
    return total


def _operation(name: str, width: int, stride: int) -> nn.Module:
    """An operation, which ends with a batch normalization unless it is the identity."""
    normalization = nn.BatchNorm2d(width, affine=False)
    if name == "max":
        return nn.Sequential(nn.MaxPool2d(3, stride, 1), normalization)
    if name == "avg":
        return nn.Sequential(nn.AvgPool2d(3, stride, 1, count_include_pad=False), normalization)
    if name == "skip":
        return nn.Identity() if stride == 1 else _projection(width, width, stride=2)
    size = int(name.removeprefix("sep"))
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(width, width, size, stride, size // 2, groups=width, bias=False),
        nn.Conv2d(width, width, 1, bias=False),
        normalization,
    )


def _projection(inputs: int, outputs: int, *, stride: int) -> nn.Sequential:
    """ReLU, means of 2 x 2 pixels if the stride is 2, a 1 x 1 convolution, and a batch normalization."""
    smaller = [nn.AvgPool2d(2, ceil_mode=True)] if stride == 2 else []
    return nn.Sequential(
        nn.ReLU(), *smaller, nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs, affine=False)
    )

"""The operations of a network of cells as one line of text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

import torch

from robustbench_cli.core.errors import UserError, did_you_mean

__all__ = [
    "EDGES",
    "KINDS",
    "MAX_CELLS",
    "MAX_WIDTH",
    "MIN_CELLS",
    "NONE",
    "OPERATIONS",
    "Architecture",
    "kinds_of_cells",
]

KINDS = ("accurate", "reduction", "robust")
"""The kinds of cells. All cells of one kind have the same operations."""

OPERATIONS = ("sep3", "sep5", "skip", "max", "avg")
"""The operations of an edge: separable convolutions of sizes 3 and 5, the identity, and 3 x 3 pools."""

NONE = "none"
"""The name for an edge without an operation."""

EDGES = ((0, 1), (0, 1, 2))
"""The edges of a cell, as the sources of each of its two nodes: 0 and 1 are the cells before, 2 is the first node."""

MIN_CELLS, MAX_CELLS, MAX_WIDTH = 4, 20, 128

_EDGES = sum(map(len, EDGES))


@dataclass(frozen=True)
class Architecture:
    """A network of cells; as text ``CELLSxWIDTH,ACCURATE,REDUCTION,ROBUST``.

    Attributes:
        cells: The number of cells, in [4, 20].
        width: The channels of a node in the first cells, in [1, 128].
        operations: Of each kind of cell: the name of the operation of each of its five edges. Each node has at least one.

    Raises:
        UserError: A size is out of range, a cell has another number of edges, an operation is unknown, or a node has none.

    >>> print(Architecture.parse("4x8,sep3-skip-none-max-sep5,skip-skip-none-max-avg,sep3-none-sep3-none-none").width)
    8
    """

    cells: int
    width: int
    operations: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        if not MIN_CELLS <= self.cells <= MAX_CELLS or not 1 <= self.width <= MAX_WIDTH:
            raise UserError(
                f"an architecture has no {self.cells} cells of width {self.width}: give {MIN_CELLS} to {MAX_CELLS} cells, and a "
                f"width of 1 to {MAX_WIDTH}"
            )
        if len(self.operations) != len(KINDS):
            raise UserError(
                f"an architecture has {len(self.operations)} kinds of cells: give {len(KINDS)}, {', '.join(KINDS)}"
            )
        for kind, names in zip(KINDS, self.operations, strict=True):
            _require_operations(kind, names)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads an architecture.

        Args:
            text: As :meth:`__str__` writes it.

        Raises:
            UserError: The text cannot be read; see the class.
        """
        size, *cells = text.split(",")
        numbers = re.fullmatch(r"(\d{1,3})x(\d{1,3})", size)
        if numbers is None:
            raise UserError(f"an architecture has no size '{size[:80]}': give CELLSxWIDTH, as in 4x8")
        return cls(int(numbers[1]), int(numbers[2]), tuple(tuple(cell.split("-")) for cell in cells))

    @classmethod
    def draw(cls, cells: int, width: int, generator: torch.Generator) -> Self:
        """A random architecture: two edges of each node, and an operation of each of them, all equally likely.

        Args:
            cells: See the class.
            width: See the class.
            generator: The source of the draws.
        """
        operations = []
        for _ in KINDS:
            names: list[str] = []
            for sources in EDGES:
                kept = torch.randperm(len(sources), generator=generator)[:2].tolist()
                drawn = torch.randint(len(OPERATIONS), (len(sources),), generator=generator).tolist()
                names += [OPERATIONS[index] if source in kept else NONE for source, index in enumerate(drawn)]
            operations.append(tuple(names))
        return cls(cells, width, tuple(operations))

    def __str__(self) -> str:
        return ",".join([f"{self.cells}x{self.width}", *map("-".join, self.operations)])


def kinds_of_cells(cells: int) -> list[str]:
    """The kind of each cell of a network, from the input to the output.

    Reduction cells are at a third and at two thirds. Accurate cells are before the second one, and robust cells behind it.

    Args:
        cells: The number of cells, at least 4.

    >>> kinds_of_cells(5)
    ['accurate', 'reduction', 'accurate', 'reduction', 'robust']
    """
    second = 2 * cells // 3
    return [
        "reduction" if index in (cells // 3, second) else "accurate" if index < second else "robust"
        for index in range(cells)
    ]


def _require_operations(kind: str, names: tuple[str, ...]) -> None:
    """Checks the operations of a cell.

    Raises:
        UserError: See :class:`Architecture`.
    """
    if len(names) != _EDGES:
        raise UserError(
            f"the {kind} cell has {len(names)} edges, in '{'-'.join(names)[:80]}': give {_EDGES} operations, as in "
            "sep3-skip-none-max-avg"
        )
    for name in names:
        if name not in (*OPERATIONS, NONE):
            raise UserError(
                f"the {kind} cell has no operation '{name[:80]}': {did_you_mean(name[:80], (*OPERATIONS, NONE))}"
            )
    first = len(EDGES[0])
    for number, part in enumerate((names[:first], names[first:]), start=1):
        if set(part) == {NONE}:
            raise UserError(
                f"node {number} of the {kind} cell gets nothing: give one of its edges another operation than {NONE}"
            )

from __future__ import annotations

import pytest
import torch

from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.architectures.architecture import EDGES, NONE, Architecture, kinds_of_cells

CELL = "sep3-skip-none-max-sep5"
TEXT = f"4x8,{CELL},skip-none-avg-none-none,sep3-sep3-sep3-sep3-sep3"


def test_the_text_is_read_back() -> None:
    architecture = Architecture.parse(TEXT)
    assert (architecture.cells, architecture.width) == (4, 8)
    assert architecture.operations[1] == ("skip", "none", "avg", "none", "none")
    assert str(architecture) == TEXT


def test_the_cells_lie_as_in_the_authors_network() -> None:
    """Theirs has 8 cells, reduces in those of the indices 8 // 3 and 16 // 3, and is robust behind the second."""
    assert kinds_of_cells(8) == [
        *("accurate", "accurate", "reduction", "accurate", "accurate", "reduction", "robust", "robust")
    ]


def test_random_architectures() -> None:
    """Each node has two edges; a seed gives the same, and each operation is drawn about as often."""
    generator = torch.Generator().manual_seed(0)
    drawn = [Architecture.draw(4, 8, generator) for _ in range(400)]
    assert drawn[0] == Architecture.draw(4, 8, torch.Generator().manual_seed(0))
    names = [name for architecture in drawn for cell in architecture.operations for name in cell]
    for architecture in drawn:
        for cell in architecture.operations:
            first, second = cell[: len(EDGES[0])], cell[len(EDGES[0]) :]
            assert (first.count(NONE), second.count(NONE)) == (0, 1)
    # Of 4 edges in each of 1200 cells, each of 5 operations has 960, with a standard deviation of 28.
    assert all(abs(names.count(name) - 960) < 112 for name in {*names} - {NONE})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("4", "no size '4': give CELLSxWIDTH, as in 4x8"),
        ("3x8" + f",{CELL}" * 3, "no 3 cells of width 8: give 4 to 20 cells, and a width of 1 to 128"),
        ("4x999" + f",{CELL}" * 3, "no 4 cells of width 999"),
        (f"4x8,{CELL}", "has 1 kinds of cells: give 3, accurate, reduction, robust"),
        (f"4x8,{CELL},{CELL},sep3-sep3", "the robust cell has 2 edges, in 'sep3-sep3': give 5 operations, as in"),
        (f"4x8,{CELL},{CELL},sep3-sep3-sep3-sep3-sep7", "the robust cell has no operation 'sep7': did you mean 'sep"),
        (f"4x8,{CELL},{CELL}-{'max-' * 99},{CELL}", "the reduction cell has 105 edges"),
        (f"4x8,none-none-max-max-max,{CELL},{CELL}", "node 1 of the accurate cell gets nothing"),
        (f"4x8,{CELL},{CELL},max-max-none-none-none", "node 2 of the robust cell gets nothing: give one of its edges"),
    ],
)
def test_what_is_no_architecture(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Architecture.parse(text)

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from robustbench_cli.benchmarks.certification.bounds.rows import Rows

PLANE = (5, 6)


def windows(*, size: tuple[int, int], top: list[int], left: list[int]) -> Rows:
    """Random coefficients of two channels, 0 outside the plane."""
    rows = Rows(
        torch.randn(len(top), *size, 2, dtype=torch.float64), torch.tensor(top), torch.tensor(left), PLANE, whole=False
    )
    return rows.moved(rows.coefficients, (1, 1), (0, 0), PLANE)


def dense(rows: Rows) -> Tensor:
    """The coefficients ``(M, C, H, W)``, placed one by one."""
    result = torch.zeros(len(rows.top), rows.coefficients.shape[3], *PLANE, dtype=torch.float64)
    for number in range(len(rows.top)):
        for y in range(rows.size[0]):
            for x in range(rows.size[1]):
                row, column = int(rows.top[number]) + y, int(rows.left[number]) + x
                if 0 <= row < PLANE[0] and 0 <= column < PLANE[1]:
                    result[number, :, row, column] += rows.coefficients[number, y, x]
    return result


def test_windows_stand_for_dense_coefficients() -> None:
    """Values at points and minima over boxes are those of the dense coefficients, also where a window leaves the plane."""
    rows = windows(size=(3, 2), top=[-1, 3, 1, 0], left=[2, 5, -1, 0])
    low = torch.randn(2, 2, *PLANE, dtype=torch.float64)
    high = low + torch.rand_like(low)
    image = torch.tensor([0, 1, 1, 0])
    expected = (dense(rows) * low[image]).sum((1, 2, 3))
    torch.testing.assert_close(rows.times(low, image), expected)
    torch.testing.assert_close(rows.spread().times(low, image), expected)
    torch.testing.assert_close(rows.times(low[:1], image), (dense(rows) * low[0]).sum((1, 2, 3)))
    lowest = torch.minimum(dense(rows) * low[image], dense(rows) * high[image]).sum((1, 2, 3))
    torch.testing.assert_close(rows.lowest(low, high, image), lowest)


@pytest.mark.parametrize(("size", "shift"), [((3, 2), (0, 0)), ((2, 4), (1, -2)), ((1, 1), (2, 1)), ((5, 6), (0, 0))])
def test_sums_of_windows(size: tuple[int, int], shift: tuple[int, int]) -> None:
    """Windows of other sizes and places are added position by position; one pair differs from row to row."""
    top, left = [-1, 3, 1], [2, 4, -1]
    rows = windows(size=(3, 3), top=top, left=left)
    other = windows(size=size, top=[y + shift[0] for y in top], left=[x + shift[1] for x in left])
    torch.testing.assert_close(dense(rows.plus(other)), dense(rows) + dense(other))
    irregular = windows(size=size, top=[0, 3, 1], left=left)
    torch.testing.assert_close(dense(rows.plus(irregular)), dense(rows) + dense(irregular))


def test_single_values() -> None:
    """A row for one value has its sign as the only coefficient."""
    rows = Rows.of_values(torch.tensor([0, 37, 59]), torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64), (2, *PLANE))
    expected = torch.zeros(3, 60, dtype=torch.float64)
    expected[[0, 1, 2], [0, 37, 59]] = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(dense(rows).flatten(1), expected)
    sizes = rows.sizes(torch.tensor([[3.0, 5.0]], dtype=torch.float64), torch.zeros(3, dtype=torch.long))
    assert sizes.tolist() == [3, 5, 5]

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import torch
from torch import nn

from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel
from robustbench_cli.benchmarks.comparison.__main__ import autoattack_table, cw_table, pgd_table
from robustbench_cli.benchmarks.comparison.contest import Entry
from robustbench_cli.benchmarks.comparison.models import ImageSet
from robustbench_cli.benchmarks.comparison.peers import AutoAttackBudget, PGDBudget


def cells(table: str) -> list[list[str]]:
    """The cells of a table's rows, without the header."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_pgd_beside_a_library_that_did_nothing(defended: DefendedModel, examples: ImageSet) -> None:
    """Unchanged images are all unbroken, and three times the seconds are a ratio of three."""
    entries = {
        "advdef": Entry(examples.images, (1.0, 2.0, 1.5)),
        "another": Entry(examples.images, (3.0, 6.0, 4.5)),
    }
    assert cells(pgd_table(entries, defended, examples, PGDBudget(norm="linf", eps=0.1))) == [
        ["advdef", "100.0 %", "1.50", "1.00"],
        ["another", "100.0 %", "4.50", "3.00"],
    ]


def test_autoattack_counts_images_that_one_library_alone_breaks() -> None:
    """Both libraries break the first of four images, and each breaks one more; the last is unbroken."""
    labels = torch.zeros(4, dtype=torch.int64)
    right, wrong = torch.tensor([1.0, 0.0]).view(1, 1, 2), torch.tensor([0.0, 1.0]).view(1, 1, 2)
    ours, others = torch.stack([wrong, wrong, right, right]), torch.stack([wrong, right, wrong, right])
    entries = {"advdef": Entry(ours, (1.0,)), "another": Entry(others, (2.5,))}
    defended = cast("DefendedModel", SimpleNamespace(load=nn.Flatten))
    table = autoattack_table(entries, defended, ImageSet(others, labels), AutoAttackBudget(norm="linf", eps=1))
    assert cells(table) == [
        ["advdef", "50.0 %", "1", "1.0", "1.00"],
        ["another", "50.0 %", "1", "2.5", "2.50"],
    ]


def test_cw_counts_failures_as_infinite(defended: DefendedModel, examples: ImageSet) -> None:
    """A misclassified image has distance 0, and one that stays correct an infinite distance."""
    labels = examples.labels.clone()
    labels[:3] = (labels[:3] + 1) % 10
    table = cw_table({"advdef": Entry(examples.images, (2.0,))}, defended, ImageSet(examples.images, labels))
    assert cells(table) == [["advdef", "75.0 %", "0.000", "0.50", "1.00"]]
    none = cw_table({"advdef": Entry(examples.images, (2.0,))}, defended, examples)
    assert cells(none) == [["advdef", "0.0 %", "inf", "0.50", "1.00"]]

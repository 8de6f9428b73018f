from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import torch
from torch import Tensor, nn

from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel
from robustbench_cli.benchmarks.comparison.models import ImageSet
from robustbench_cli.benchmarks.comparison.peers import AutoAttackBudget
from robustbench_cli.benchmarks.comparison.single import single_table

IMAGES = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]).view(4, 1, 1, 2)
EXAMPLES = ImageSet(IMAGES, torch.zeros(4, dtype=torch.int64))


def test_an_attack_that_breaks_more_is_run_on_all_images() -> None:
    """The suite left three of four images. One attack breaks nothing; another breaks all and has its own accuracy."""
    rows: list[int] = []

    def nothing(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        rows.append(len(images))
        return images

    def everything(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        rows.append(len(images))
        return images.flip(3)

    table = single_table(
        cast("DefendedModel", SimpleNamespace(load=nn.Flatten)),
        EXAMPLES,
        torch.tensor([False, True, True, True]),
        {"nothing": nothing, "everything": everything},
        AutoAttackBudget(norm="linf", eps=1),
    )
    cells = [[cell.strip() for cell in line.strip("|").split("|")][:3] for line in table.splitlines()]
    assert cells[0] == ["attack", "breaks of the 3 left", "robust accuracy"]
    assert cells[2:] == [["nothing", "0", ">= 75.0 %"], ["everything", "3", "0.0 %"]]
    assert rows == [3, 3, 4]

from __future__ import annotations

import pytest
import torch
from torch import nn

from robustbench_cli.attacks.apgd_dlr import APGDDLR
from robustbench_cli.benchmarks.evaluation.evaluate import evaluate


@pytest.mark.parametrize(("targeted", "classes", "raised"), [("no", 2, True), ("no", 3, False), ("next", 3, True)])
def test_a_loss_of_several_logits_needs_as_many(targeted: str, classes: int, raised: bool) -> None:
    """The difference of logits ratio needs three, with a target four."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, classes))
    images = torch.rand(5, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(5) % classes
    flags = evaluate(model, images, labels, attack=APGDDLR(steps=2), eps=0.1, targeted=targeted).flags
    assert ("few-classes" in flags) == raised

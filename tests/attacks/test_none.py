"""No attack."""

from __future__ import annotations

import torch
from torch import nn

from robustbench_cli.attacks.none import NoAttack
from robustbench_cli.benchmarks.evaluation.evaluate import evaluate


def test_the_images_stay_as_they_are() -> None:
    """Robust accuracy is clean accuracy, each image passes once per set of draws, and no flag speaks against it."""
    images = torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    labels = model(images).argmax(1)
    labels[:10] = (labels[:10] + 1) % 3
    assert torch.equal(NoAttack()(model, images, labels, eps=0.1), images)
    evaluation = evaluate(model, images, labels, attack=NoAttack(), eps=0.0)
    assert evaluation.summary["clean_accuracy"] == evaluation.summary["robust_accuracy"] == 0.75
    assert evaluation.summary["attack_success_rate"] == 0
    assert evaluation.flags == ()
    assert evaluation.backwards == 0

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from robustbench_cli.attacks.fgsm import FGSM
from robustbench_cli.benchmarks.evaluation.early_stopping import LOOK_EVERY, in_random_order
from robustbench_cli.benchmarks.evaluation.evaluate import Evaluation, evaluate
from robustbench_cli.benchmarks.evaluation.partial_results import PartialResults
from robustbench_cli.core.errors import UserError


class Brightness(nn.Module):
    """Two classes, by the mean of the pixels; each row may be drawn with noise on its logits."""

    def __init__(self, noise: float = 0.0) -> None:
        super().__init__()
        self.noise = noise

    def forward(self, images: Tensor) -> Tensor:
        light = images.mean(dim=(1, 2, 3)) - 0.5
        if self.noise:
            light = light + self.noise * torch.randn_like(light)
        return torch.stack([-light, light], dim=1)


IMAGES = 400


def stopped(right: int, limit: float | None, *, noise: float = 0.0, **options: Any) -> Evaluation:
    """An evaluation of which FGSM leaves the first images right, all of class 1: of the others it moves the mean below 1/2."""
    light = torch.where(torch.arange(IMAGES) < right, 0.9, 0.55)
    images = light[:, None, None, None].expand(IMAGES, 1, 4, 4).contiguous()
    labels = torch.ones(IMAGES, dtype=torch.int64)
    return evaluate(Brightness(noise), images, labels, attack=FGSM(), eps=0.1, stop_when_decided=limit, **options)


@pytest.mark.parametrize(("right", "reached"), [(240, True), (80, False)])
@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_a_clear_case_takes_less_than_half_of_the_images(right: int, reached: bool, noise: float) -> None:
    """20 points from the limit: the decision is right, the interval holds the truth, and few images are attacked."""
    found = stopped(right, 0.4, noise=noise).summary
    assert found["n"] % LOOK_EVERY == 0
    assert found["n"] <= IMAGES / 2
    whole = stopped(right, None, noise=noise)
    assert (found["robust_accuracy"] >= 0.4) == (whole.summary["robust_accuracy"] >= 0.4) == reached
    assert found["robust_accuracy_low"] <= whole.summary["robust_accuracy"] <= found["robust_accuracy_high"]
    assert "n" not in whole.summary


def test_a_close_case_attacks_most_images_with_the_same_outcomes() -> None:
    """With the accuracy as the limit, more than half are attacked, and an image's draws are those that it has without it."""
    whole = stopped(160, None, noise=0.02, repeats=5)
    sample = stopped(160, whole.summary["robust_accuracy"], noise=0.02, repeats=5)
    order = in_random_order(torch.arange(IMAGES), 0).numpy()
    scored = len(sample.outcomes.labels)
    assert scored > IMAGES / 2
    assert np.array_equal(sample.outcomes.worst(), whole.outcomes.worst()[:, order[:scored]])


def test_the_order_is_random_and_of_the_seed() -> None:
    """Ranks of the order and of the images are uncorrelated; another seed has another order."""
    first, other = (in_random_order(torch.arange(1000), seed).numpy() for seed in (0, 1))
    assert sorted(first.tolist()) == list(range(1000))
    assert abs(stats.spearmanr(first, np.arange(1000)).statistic) < 5 / np.sqrt(1000)
    assert not np.array_equal(first, other)


def test_an_interrupted_evaluation_resumes(tmp_path: Path) -> None:
    """Its stored batches are read, those that are missing are attacked, and the rest is the same."""
    stored = PartialResults(tmp_path, images=True)
    whole = stopped(190, 0.4, partial_results=stored)
    batches = len(stored.batches)
    assert 2 <= batches == len(whole.outcomes.labels) / LOOK_EVERY
    min(tmp_path.glob("*.piece")).unlink()
    again = stopped(190, 0.4, partial_results=stored)
    assert again.summary == whole.summary
    assert len(stored.batches) == batches


def test_another_attack_before_it_is_refused() -> None:
    with pytest.raises(UserError, match="stop_when_decided needs all images"):
        stopped(200, 0.4, earlier=stopped(200, None).outcomes)

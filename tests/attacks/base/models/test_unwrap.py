from __future__ import annotations

import torch
from torch import nn

from robustbench_cli.attacks.base.models.unwrap import unwrapped_model
from robustbench_cli.defenses.base.decision_rules import Decision
from robustbench_cli.defenses.feature_squeezing import FeatureSqueezing
from robustbench_cli.defenses.gaussian_noise import GaussianNoise
from robustbench_cli.defenses.jpeg import JPEG
from robustbench_cli.defenses.noise_injection import NoiseInjection
from robustbench_cli.defenses.random_resize_pad import RandomResizePad
from robustbench_cli.defenses.randomized_smoothing import RandomizedSmoothing
from robustbench_cli.defenses.total_variation import TotalVariation

IMAGES = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(192, 10)).eval()


def test_what_stands_around_a_model_is_left_out() -> None:
    """The model inside nested transformations, noise, a detector and a vote is found."""
    model = defended = network()
    for defense in (
        FeatureSqueezing(bit_depth=2),
        JPEG(),
        TotalVariation(decision="mean"),
        NoiseInjection(),
        RandomResizePad(),
        RandomizedSmoothing(),
        FeatureSqueezing(false_positive_rate=0.1),
    ):
        defended = defense.protect(defended, IMAGES[:1])
        assert torch.equal(unwrapped_model(defended)(IMAGES), model(IMAGES))
        assert unwrapped_model(defended) in list(defended.modules())


def test_what_is_inside_the_model_stays() -> None:
    """A model without wrappers is itself; noise between its layers stays, and only the vote is removed."""
    model = network()
    assert unwrapped_model(model) is model
    voting = GaussianNoise(decision="vote").protect(model, IMAGES[:1])
    assert isinstance(voting, Decision)
    assert unwrapped_model(voting) is voting.model

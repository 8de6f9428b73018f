from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.models.measured_model import MeasuredModel
from robustbench_cli.attacks.base.models.passes import BatchSize
from robustbench_cli.attacks.base.models.probes import cut_at_edges, fails_in_bf16, is_randomized

IMAGES = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))


class Switch(nn.Module):
    """Each row, or the whole batch, draws one of two linear models whose distance is ``apart``."""

    def __init__(
        self, *, apart: float = 1.0, scale: float = 1.0, shift: float = 0.0, whole_batch: bool = False
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 16, generator=torch.Generator().manual_seed(1)))
        self.apart, self.scale, self.shift, self.whole_batch = apart, scale, shift, whole_batch

    def forward(self, images: Tensor) -> Tensor:
        drawn = torch.rand(1 if self.whole_batch else len(images), 1).round()
        logits = images.flatten(1) @ self.weight.T * (1 + self.apart * drawn)
        return logits * self.scale + self.shift


@pytest.mark.parametrize("images", [IMAGES[:1], IMAGES[:2], IMAGES])
@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("apart", [1.0, 0.01])
def test_a_switch_between_two_is_noticed(images: Tensor, scale: float, apart: float) -> None:
    """Also for one image and two channels, at any scale of the logits; never missed in 200 attempts."""
    assert all(is_randomized(Switch(apart=apart, scale=scale), images) for _ in range(200))


def test_a_draw_for_the_whole_batch_is_noticed() -> None:
    """A choice among two paths per pass is missed with a probability of 1e-9: never in 200 attempts."""
    assert all(is_randomized(Switch(whole_batch=True), IMAGES) for _ in range(200))


def test_a_draw_from_a_generator_of_the_models_own_is_noticed() -> None:
    """Python's, NumPy's, and a private generator, whose draws are missed once in 500 attempts."""
    choices = [random.random, np.random.random, np.random.default_rng(0).random]
    for choose in choices:
        models = [lambda images, choose=choose: images.flatten(1) * (1 + (choose() < 0.5)) for _ in range(40)]
        assert sum(is_randomized(model, IMAGES) for model in models) >= 39


@pytest.mark.parametrize("batch_size", [None, 1, 5])
def test_no_more_rows_are_asked_about_than_fit_a_batch(batch_size: int | None) -> None:
    """Both probes respect the batch size."""
    rows: list[int] = []

    class Counting(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            rows.append(len(images))
            return images.flatten(1)

    assert not is_randomized(Counting(), IMAGES, size=BatchSize(batch_size))
    for randomized in (True, False):
        assert not cut_at_edges(Counting(), IMAGES, size=BatchSize(batch_size), randomized=randomized)
    assert max(rows) <= (batch_size or 18)


@pytest.mark.parametrize("randomized", [True, False])
def test_pixels_without_a_gradient_at_the_edges_are_noticed(randomized: bool) -> None:
    """Those of a model that clamps its input a little inside the box, also where the two edges pass together."""

    class Clamping(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.clamp(1e-7, 1 - 1e-7).flatten(1)

    assert cut_at_edges(Clamping(), IMAGES, randomized=randomized)
    assert not cut_at_edges(nn.Flatten(), IMAGES, randomized=randomized)


@pytest.mark.parametrize("shift", [0.0, 1e4])
@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_a_deterministic_model_is_not_taken_for_randomized(scale: float, shift: float) -> None:
    """Rounding is not randomness, also if the logits have a large common offset."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 10)).eval()
    assert not is_randomized(lambda images: network(images) * scale + shift * scale, IMAGES)  # type: ignore[arg-type]
    assert not is_randomized(Switch(apart=1e-7, scale=scale, shift=shift * scale), IMAGES)


class OnlyFloat32(nn.Module):
    """Multiplies in a type of its own, after a layer whose result autocast leaves in bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 8)
        self.weight = nn.Parameter(torch.ones(8, 5))

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.layer(images.flatten(1))
        if hidden.dtype != torch.float32:
            raise RuntimeError("expected scalar type Float")
        return hidden @ self.weight


class Overflow(nn.Module):
    """Logits that are numbers in float32, and infinite in bfloat16."""

    def forward(self, images: Tensor) -> Tensor:
        logits = images.flatten(1)[:, :5] @ torch.eye(5)
        return logits / (logits.dtype == torch.float32)


@pytest.mark.parametrize(("model", "reason"), [(OnlyFloat32(), "expected scalar type Float"), (Overflow(), "infinite")])
def test_a_model_that_fails_in_bf16_is_noticed(model: nn.Module, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    """One line says why, and a source of its gradients computes them in the default precision of a CPU."""
    assert fails_in_bf16(model, IMAGES)
    (line,) = caplog.messages
    assert type(model).__name__ in line
    assert reason in line
    assert MeasuredModel(model, IMAGES).source(1, precision="bf16").precision == "float32"


@pytest.mark.parametrize("model", [nn.Sequential(nn.Flatten(), nn.Linear(16, 5)), Switch()])
def test_a_model_that_runs_in_bf16_is_left_alone(model: nn.Module, caplog: pytest.LogCaptureFixture) -> None:
    """No word on it, and the generators stay as they were."""
    before = torch.get_rng_state()
    assert not fails_in_bf16(model, IMAGES, size=BatchSize(1))
    assert not caplog.messages
    assert torch.equal(torch.get_rng_state(), before)
    assert MeasuredModel(model, IMAGES).source(1, precision="bf16").precision == "bf16"

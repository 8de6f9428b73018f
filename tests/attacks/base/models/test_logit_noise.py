from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.gradients.eot import gradient_source
from robustbench_cli.attacks.base.losses import rounding, unmasked_spread
from robustbench_cli.attacks.base.models import logit_noise
from robustbench_cli.attacks.base.models.logit_noise import measure_noise, measured_noise
from robustbench_cli.attacks.base.models.measured_model import MeasuredModel
from robustbench_cli.attacks.base.models.passes import NoGradientError
from robustbench_cli.core.errors import UserError

IMAGES = torch.rand(40, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def linear(classes: int, *, masked: float | None = None) -> nn.Module:
    generator = torch.Generator().manual_seed(classes)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, classes)).requires_grad_(False)
    model[1].weight.copy_(3 * torch.randn(classes, 784, generator=generator))
    model[1].bias.copy_(-model[1].weight.sum(1) / 2)
    return model if masked is None else nn.Sequential(model, nn.ConstantPad1d((0, 3), masked))


class Wobbling(nn.Module):
    """Logits that increase with the batch size, by a fixed amount per row."""

    def __init__(self, model: nn.Module, by: float) -> None:
        super().__init__()
        self.model = model
        self.by = by

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images)
        return logits + self.by * len(images) * torch.arange(logits.shape[1])


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_noise_covers_the_rounding_of_a_matrix_product(classes: int) -> None:
    """The noise covers the change between batch sizes and the error against float64, but is far below the logits' spread."""
    model = linear(classes)
    noise = measure_noise([lambda images: model(images)[None]], IMAGES)
    together, alone = model(IMAGES), torch.cat([model(image[None]) for image in IMAGES])
    exact = IMAGES.flatten(1).double() @ model[1].weight.double().T + model[1].bias.double()
    for other in (alone, exact):
        assert (together - other).abs().max() <= noise
    assert noise < 1e-4 * unmasked_spread(together).mean()


@pytest.mark.parametrize("by", [1e-4, 1e-3, 1e-2])
def test_noise_is_what_changes_with_the_batch(by: float) -> None:
    """It is at least the difference between a batch of sixteen and a single row, and it is bounded."""
    model = Wobbling(linear(3), by)
    noise = measure_noise([lambda images: model(images)[None]], IMAGES)
    assert noise >= min(7 * by, 0.02)
    assert measure_noise([lambda images: Wobbling(linear(3), 1e6)(images)[None]], IMAGES) < 1e7
    other = measure_noise([lambda images: linear(3)(images)[None], lambda images: linear(3)(images)[None] + by], IMAGES)
    assert other >= by


@pytest.mark.parametrize("fill", [-1e9, -torch.inf])
def test_masked_classes_have_no_noise(fill: float) -> None:
    """Masked classes do not change the noise."""
    noises = [
        measure_noise([lambda images, model=model: model(images)[None]], IMAGES)
        for model in (linear(5), linear(5, masked=fill))
    ]
    assert noises[0] == noises[1]


def test_a_jump_is_no_noise() -> None:
    """For a quantizer, whose output jumps when a pixel changes by its last digit, the noise is that of rounding."""
    gray = nn.Sequential(linear(3))
    noise = measure_noise([lambda images: gray((images * 8).round() / 8)[None]], IMAGES)
    assert noise < 1e-3 * unmasked_spread(gray(IMAGES)).mean()


def test_it_is_measured_once_and_not_counted() -> None:
    """A measured model's source measures it once without counting the passes; other sources have no noise."""
    calls: list[int] = []

    class Counting(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            calls.append(len(images))
            return images.flatten(1)

    source = MeasuredModel(Counting(), IMAGES).source(1)
    first = measured_noise(source)
    passes = len(calls)
    assert measured_noise(source) == first
    assert len(calls) == passes
    assert (source.forwards, source.backwards) == (0, 0)
    assert measured_noise(gradient_source(Counting(), randomized=False)) is None


def test_only_a_missing_gradient_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the scores are measured alone; any other error reaches the caller."""
    source = MeasuredModel(nn.Flatten(), IMAGES).source(1)
    measured: list[float | UserError] = []
    monkeypatch.setattr(logit_noise, "measure_noise", lambda functions, images: returned(measured.pop()))
    measured += [2.0, NoGradientError("none")]
    assert logit_noise.noise_of(source, IMAGES) == 2
    measured += [2.0, UserError("out of memory")]
    with pytest.raises(UserError, match="out of memory"):
        logit_noise.noise_of(source, IMAGES)


def returned(value: float | UserError) -> float:
    if isinstance(value, UserError):
        raise value
    return value


def test_the_tolerance_is_never_less_than_the_noise() -> None:
    """Also if the two leading logits are 0 and show no scale."""
    logits = torch.tensor([[1e-9, -1e-9]])
    assert rounding(logits).item() < 1e-9
    assert rounding(logits, 1e-5).item() == pytest.approx(1e-5)

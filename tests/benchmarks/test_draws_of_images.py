"""The outcome of an image depends neither on the batch size nor on the other images, for any kind of randomness."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.models.measured_model import MeasuredModel
from robustbench_cli.attacks.cw import CW
from robustbench_cli.attacks.fgsm import FGSM
from robustbench_cli.attacks.hopskipjump import HopSkipJump
from robustbench_cli.attacks.nes import NES
from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.attacks.square import Square
from robustbench_cli.benchmarks.evaluation.evaluate import Evaluation, evaluate, predict
from robustbench_cli.benchmarks.evaluation.statistics.intervals import images_interval, passes_interval
from robustbench_cli.benchmarks.models.base.build import build_model
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.defense import Defense
from robustbench_cli.defenses.gaussian_noise import GaussianNoise
from robustbench_cli.defenses.hrs import HRS
from robustbench_cli.defenses.random_resize_pad import RandomResizePad
from robustbench_cli.defenses.rse import RSE

IMAGES = (torch.rand(24, 1, 6, 6, generator=torch.Generator().manual_seed(0)) * 255).round() / 255
WEIGHT = torch.randn(36, 4, generator=torch.Generator().manual_seed(1))


class NoiseLayer(nn.Module):
    """Each row has noise of its own."""

    def forward(self, images: Tensor) -> Tensor:
        return (images + 0.2 * torch.randn_like(images)).flatten(1) @ WEIGHT


class NoisyWeights(nn.Module):
    """All rows of a pass share the noise of its weights."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ (WEIGHT + 0.3 * torch.randn_like(WEIGHT))


class SomeRows(nn.Module):
    """Which rows have noise is drawn too."""

    def forward(self, images: Tensor) -> Tensor:
        logits = images.flatten(1) @ WEIGHT
        chosen = torch.rand(len(images)) < 0.5
        logits[chosen] = logits[chosen] + torch.randn_like(logits[chosen])
        return logits


class Fixed(nn.Module):
    """The linear model of this file."""

    def forward(self, rows: Tensor) -> Tensor:
        return rows @ WEIGHT


LABELS = (IMAGES.flatten(1) @ WEIGHT).argmax(1)


@pytest.mark.parametrize("model", [NoiseLayer(), NoisyWeights(), SomeRows()], ids=lambda model: type(model).__name__)
@pytest.mark.parametrize(
    "attack",
    [
        PGD(steps=2),
        CW(steps=3, binary_search_steps=2),
        Square(queries=6),
        NES(steps=2, pairs=2),
        HopSkipJump(queries=60),
    ],
    ids=lambda attack: type(attack).__name__,
)
def test_figures_are_the_same_at_any_batch_size(model: nn.Module, attack: Any) -> None:
    """What was drawn, found and predicted for each image is the same in ones, sevens and all at once."""

    def run(batch_size: int) -> Evaluation:
        return evaluate(
            model,
            IMAGES[:4],
            LABELS[:4],
            attack=attack,
            norm="linf" if not attack.minimal_norm else None,
            eps=None if attack.minimal_norm else 0.05,
            eot=2,
            repeats=3,
            batch_size=batch_size,
        )

    whole = run(256)
    for other in (run(1), run(7)):
        assert other.summary == pytest.approx(whole.summary, nan_ok=True, rel=1e-4)
        assert np.array_equal(other.outcomes.clean, whole.outcomes.clean)
        torch.testing.assert_close(other.perturbed, whole.perturbed, rtol=0, atol=1e-4)


def test_figures_do_not_depend_on_batch_mates(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that is evaluated among others, or at another place of an attack's batches, has the same outcomes."""
    from robustbench_cli.benchmarks.evaluation import evaluate as evaluation

    words: dict[str, Any] = {"attack": PGD(steps=4), "eps": 0.05, "eot": 3, "repeats": 4}
    whole = evaluate(NoiseLayer(), IMAGES, LABELS, **words)
    monkeypatch.setattr(evaluation, "IMAGES_AT_ONCE", 5)
    cut = evaluate(NoiseLayer(), IMAGES, LABELS, **words)
    first = evaluate(NoiseLayer(), IMAGES[:9], LABELS[:9], **words)
    assert np.array_equal(cut.outcomes.perturbed, whole.outcomes.perturbed)
    assert np.array_equal(first.outcomes.perturbed, whole.outcomes.perturbed[..., :9])


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("attack", [FGSM(), Square(queries=5)], ids=["fgsm", "square"])
def test_no_pass_has_more_rows_than_the_batch_size(attack: Any, batch_size: int) -> None:
    """Checks and probes among them, of a deterministic model and of one that draws for each row."""
    rows: list[int] = []

    class Counting(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: Tensor) -> Tensor:
            rows.append(len(images))
            logits: Tensor = self.model(images)
            return logits

    for model in (nn.Sequential(nn.Flatten(), nn.Linear(36, 4)), NoiseLayer()):
        rows.clear()
        evaluate(Counting(model), IMAGES[:4], LABELS[:4], attack=attack, eps=0.1, batch_size=batch_size)
        assert max(rows) <= batch_size


class Limited(nn.Module):
    """Runs out of memory with more than a number of rows."""

    def __init__(self, model: nn.Module, rows: int) -> None:
        super().__init__()
        self.model, self.rows = model, rows

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > self.rows:
            raise torch.OutOfMemoryError("CUDA out of memory")
        logits: Tensor = self.model(images)
        return logits


class TwoWeights(nn.Module):
    """Each row draws one of two linear models, which can be enumerated."""

    number_of_draws = 2
    cost_of_all_draws = 2.0

    def all_draws(self, images: Tensor) -> Tensor:
        if 2 * len(images) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return torch.stack([images.flatten(1) @ weight for weight in (WEIGHT, WEIGHT.flip(0))])

    def forward(self, images: Tensor) -> Tensor:
        chosen = torch.randint(2, (len(images), 1))
        rows = images.flatten(1)
        return torch.where(chosen == 0, rows @ WEIGHT, rows @ WEIGHT.flip(0))


@pytest.mark.parametrize(
    ("model", "rows"),
    [
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(64, 4)), 1),
        (NoiseLayer(), 1),
        (NoiseLayer(), 5),
        # Three rows show that they share the draws.
        (NoisyWeights(), 3),
        (SomeRows(), 1),
    ],
    ids=["deterministic", "row", "five rows", "pass", "alone"],
)
def test_little_memory_changes_nothing(model: nn.Module, rows: int, caplog: pytest.LogCaptureFixture) -> None:
    """Every probe, pass and check halves its batch until it fits; flags and outcomes are those of much memory."""

    def run(model: nn.Module) -> Evaluation:
        return evaluate(model, IMAGES[:9], LABELS[:9], attack=PGD(steps=3), eps=0.05, eot=3, repeats=4)

    whole, small = run(Limited(model, 10**6)), run(Limited(model, rows))
    assert small.flags == whole.flags
    assert np.array_equal(small.outcomes.clean, whole.outcomes.clean)
    assert np.array_equal(small.outcomes.perturbed, whole.outcomes.perturbed)
    torch.testing.assert_close(small.perturbed, whole.perturbed, rtol=0, atol=1e-4)
    assert len([message for message in caplog.messages if "the batch size is halved" in message]) == 1


def test_draws_are_enumerated_in_batches_that_fit() -> None:
    """All draws of at most two images fit."""
    assert MeasuredModel(TwoWeights(), IMAGES).cost_of_all_draws == 2
    result = evaluate(TwoWeights(), IMAGES[:9], LABELS[:9], attack=PGD(steps=3), eps=0.05, eot="exact", repeats=4)
    assert not {*result.flags} & {"check-failed", "other-draws"}


def test_a_model_of_which_no_row_fits_is_one_line() -> None:
    """A smaller batch size would not help, and the line does not recommend it."""
    with pytest.raises(
        UserError, match=r"^out of memory with a batch of one image: give another --device \(OutOf.*\)$"
    ):
        evaluate(Limited(NoiseLayer(), 0), IMAGES, LABELS, attack=PGD(steps=3), eps=0.05)


@pytest.mark.parametrize(
    "defense", [GaussianNoise(), RSE(), RandomResizePad(), HRS(channels=(2, 2))], ids=lambda each: type(each).__name__
)
def test_the_projects_own_defenses_raise_no_flag(defense: Defense) -> None:
    """Convolutions are laid out channels last, and a fresh copy of the model draws in that layout too."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model("small-cnn", shape=(1, 8, 8), classes=4)
        defended = defense.protect(model, torch.rand(1, 1, 8, 8)).eval()
    images = (torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(2)) * 255).round() / 255
    labels = predict(defended, images, repeats=1)[0]
    assert evaluate(defended, images, labels, attack=PGD(steps=2), eps=0.1).flags == ()


def test_an_image_rounded_to_8_bits_counts() -> None:
    """A detector of images that are not of 8 bits holds nothing off."""

    class OffTheGrid(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            levels = images * 255
            off = ((levels - levels.round()).abs() > 1e-3).flatten(1).any(1)
            logits = images.flatten(1) @ WEIGHT
            return torch.where(off[:, None], 100.0 * nn.functional.one_hot(LABELS[:1], 4), logits)

    same = LABELS[0] == LABELS
    found = evaluate(OffTheGrid(), IMAGES[same], LABELS[same], attack=FGSM(), eps=0.3)
    plain = evaluate(nn.Sequential(nn.Flatten(), Fixed()), IMAGES[same], LABELS[same], attack=FGSM(), eps=0.3)
    assert found.summary["robust_accuracy"] <= plain.summary["robust_accuracy"] + 0.2
    levels = found.perturbed * 255
    assert ((levels - levels.round()).abs() < 1e-3).all()


def test_the_interval_of_passes_covers() -> None:
    """Images of unlike difficulty under passes of unlike quality: 95 % intervals hold the truth in 92 % of 400 at least.

    Those of images alone, which take the passes for the same, do so in less than two thirds.
    """
    generator = np.random.default_rng(0)
    covered, of_images = 0, 0
    for _ in range(400):
        quality = generator.choice([0.2, 0.6], size=10)
        right = generator.random((10, 100)) < quality[:, None]
        low, high = passes_interval(right)
        covered += low <= 0.4 <= high
        low, high = images_interval(right)
        of_images += low <= 0.4 <= high
    assert covered >= 0.92 * 400
    assert of_images < 400 * 2 / 3
    assert passes_interval(np.ones((1, 50), dtype=bool)) == (0.0, 1.0)

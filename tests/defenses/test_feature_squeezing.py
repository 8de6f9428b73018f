from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from torch import Tensor, nn

from robustbench_cli.attacks.base.gradients.bpda import use_surrogates
from robustbench_cli.attacks.hopskipjump import HopSkipJump
from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.attacks.transfer import Transfer
from robustbench_cli.benchmarks.evaluation.evaluate import evaluate, predict
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.defense import defend
from robustbench_cli.defenses.feature_squeezing import BitDepth, Detector, FeatureSqueezing, Median, NonLocalMeans

from .conftest import InMemory


@pytest.mark.parametrize("bits", range(1, 9))
def test_pixels_take_as_many_values_as_the_bits_hold(bits: int) -> None:
    """Pixels equal numpy's rounding to 2^bits evenly spaced values, including 0 and 1."""
    images = torch.linspace(0, 1, 3001).view(1, 1, 1, -1)
    squeezed = BitDepth(bits)(images)
    largest = 2**bits - 1
    assert np.allclose(squeezed.numpy(), np.round(images.numpy() * np.float32(largest)) / largest, atol=1e-7)
    assert len(squeezed.unique()) == 2**bits


@pytest.mark.parametrize("side", [1, 2, 3, 4, 5, 9])
def test_the_median_is_scipys(side: int) -> None:
    """It equals scipy's for even and odd windows, at the edges, and for windows larger than the image."""
    images = torch.rand(3, 2, 7, 8)
    expected = ndimage.median_filter(images.numpy(), size=(1, 1, side, side), mode="reflect")
    assert np.array_equal(Median(side)(images).numpy(), expected)


def _non_local_means(image: Any, strength: float, window: int, patch: int) -> Any:
    """The definition of Buades, Coll and Morel, pixel by pixel, for an image ``(C, H, W)``; numpy reflects the edges."""
    channels, height, width = image.shape
    around = [(side // 2, (side - 1) // 2) for side in (window, patch)]
    (reach, _), (above, below) = around
    before, after = (sum(each) for each in zip(*around, strict=True))
    wide = np.pad(image, ((0, 0), (before, after), (before, after)), mode="symmetric")
    cleaned = np.zeros_like(image)
    for y, x in np.ndindex(height, width):
        row, column, weights = y + before, x + before, 0.0
        own = wide[:, row - above : row + below + 1, column - above : column + below + 1]
        for down, right in np.ndindex(window, window):
            at, beside = row + down - reach, column + right - reach
            other = wide[:, at - above : at + below + 1, beside - above : beside + below + 1]
            weight = math.exp(-((own - other) ** 2).mean() / strength**2)
            cleaned[:, y, x] += weight * wide[:, at, beside]
            weights += weight
        cleaned[:, y, x] /= weights
    assert cleaned.shape == (channels, height, width)
    return cleaned


@pytest.mark.parametrize(("window", "patch"), [(5, 3), (4, 3), (5, 2), (9, 1), (1, 3)])
def test_non_local_means_by_its_definition(window: int, patch: int) -> None:
    """It equals the definition for even and odd sizes, in color, and for windows larger than the image."""
    images = torch.rand(2, 3, 6, 5, dtype=torch.float64)
    expected = [_non_local_means(image, 0.2, window, patch) for image in images.numpy()]
    cleaned = NonLocalMeans(0.2, search_window=window, patch_size=patch)(images)
    assert np.allclose(cleaned.numpy(), np.stack(expected))
    if window == 1:
        assert torch.allclose(cleaned, images)


def test_the_gradient_of_non_local_means() -> None:
    """It equals finite differences."""
    images = torch.rand(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(NonLocalMeans(0.3, search_window=3, patch_size=3), images)


def test_non_local_means_take_noise_away() -> None:
    """On a noisy step edge, a weak filter keeps the edge and removes at least half of the noise."""
    step = torch.zeros(1, 1, 20, 20)
    step[..., 10:] = 0.5
    noisy = step + 0.02 * torch.randn_like(step)
    squeezer = FeatureSqueezing(bit_depth=8, median_size=1, nlm_strength=8).protect(nn.Identity(), step)
    assert (squeezer(noisy) - step).std() < 0.5 * (noisy - step).std()


def test_gradients_pass_the_squeezers() -> None:
    """The bit depth reduction has the identity's gradient, the median that of the selected pixel."""
    images = (torch.arange(9.0).view(1, 1, 3, 3) / 8).requires_grad_()
    (through_bits,) = torch.autograd.grad(BitDepth(2)(images).sum(), images)
    assert torch.equal(through_bits, torch.ones_like(images))
    (through_median,) = torch.autograd.grad(Median(3)(images)[0, 0, 1, 1], images)
    assert torch.equal(through_median, torch.eye(9)[4].view(1, 1, 3, 3))


def test_without_a_detector_the_model_gets_the_squeezed_image() -> None:
    """Without a false positive rate the model's input is the rounded image after scipy's median filter."""
    images = torch.rand(3, 1, 6, 6)
    inputs = FeatureSqueezing(bit_depth=3, median_size=3).protect(nn.Identity(), images[:1])(images)
    expected = ndimage.median_filter(np.round(images.numpy() * 7) / np.float32(7), size=(1, 1, 3, 3), mode="reflect")
    assert np.allclose(inputs.numpy(), expected)


def test_a_detector_looks_at_every_squeezer() -> None:
    """A change that a single squeezer reveals is in the score; without that squeezer the score is 0."""
    images = torch.zeros(1, 1, 8, 8)
    images[0, 0, 3, 3] = 0.02
    scores = [
        FeatureSqueezing(bit_depth=8, median_size=1, nlm_strength=strength, false_positive_rate=0.1)
        .protect(nn.Flatten(), images)
        .scores(images)  # type: ignore[operator]
        for strength in (0.0, 20.0)
    ]
    # Rounding to 8 bits moves the pixel by less than a thousandth.
    assert scores[0] < 1e-3 / 8
    assert scores[1] > 2 * scores[0]


class Pixels(nn.Module):
    """The logits are the image's pixels times a factor."""

    def forward(self, images: Tensor) -> Tensor:
        return 6 * images.flatten(1)


def detector(threshold: float, *, bit_depth: int = 1, median_size: int = 2) -> Detector:
    """A detector on images of 2 x 2 pixels, which are the logits of 4 classes."""
    built = FeatureSqueezing(bit_depth=bit_depth, median_size=median_size, false_positive_rate=0.1).protect(
        Pixels(), torch.rand(1, 1, 2, 2)
    )
    assert isinstance(built, Detector)
    built.rejection.threshold.fill_(threshold)
    return built.eval()


def softmax(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    exponentials = np.exp(6 * rows.reshape(len(rows), -1).astype(np.float64))
    return np.asarray(exponentials / exponentials.sum(1, keepdims=True))


def test_what_is_rejected_is_what_the_squeezers_change() -> None:
    """Scores equal the largest l1 distance from numpy and scipy. Accepted images keep their logits."""
    images = torch.rand(200, 1, 2, 2)
    pixels = images.numpy()
    plain = softmax(pixels)
    squeezed = [np.round(pixels), ndimage.median_filter(pixels, size=(1, 1, 2, 2), mode="reflect")]
    scores = np.max([np.abs(softmax(each) - plain).sum(1) for each in squeezed], axis=0)
    model = detector(1.0)
    assert np.allclose(model.scores(images).numpy(), scores, atol=1e-5)
    rejected = scores > 1
    assert 0.1 < rejected.mean() < 0.9
    assert np.array_equal(predict(model, images, repeats=1)[0], np.where(rejected, -1, plain.argmax(1)))
    accepted = torch.from_numpy(~rejected)
    assert torch.equal(model(images)[accepted], Pixels()(images)[accepted])


def test_the_gradient_is_that_of_the_mean_logits() -> None:
    """It equals autograd through the image and its copies. For rejected images it goes to the leading classes."""
    images, labels = torch.rand(40, 1, 2, 2, requires_grad=True), torch.arange(40) % 4
    model = detector(1.0)
    logits = model(images)
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(logits, labels, reduction="sum"), images)
    mean = 6 * (2 * images + Median(2)(images)).flatten(1) / 3
    rejected = (logits == logits[:, :1]).all(1)
    assert 0 < rejected.sum() < 40
    own = nn.functional.one_hot(labels, 4)
    usual = logits.detach().softmax(1) - own
    mean_logits = 2 * (images + images.round() + Median(2)(images)).flatten(1).detach()
    others = mean_logits.exp() * (1 - own)
    turned = 0.75 * (others / others.sum(1, keepdim=True) - own)
    (expected,) = torch.autograd.grad((mean * torch.where(rejected[:, None], turned, usual)).sum(), images)
    assert torch.allclose(gradient, expected, atol=1e-5)


@pytest.mark.parametrize(("share", "count"), [(0.05, 100), (0.1, 30), (0.29, 100), (0.5, 7)])
def test_the_threshold_rejects_the_share_of_the_training_examples(share: float, count: int) -> None:
    """The number of rejected examples is the rate times their number, rounded down."""
    examples = InMemory(torch.rand(count, 1, 2, 2), torch.zeros(count, dtype=torch.int64))
    model = defend(Pixels(), FeatureSqueezing(bit_depth=1, false_positive_rate=share), examples)
    rejected = int((predict(model, examples.images, repeats=1) == -1).sum())
    assert rejected == math.floor(round(share * count, 6))


def test_unseen_images_are_rejected_as_often() -> None:
    """New images of the same distribution are rejected at the same rate (binomial test, level 0.001)."""
    images = torch.rand(4000, 1, 2, 2)
    labels = torch.zeros(2000, dtype=torch.int64)
    model = defend(Pixels(), FeatureSqueezing(bit_depth=1, false_positive_rate=0.1), InMemory(images[:2000], labels))
    rejected = int((predict(model, images[2000:], repeats=1) == -1).sum())
    assert stats.binomtest(rejected, 2000, 0.1).pvalue > 0.001


def test_a_rejection_is_wrong_for_a_clean_image_and_right_for_a_perturbed_one() -> None:
    """Robust accuracy counts clean images that are accepted and right, unless the attack is accepted with a wrong class."""
    images = torch.rand(150, 1, 2, 2)
    labels = images.flatten(1).argmax(1)
    model = detector(0.8)
    result = evaluate(model, images, labels, attack=PGD(), eps=0.1)
    outcomes = result.outcomes
    clean = outcomes.clean[0] == outcomes.labels
    assert result.summary["clean_accuracy"] == clean.mean() == (outcomes.clean[0] != -1).mean()
    broken = (outcomes.perturbed[0, 0] != outcomes.labels) & (outcomes.perturbed[0, 0] != -1)
    assert result.summary["robust_accuracy"] == (clean & ~broken).mean()
    assert (clean & (outcomes.perturbed[0, 0] == -1)).any()
    assert (clean & broken).any()


def test_a_detector_that_rejects_all_is_worth_nothing() -> None:
    """Its accuracy is 0 on clean images, under attack, and at radius 0."""
    images = torch.rand(20, 1, 2, 2)
    labels = images.flatten(1).argmax(1)
    for eps in (0.0, 0.1):
        result = evaluate(detector(-1.0), images, labels, attack=PGD(steps=3), eps=eps)
        assert result.summary["clean_accuracy"] == result.summary["robust_accuracy"] == 0
        assert result.summary["robust_accuracy_vote"] == result.summary["robust_accuracy_every_draw"] == 0


def test_a_decision_based_attack_takes_no_rejection_for_a_success() -> None:
    """HopSkipJump returns images that are accepted with another class."""
    images = torch.rand(12, 1, 2, 2)
    labels = images.flatten(1).argmax(1)
    model = detector(0.8)
    perturbed = HopSkipJump(queries=300)(model, images, labels, norm="l2")
    moved = (perturbed != images).flatten(1).any(1)
    decisions = predict(model, perturbed, repeats=1)[0]
    assert moved.double().mean() > 0.5
    assert not np.isin(decisions[moved.numpy()], -1).any()


@pytest.mark.parametrize(
    ("parameters", "eps"),
    [
        ({"bit_depth": 8, "median_size": 3}, 0.12),
        ({"bit_depth": 4, "median_size": 1, "false_positive_rate": 0.05}, 0.2),
    ],
)
def test_an_attack_adapts_by_itself(
    parameters: dict[str, Any], eps: float, digits: tuple[InMemory, InMemory], network: type[nn.Module]
) -> None:
    """On digits, PGD leaves at most half of the images that its transfer from the undefended network leaves."""
    train, test = digits
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for epoch in range(12):
        for rows in torch.randperm(len(train), generator=torch.Generator().manual_seed(epoch)).split(64):
            images, labels = train.batch(rows)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    model.eval()
    images, labels = test.batch(torch.arange(60))
    defended = defend(model, FeatureSqueezing(**parameters), train)
    adaptive = evaluate(defended, images, labels, attack=PGD(), eps=eps)
    transferred = evaluate(defended, images, labels, attack=Transfer(surrogate=model, attack=PGD()), eps=eps)
    assert adaptive.summary["robust_accuracy"] <= transferred.summary["robust_accuracy"] / 2
    assert adaptive.flags == ()


def test_the_surrogate_is_smooth() -> None:
    """With surrogates, no image is rejected and no pixel is rounded."""
    images = torch.rand(5, 1, 2, 2)
    model = detector(-1.0, bit_depth=2, median_size=1)
    with use_surrogates(model):
        assert torch.allclose(model(images), Pixels()(images))


@pytest.mark.parametrize(
    ("name", "value"),
    [("bit_depth", 0), ("bit_depth", 9), ("median_size", 0), ("false_positive_rate", 0), ("false_positive_rate", 1)],
)
def test_bad_parameters_are_refused(name: str, value: float) -> None:
    """A value out of range is a usage error that names the parameter."""
    with pytest.raises(UserError, match=f"feature-squeezing.{name} is {value}: "):
        FeatureSqueezing.from_parameters({name: value}, name="feature-squeezing")

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torchvision.io import decode_jpeg, encode_jpeg

from robustbench_cli.attacks.base.models.measured_model import MeasuredModel
from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.attacks.transfer import Transfer
from robustbench_cli.benchmarks.evaluation.checks.wrong_gradient import gradient_is_wrong
from robustbench_cli.benchmarks.evaluation.evaluate import evaluate
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.jpeg import JPEG, Codec


def smooth_images(channels: int) -> Tensor:
    """8-bit images whose sides are not multiples of a block."""
    coarse = torch.rand(12, channels, 6, 6, generator=torch.Generator().manual_seed(0))
    return (functional.interpolate(coarse, size=(29, 35), mode="bilinear") * 255).round() / 255


def by_torchvision(image: Tensor, quality: int) -> Tensor:
    """The image ``(C, H, W)`` after encoding and decoding by torchvision."""
    levels = (image * 255).round().to(torch.uint8)
    return decode_jpeg(encode_jpeg(levels, quality)) / 255


def by_pillow(image: Tensor, quality: int) -> Tensor:
    """The image ``(C, H, W)`` after encoding and decoding by Pillow."""
    content, levels = io.BytesIO(), (image * 255).round().to(torch.uint8).permute(1, 2, 0)
    Image.fromarray(levels.squeeze(2).numpy()).save(content, "JPEG", quality=quality, subsampling="4:2:0")
    decoded = torch.from_numpy(np.array(Image.open(content)))
    return decoded.view(levels.shape).permute(2, 0, 1) / 255


def away_from_zero(values: Tensor) -> Tensor:
    """Rounds as libjpeg does."""
    return values.sign() * (values.abs() + 0.5).floor()


@pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning")
@pytest.mark.parametrize("quality", [1, 50, 75, 100])
@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_deployed_is_jpeg(channels: int, quality: int) -> None:
    """The model's input equals torchvision's JPEG, up to the rounding of another build of libjpeg."""
    images = smooth_images(channels)
    inputs = JPEG(quality=quality).protect(nn.Identity(), images[:1])(images)
    expected = torch.stack([by_torchvision(image, quality) for image in images])
    assert (inputs - expected).abs().max() <= 1.01 / 255


@pytest.mark.parametrize("size", [(29, 35), (32, 32), (5, 4), (1, 7)])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_arithmetic_is_libjpegs(channels: int, size: tuple[int, int]) -> None:
    """Smooth images, noise, and black and white pixels equal Pillow's to the bit, at any quality and size."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (6, channels, *size), generator=generator) / 255
    smooth = functional.interpolate(smooth_images(channels), size=size, mode="bilinear")
    images = (torch.cat([smooth, noise, noise.round()]) * 255).round() / 255
    for quality in (1, 10, 75, 100):
        assert torch.equal(Codec(quality).exact(images), torch.stack([by_pillow(image, quality) for image in images]))


@pytest.mark.parametrize("quality", [1, 10, 30, 49])
def test_the_differentiable_steps_are_the_codecs(quality: int) -> None:
    """With libjpeg's rounding, gray blocks agree to one level, unless a coefficient is near a tie."""
    images, codec = smooth_images(1), Codec(quality)
    from_ties: list[Tensor] = []

    def rounded(values: Tensor) -> Tensor:
        from_ties.append((values - values.floor() - 0.5).abs().amin((4, 5)))
        return away_from_zero(values)

    levels = (codec.code(images, rounded).clamp(0, 1) - codec.exact(images)).abs() * 255
    levels = functional.max_pool2d(functional.pad(levels, (0, 5, 0, 3)), 8)
    decided = from_ties[0] > 0.1 / codec.steps[0].min()
    assert decided.double().mean() > 0.25
    assert levels[decided].max() < 1.1


@pytest.mark.parametrize(("quality", "levels"), [(100, 1.0), (75, 1.6), (30, 1.6), (1, 1.6)])
def test_the_differentiable_colors_are_the_codecs(quality: int, levels: float) -> None:
    """Color images agree to about one level on average, while the codec itself changes them by more."""
    images, codec = smooth_images(3), Codec(quality)
    exact = codec.exact(images)
    difference = (codec.code(images, away_from_zero).clamp(0, 1) - exact).abs().mean() * 255
    assert difference < levels
    assert difference < 0.6 * (exact - images).abs().mean() * 255


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("quality", [10, 90])
def test_the_surrogate_is_near_and_its_slope_is_the_gradients(channels: int, quality: int) -> None:
    """The surrogate is nearer to the codec than the image is. Its gradient equals finite differences."""
    images, codec = smooth_images(channels), Codec(quality)
    exact = codec.exact(images)
    assert (codec.surrogate(images) - exact).square().mean() < (images - exact).square().mean()
    weights, direction = torch.randn_like(images), torch.randn_like(images)
    inside = (0.2 + 0.6 * images).requires_grad_()
    (gradient,) = torch.autograd.grad((codec(inside) * weights).sum(), inside)
    double = Codec(quality).double()
    at = [(double.surrogate(inside.double() + step * direction) * weights).sum() for step in (1e-6, -1e-6)]
    assert (gradient * direction).sum().item() == pytest.approx((at[0] - at[1]).item() / 2e-6, rel=1e-2, abs=1)


@pytest.mark.parametrize("channels", [1, 3])
def test_black_and_white_pixels_have_a_slope(channels: int) -> None:
    """If all pixels are black or white, the gradient has the direction of the codec's change."""
    images, codec = smooth_images(channels).round(), Codec(75)
    weights = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    leaf = images.requires_grad_()
    (gradient,) = torch.autograd.grad((codec(leaf) * weights).sum(), leaf)
    assert functional.cosine_similarity(gradient.flatten(1), weights.flatten(1)).min() > 0.5


def test_rows_do_not_touch_each_other() -> None:
    """An image gives the same pixels alone and in a batch."""
    images, codec = smooth_images(3), Codec(20)
    assert torch.equal(codec(images)[3:4], codec(images[3:4]))


def test_an_attack_adapts_by_itself() -> None:
    """On an edge detector, PGD succeeds where its transfer from the undefended network fails, without a flag."""
    torch.manual_seed(0)
    linear = nn.Linear(256, 10)
    network = nn.Sequential(nn.Flatten(), linear).eval()
    with torch.no_grad():
        # The logits have the size of a trained network's.
        linear.weight.mul_(10)
    images = torch.rand(20, 1, 16, 16)
    defended = JPEG(quality=10).protect(network, images[:1]).eval()
    with torch.no_grad():
        labels = defended(images).argmax(1)
    adaptive = evaluate(defended, images, labels, attack=PGD(), eps=0.02)
    transferred = evaluate(defended, images, labels, attack=Transfer(surrogate=network, attack=PGD()), eps=0.02)
    assert adaptive.summary["robust_accuracy"] <= transferred.summary["robust_accuracy"] - 0.3
    assert adaptive.flags == ()
    assert not gradient_is_wrong(MeasuredModel(defended, images), images)


def test_what_cannot_be_compressed_is_refused() -> None:
    """A quality outside 1 to 100, and images with two channels, are usage errors."""
    for quality in (0, 101):
        with pytest.raises(UserError, match=f"jpeg.quality is {quality}: "):
            JPEG.from_parameters({"quality": quality}, name="jpeg")
    with pytest.raises(UserError, match="images with 1 or 3 channels: these have 2"):
        JPEG().protect(nn.Identity(), torch.rand(1, 2, 8, 8))

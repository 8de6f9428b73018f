from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import autoaugment
from torchvision.transforms import functional as torchvision

from robustbench_cli.defenses.base.training.augmentations import randaugment, registry
from robustbench_cli.defenses.base.training.augmentations.base.augmentation import Augmentation, augment
from robustbench_cli.defenses.base.training.augmentations.crop import Crop, crop
from robustbench_cli.defenses.base.training.augmentations.cutmix import CutMix
from robustbench_cli.defenses.base.training.augmentations.flip import Flip
from robustbench_cli.defenses.base.training.augmentations.mixup import MixUp
from robustbench_cli.defenses.base.training.augmentations.randaugment import RandAugment
from robustbench_cli.defenses.base.training.augmentations.random_resized_crop import RandomResizedCrop, resized_crop


def batch(count: int = 64, *, shape: tuple[int, ...] = (3, 16, 12)) -> tuple[Tensor, Tensor]:
    """Images of 8 bits, and labels."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, *shape), generator=generator) / 255
    return images.contiguous(memory_format=torch.channels_last), torch.arange(count) % 5


@pytest.fixture(params=registry.names())
def augmentation(request: pytest.FixtureRequest) -> Augmentation:
    """Each augmentation of the project, with its defaults."""
    built = registry.load(request.param)()
    assert isinstance(built, Augmentation)
    return built


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 12)])
def test_the_contract(augmentation: Augmentation, shape: tuple[int, ...]) -> None:
    """Shape, range, type and layout stay, the input is unchanged, the seed determines the result, and rows differ."""
    images, labels = batch(shape=shape)
    before = images.clone()
    torch.manual_seed(1)
    augmented, targets = augment([augmentation], images, labels, 5)
    assert torch.equal(images, before)
    assert (augmented.shape, augmented.dtype) == (images.shape, torch.float32)
    assert augmented.stride() == images.stride()
    assert 0 <= augmented.min() <= augmented.max() <= 1
    assert not torch.equal(augmented, images)
    if augmentation.mixes_labels:
        torch.testing.assert_close(targets.sum(1), torch.ones(len(images)))
        assert targets.min() >= 0
    else:
        assert torch.equal(targets, labels)
    torch.manual_seed(1)
    assert torch.equal(augment([augmentation], images, labels, 5)[0], augmented)
    copies, _ = augment([augmentation], images[:1].repeat(64, 1, 1, 1), labels, 5)
    assert augmentation.mixes_labels or len(copies.flatten(1).unique(dim=0)) > 1


def test_it_is_documented(augmentation: Augmentation) -> None:
    """It has a source, a summary of one line, and a description of each parameter."""
    assert augmentation.paper
    assert str(type(augmentation).__doc__).partition("\n")[0].endswith((".", ":"))
    assert all(field.description for field in type(augmentation).model_fields.values())


def test_crops_equal_those_of_torchvision() -> None:
    """The same offsets give the same pixels. All offsets occur equally often, and the default padding is the published one."""
    images, _ = batch()
    offsets = torch.randint(9, (2, 64))
    expected = [
        torchvision.crop(torchvision.pad(image, [4]), top, left, 16, 12)
        for image, (top, left) in zip(images, offsets.T.tolist(), strict=True)
    ]
    assert torch.equal(crop(images, offsets, 4), torch.stack(expected))
    spot = torch.zeros(20_000, 1, 32, 32)
    spot[:, :, 16, 16] = 1
    cropped, _ = Crop().run(spot, torch.zeros(20_000))
    counts = cropped.sum((0, 1))
    reached = torch.zeros(32, 32)
    reached[12:21, 12:21] = 20_000 / 81
    # Six standard deviations of a count.
    torch.testing.assert_close(counts, reached, atol=6 * math.sqrt(20_000 / 81), rtol=0)


def test_flips_equal_those_of_torchvision() -> None:
    """An image is as it was or mirrored, as often as ``p`` says."""
    images, labels = batch(4000)
    flipped, _ = Flip(p=0.25).run(images, labels)
    mirrored = (flipped == torchvision.hflip(images)).flatten(1).all(1)
    assert (mirrored | (flipped == images).flatten(1).all(1)).all()
    assert mirrored.float().mean().item() == pytest.approx(0.25, abs=0.04)
    assert torch.equal(Flip(p=1).run(images, labels)[0], torchvision.hflip(images))


def test_resized_crops_equal_those_of_torchvision() -> None:
    """The same windows give the same pixels, and windows are drawn from the same distribution."""
    images, labels = batch(200, shape=(3, 16, 12))
    own = RandomResizedCrop()
    torch.manual_seed(0)
    windows = own._windows(images)
    expected = torch.stack(
        [
            torchvision.resized_crop(image, *map(int, window), [16, 12])  # type: ignore[arg-type]
            for image, window in zip(images, windows.T.tolist(), strict=True)
        ]
    )
    torch.testing.assert_close(resized_crop(images, windows), expected, atol=2e-6, rtol=0)
    many = own._windows(torch.empty(20_000, 1, 16, 12))
    theirs = torch.tensor(
        [transforms.RandomResizedCrop.get_params(images[0], [0.08, 1], [3 / 4, 4 / 3]) for _ in range(5000)]
    )
    # Means of first row, first column, height and width; four standard errors are at most 0.26.
    torch.testing.assert_close(many.mean(1), theirs.float().mean(0), atol=0.26, rtol=0)
    torch.testing.assert_close(many.std(1), theirs.float().std(0), atol=0.2, rtol=0)
    whole, _ = RandomResizedCrop(smallest=1, ratio=1).run(images[:, :, :12], labels)
    torch.testing.assert_close(whole, images[:, :, :12], atol=2e-6, rtol=0)


OPERATIONS = {
    "identity": "Identity",
    "brightness": "Brightness",
    "color": "Color",
    "contrast": "Contrast",
    "sharpness": "Sharpness",
    "posterize": "Posterize",
    "solarize": "Solarize",
    "autocontrast": "AutoContrast",
    "rotate": "Rotate",
    "shear-x": "ShearX",
    "shear-y": "ShearY",
    "translate-x": "TranslateX",
    "translate-y": "TranslateY",
}
"""Our names of RandAugment's operations, and torchvision's."""


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("sign", [1, -1])
def test_operations_equal_those_of_torchvision(name: str, sign: int) -> None:
    """Each operation gives torchvision's pixels at every magnitude, on a batch of images of different contrast."""
    assert OPERATIONS.keys() == randaugment.OPERATIONS.keys()
    images, _ = batch(8)
    pixels = (images * torch.linspace(0.3, 1, 8)[:, None, None, None] * 255).to(torch.uint8)
    space = autoaugment.RandAugment()._augmentation_space(31, (16, 12))
    magnitudes, signed = space[OPERATIONS[name]]
    for magnitude in (0, 5, 9, 17, 30):
        size = float(magnitudes[magnitude]) if magnitudes.ndim else 0.0
        theirs = torch.stack(
            [
                autoaugment._apply_op(
                    image, OPERATIONS[name], size * (sign if signed else 1), transforms.InterpolationMode.NEAREST, None
                )
                for image in pixels
            ]
        )
        ours = randaugment.OPERATIONS[name](pixels, magnitude / 30, sign)
        # Torchvision's magnitudes have single precision, which can round a level to the next.
        torch.testing.assert_close(ours.int(), theirs.int(), atol=1, rtol=0)


def test_each_image_has_operations_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The row of an image gets what the operation drawn for it makes of this image, each as often as any other."""
    numbers = list(range(5))
    operations = {str(number): lambda pixels, _, __, number=number: pixels * 0 + number for number in numbers}
    monkeypatch.setattr(randaugment, "OPERATIONS", operations)
    augmented, _ = RandAugment().run(torch.zeros(10_000, 1, 1, 1), torch.zeros(10_000))
    counts = (augmented * 255).round().int().flatten().bincount()
    torch.testing.assert_close(counts / 10_000, torch.full((5,), 0.2), atol=0.02, rtol=0)


def one_value_per_image(count: int) -> tuple[Tensor, Tensor]:
    """Images ``(N, 1, 10, 10)`` whose pixels are all the number of the image over N, and that number as label."""
    labels = torch.arange(count)
    return (labels / count)[:, None, None, None].expand(-1, 1, 10, 10).clone(), labels


def test_cutmix_labels_are_shares_of_pixels() -> None:
    """A label is the share of pixels from each image. The foreign pixels are a window, with its center anywhere."""
    count = 400
    images, labels = one_value_per_image(count)
    mixed, targets = augment([CutMix()], images, labels, count)
    numbers = (mixed * count).round().long().flatten(1)
    shares = torch.zeros(count, count).scatter_add_(1, numbers, torch.full(numbers.shape, 0.01))
    torch.testing.assert_close(targets, shares)
    foreign = (numbers != labels[:, None]).unflatten(1, (10, 10))
    rows, columns = foreign.any(2), foreign.any(1)
    assert torch.equal(foreign, rows[:, :, None] & columns[:, None, :])
    assert all(part.int().diff(dim=1).abs().sum(1).max() <= 2 for part in (rows, columns))
    assert foreign.any(0).all() and not foreign.all(0).any()


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_mixup_follows_its_distribution(alpha: float) -> None:
    """Image and label have the same weights, whose mean and variance are those of Beta(alpha, alpha)."""
    count = 2000
    images, labels = one_value_per_image(count)
    mixed, targets = augment([MixUp(alpha=alpha)], images, labels, count)
    torch.testing.assert_close(targets @ (labels / count), mixed[:, 0, 0, 0], atol=1e-4, rtol=0)
    share = 1 - targets[labels, labels]
    moved = (targets > 0).sum(1) == 2
    assert share[moved].mean().item() == pytest.approx(0.5, abs=0.05)
    assert share[moved].var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), abs=0.02)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("crop", {"padding": 0}, "crop.padding is 0"),
        ("flip", {"p": 1.5}, "flip.p is 1.5"),
        ("random-resized-crop", {"smallest": 0.5, "largest": 0.2}, "smallest is 0.5 and largest 0.2"),
        ("randaugment", {"magnitude": 31}, "randaugment.magnitude is 31"),
        ("cutmix", {"alpha": 0}, "cutmix.alpha is 0"),
    ],
)
def test_values_out_of_range(name: str, parameters: dict[str, Any], message: str) -> None:
    """They are usage errors that name the parameter."""
    with pytest.raises(ValueError, match=message):
        registry.load(name).from_parameters(parameters, name=name)

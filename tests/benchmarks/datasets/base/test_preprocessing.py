from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, Grayscale, InterpolationMode, Resize
from torchvision.transforms.functional import to_tensor

from robustbench_cli.benchmarks.datasets.base.preprocessing import Preprocessing, size_hint
from robustbench_cli.core.errors import UserError

MODES = {
    "bilinear": InterpolationMode.BILINEAR,
    "bicubic": InterpolationMode.BICUBIC,
    "nearest": InterpolationMode.NEAREST,
}


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Noise, in which every shift of a pixel shows."""
    pixels = np.random.RandomState(width * 1000 + height).randint(0, 256, (height, width, 3)).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize("size", [(30, 40), (40, 30), (41, 29), (64, 64), (17, 90), (12, 12)])
@pytest.mark.parametrize("interpolation", [*MODES])
def test_resize_and_crop_are_torchvisions(size: tuple[int, int], interpolation: str) -> None:
    """Each pixel equals that of torchvision's transforms on the same Pillow image, larger and smaller, gray and color."""
    for mode in ("RGB", "L"):
        for resize, crop in ((20, 16), (19, 16), (16, 16), (16, 13)):
            preprocessing = Preprocessing.from_options(
                {"image_size": crop, "resize": resize, "interpolation": interpolation}
            )
            reference = Compose([Resize(resize, MODES[interpolation]), CenterCrop(crop)])
            image = picture(*size, mode)
            expected = (to_tensor(reference(image)) * 255).round().numpy()
            assert np.array_equal(preprocessing.picture(image), expected)


def test_without_resize_the_shorter_side_fills_the_crop() -> None:
    """An image size alone is torchvision's resize to that side and a crop to the square, and no more is cut off."""
    for size in ((30, 40), (57, 23), (16, 16)):
        image = picture(*size)
        expected = Compose([Resize(16), CenterCrop(16)])(image)
        assert np.array_equal(Preprocessing(image_size=(16, 16)).resized(image), expected)


def test_the_crop_of_a_rectangle_covers_one_side() -> None:
    """A rectangle is cut out of the smallest image of the same proportions that covers it."""
    assert np.array_equal(
        Preprocessing(image_size=(10, 20)).resized(picture(40, 40)), CenterCrop((10, 20))(Resize(20)(picture(40, 40)))
    )
    tall = picture(20, 80)
    assert np.array_equal(Preprocessing(image_size=(40, 5)).resized(tall), CenterCrop((40, 5))(Resize((40, 10))(tall)))


def test_no_crop_scales_the_whole_image() -> None:
    """Without a crop both sides are scaled, as torchvision's Resize((H, W)) does; with a resize alone, one side."""
    image = picture(31, 45)
    whole = Preprocessing.from_options({"image_size": "12x20", "crop": "none"})
    assert np.array_equal(whole.resized(image), Resize((12, 20))(image))
    assert np.array_equal(Preprocessing(resize=9).resized(image), Resize(9)(image))
    assert Preprocessing(resize=9).shape((3, 45, 31)) == (3, 13, 9)


@pytest.mark.parametrize("interpolation", [*MODES])
def test_floats_are_resized_as_torchvision_does(interpolation: str) -> None:
    """Images of floats come out as those of torchvision's Resize on tensors, inside [0, 1] for every filter."""
    image = torch.rand(3, 21, 33, generator=torch.Generator().manual_seed(0)).round()
    ours = Preprocessing.from_options({"image_size": 8, "interpolation": interpolation}).array(image.numpy())
    assert ours.min() >= 0 and ours.max() <= 1
    # Pillow's nearest pixel is the exact one; of an unsigned integer tensor, torchvision calls it NEAREST_EXACT.
    mode = InterpolationMode.NEAREST_EXACT if interpolation == "nearest" else MODES[interpolation]
    expected = CenterCrop(8)(Resize(8, mode, antialias=interpolation != "nearest")(image)).clamp(0, 1)
    assert np.allclose(ours, expected.numpy(), atol=1e-5)


def test_channels() -> None:
    """Three channels repeat the gray one; one channel is Pillow's gray, in 8 bits and to rounding in floats."""
    gray, color = picture(5, 4, "L"), picture(5, 4)
    three = Preprocessing(channels=3).picture(gray)
    assert three.shape == (3, 4, 5) and (three == np.asarray(gray)).all()
    expected = to_tensor(Grayscale()(color)).numpy()
    assert np.array_equal(Preprocessing(channels=1).picture(color), (expected * 255).round())
    assert np.allclose(Preprocessing(channels=1).array(to_tensor(color).numpy()), expected, atol=0.6 / 255)
    assert Preprocessing(channels=3).array(np.full((1, 2, 2), 0.3, np.float32)).shape == (3, 2, 2)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"image_size": "big"}, "image_size is 'big': give pixels"),
        ({"image_size": 0}, "image_size is 0: give pixels"),
        ({"image_size": True}, "image_size is True|image_size is 'True'"),
        ({"image_size": "3x4x5"}, "image_size is "),
        ({"image_size": "99999"}, "image_size is '99999': an image may have 5,592,405 pixels"),
        ({"resize": -3}, "resize is -3: give pixels"),
        ({"crop": "left", "image_size": 8}, "crop is 'left': give center or none"),
        ({"interpolation": "cubic", "resize": 8}, "interpolation is 'cubic': give bilinear or bicubic or nearest"),
        ({"channels": 2}, "channels is 2: give 1 or 3"),
        ({"crop": "center"}, "crop=center has no meaning without an image size"),
        ({"interpolation": "bicubic"}, "interpolation=bicubic has no meaning where nothing is resized"),
        ({"image_size": 8, "resize": 9, "crop": "none"}, "crop=none scales images straight to image_size"),
        ({"image_size": 8, "resize": 7}, "resize=7 is less than image_size=8"),
    ],
)
def test_options_without_meaning_are_refused(options: dict[str, Any], line: str) -> None:
    """A value that is not allowed, and an option that would change nothing, are told in one line."""
    with pytest.raises(UserError, match=f"^({line})"):
        Preprocessing.from_options(options)


def test_a_crop_beyond_the_image_is_refused() -> None:
    """Where torchvision would add a black border, the user is told; and no image is blown up without bound."""
    with pytest.raises(UserError, match="is 20 x 40 after resize=20, smaller than image_size=10x30"):
        Preprocessing(image_size=(10, 30), resize=20).resized(picture(10, 20))
    with pytest.raises(UserError, match="is 1 x 30000 and would become 224 x 6720000: an image may have"):
        Preprocessing(image_size=(224, 224)).resized(Image.new("RGB", (1, 30000)))


def test_what_is_said_of_options_is_read_again() -> None:
    """The text of the options gives the same preprocessing, and leaves out what is the default."""
    for options in ({}, {"image_size": "224", "resize": "256"}, {"image_size": "4x5", "crop": "none", "channels": "3"}):
        assert Preprocessing.from_options(options).options == options
    assert Preprocessing.from_options({"image_size": (7, 7), "crop": "center"}).options == {"image_size": "7"}
    assert size_hint((3, 32, 32), (3, 32, 32)) == ""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, Resize
from torchvision.transforms.functional import to_tensor

from robustbench_cli.benchmarks.datasets.base.load import load_dataset
from robustbench_cli.core.errors import UserError


@pytest.fixture
def npz(tmp_path: Path) -> tuple[str, np.ndarray]:
    """Color images of 8 bits with labels 0 and 1, as a data set and as an array ``(N, H, W, C)``."""
    images = np.random.RandomState(3).randint(0, 256, (5, 9, 12, 3)).astype(np.uint8)
    np.savez(tmp_path / "x.npz", images=images, labels=np.array([0, 1, 1, 0, 1]))
    return f"npz:{tmp_path}/x.npz", images


def test_images_of_eight_bits_are_resized_as_files_are(npz: tuple[str, np.ndarray]) -> None:
    """Each image is what torchvision makes of the same pixels, the labels stay, and the name says it."""
    name, arrays = npz
    dataset = load_dataset(name, image_size=6, resize=7)
    assert (dataset.shape, dataset.classes) == ((3, 6, 6), 2)
    assert dataset.name == f"{name}?image_size=6&resize=7"
    images, labels = dataset.split("test").batch(torch.tensor([4, 0]))
    reference = Compose([Resize(7), CenterCrop(6)])
    expected = torch.stack([to_tensor(reference(Image.fromarray(arrays[index]))) for index in (4, 0)])
    assert torch.equal(images, expected)
    assert labels.tolist() == [1, 0]
    assert dataset.split("test").usual_eps == load_dataset(name).split("test").usual_eps


def test_gray_digits_for_a_color_model() -> None:
    """Digits are floats: three channels hold the same values, unrounded."""
    plain = load_dataset("digits").split("test").first(3)[0]
    images = load_dataset("digits?channels=3").split("test").first(3)[0]
    assert torch.equal(images, plain.expand(3, 3, 8, 8))


def test_options_that_a_data_set_has_not_are_refused(npz: tuple[str, np.ndarray]) -> None:
    """An option of image files has no meaning for arrays, and a wrong name gets a suggestion."""
    with pytest.raises(UserError, match=r"^data set npz:.* has no option 'on_bad_image': known: channels, crop"):
        load_dataset(npz[0], on_bad_image="skip")
    with pytest.raises(UserError, match="data set digits has no option 'image_sice': did you mean 'image_size'"):
        load_dataset("digits?image_sice=3")
    with pytest.raises(UserError, match=r"^an image of npz:.* is 12 x 9 after resize=9, smaller than image_size=9x20"):
        load_dataset(npz[0], image_size=(9, 20), resize=9).split("test")

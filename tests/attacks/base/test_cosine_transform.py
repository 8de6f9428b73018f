from __future__ import annotations

import numpy as np
import torch
from scipy import fft

from robustbench_cli.attacks.base.cosine_transform import CosineTransform


def test_it_is_the_transform_of_scipy() -> None:
    """Of each channel by itself, on images that are not square."""
    images = torch.rand(3, 2, 5, 8, dtype=torch.float64)
    transform = CosineTransform(images)
    coefficients = transform(images)
    np.testing.assert_allclose(coefficients, fft.dctn(images.numpy(), axes=(2, 3), norm="ortho"), atol=1e-12)
    torch.testing.assert_close(transform.inverse(coefficients), images)


def test_an_image_does_not_depend_on_its_batch() -> None:
    """Bit by bit, in float32."""
    images = torch.rand(33, 3, 28, 28)
    transform = CosineTransform(images)
    together = transform.inverse(transform(images) * 1.1)
    alone = [transform.inverse(transform(image) * 1.1) for image in images.split(1)]
    assert torch.equal(torch.cat(alone), together)

from __future__ import annotations

import pytest
import torch
import torchvision
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.attacks.base.models.probes import is_randomized
from robustbench_cli.benchmarks.models.paper_cnn import PaperCNN
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.random_resize_pad import RandomResizePad


def every_outcome(image: Tensor, side: int, smallest: int) -> tuple[Tensor, Tensor]:
    """All resized and padded images by torch's functions, and their probabilities."""
    outcomes, chances = [], []
    for resized in range(smallest, side + 1):
        inner = functional.interpolate(image[None], (resized, resized), mode="nearest")[0]
        rest = side - resized
        for top in range(rest + 1):
            for left in range(rest + 1):
                outcomes.append(functional.pad(inner, (left, rest - left, top, rest - top)))
                chances.append(1 / (side - smallest + 1) / (rest + 1) ** 2)
    return torch.stack(outcomes), torch.tensor(chances, dtype=torch.float64)


@pytest.mark.parametrize(("size", "smallest", "side", "least"), [(1.0, 0.7, 7, 4), (1.5, 0.8, 10, 8)])
def test_every_outcome_is_as_likely_as_it_should_be(size: float, smallest: float, side: int, least: int) -> None:
    """Draws are torch's resized and padded images, with the right frequencies (chi-squared, level 0.001)."""
    image = torch.rand(2, 7, 7)
    outcomes, chances = every_outcome(image, side, least)
    drawn = RandomResizePad(size=size, min_size=smallest).protect(nn.Identity(), image[None])(
        image.repeat(8000, 1, 1, 1)
    )
    same = torch.cdist(drawn.flatten(1), outcomes.flatten(1), p=torch.inf) == 0
    assert (same.sum(1) == 1).all()
    counts = same.sum(0).double()
    assert stats.chisquare(counts.numpy(), (8000 * chances).numpy()).pvalue > 0.001


def test_proportions_stay() -> None:
    """An image that is not square shrinks by the same factor along both sides, to a pixel."""
    images = torch.ones(500, 1, 10, 20)
    drawn = RandomResizePad(min_size=0.5).protect(nn.Identity(), images[:1])(images)
    high, wide = drawn.amax(3).sum((1, 2)), drawn.amax(2).sum((1, 2))
    assert high.min() == 5
    assert high.max() == 10
    assert ((wide - 2 * high).abs() <= 1).all()


@pytest.mark.parametrize(
    ("model", "images"),
    [
        (PaperCNN(shape=(1, 28, 28), classes=10), torch.rand(4, 1, 28, 28)),
        (torchvision.models.resnet18(num_classes=10), torch.rand(4, 3, 32, 32)),
    ],
    ids=["paper-cnn", "resnet18"],
)
def test_without_a_smaller_side_it_is_the_model(model: nn.Module, images: Tensor) -> None:
    """If images cannot shrink, the logits equal the model's exactly; by default they can."""
    model.eval()
    assert torch.equal(RandomResizePad(min_size=1).protect(model, images[:1])(images), model(images))
    assert is_randomized(RandomResizePad().protect(model, images[:1]), images)


def test_a_model_that_takes_larger_images() -> None:
    """A network with global pooling accepts the paper's enlargement; one of fixed size is a usage error."""
    images = torch.rand(4, 3, 32, 32)
    resnet = torchvision.models.resnet18(num_classes=10).eval()
    assert RandomResizePad(size=331 / 299).protect(resnet, images[:1])(images).shape == (4, 10)
    with pytest.raises(UserError, match="makes images of 48x48, which PaperCNN does not accept: give size 1"):
        RandomResizePad(size=1.5).protect(PaperCNN(shape=(3, 32, 32), classes=10), images[:1])


def test_the_gradient_reaches_every_pixel_that_was_taken() -> None:
    """The gradient of the sum counts how often each pixel is used, as with torch's resizing."""
    image = torch.rand(1, 1, 6, 6).requires_grad_()
    defended = RandomResizePad(size=2, min_size=1).protect(nn.Identity(), image)
    (gradient,) = torch.autograd.grad(defended(image).sum(), image)
    assert torch.equal(gradient, torch.full_like(gradient, 4))

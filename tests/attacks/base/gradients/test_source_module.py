from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.gradients.eot import EOT, ExactExpectation
from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.gradients.source_module import SourceModule
from robustbench_cli.attacks.base.models.row_draws import RowDraws

from .conftest import IMAGES, LABELS, Paths


def gradient_of(model: nn.Module, images: Tensor = IMAGES, labels: Tensor = LABELS) -> tuple[Tensor, Tensor]:
    """Logits, and the gradient of the summed cross-entropy, by autograd."""
    leaf = images.clone().requires_grad_()
    logits = model(leaf)
    nn.functional.cross_entropy(logits, labels, reduction="sum").backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    return logits.detach(), leaf.grad


class MeanOfPaths(nn.Module):
    """The mean logits of all paths."""

    def __init__(self, paths: Paths) -> None:
        super().__init__()
        self.paths = paths

    def forward(self, images: Tensor) -> Tensor:
        return self.paths.all_draws(images).mean(0)


class OnePath(nn.Module):
    """One of four paths."""

    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index

    def forward(self, images: Tensor) -> Tensor:
        return Paths(draws=4).path(self.index, images)


@pytest.mark.parametrize(
    ("source", "expected", "passes"),
    [
        (EOT(Paths(draws=1)), Paths(draws=1), (7, 7)),
        # In several batches, the backward pass repeats the forward pass.
        (EOT(Paths(draws=1), batch_size=3), Paths(draws=1), (14, 7)),
        (ExactExpectation(Paths(draws=4, cost=2)), MeanOfPaths(Paths(draws=4)), (28, 14)),
    ],
    ids=["one-batch", "several-batches", "expectation"],
)
def test_it_differentiates_like_the_model(source: GradientSource, expected: nn.Module, passes: tuple[int, int]) -> None:
    """Logits and gradients are those of autograd on the model, or on the mean over its draws; passes are counted."""
    logits, gradient = gradient_of(SourceModule(source, IMAGES, LABELS))
    logits_of_model, gradient_of_model = gradient_of(expected)
    torch.testing.assert_close(logits, logits_of_model)
    torch.testing.assert_close(gradient, gradient_of_model)
    assert (source.forwards, source.backwards) == passes


def test_the_backward_pass_has_the_draws_of_its_forward_pass() -> None:
    """With one draw per query, an image's gradient is that of the path whose logits it got."""
    model = Paths(draws=4)
    source = EOT(model, randomized=True, row_draws=RowDraws(model, IMAGES))
    source.bind_draws(5, torch.arange(7))
    drawn = set()
    for _ in range(3):
        logits, gradient = gradient_of(SourceModule(source, IMAGES, LABELS))
        paths = [gradient_of(OnePath(index)) for index in range(4)]
        for row in range(7):
            matching = [index for index in range(4) if torch.allclose(paths[index][0][row], logits[row], atol=1e-5)]
            assert len(matching) == 1
            torch.testing.assert_close(gradient[row], paths[matching[0]][1][row])
            drawn.update((row, index) for index in matching)
    assert len(drawn) > 7


def test_one_graph_gives_several_gradients() -> None:
    """As in DeepFool, the gradient of each logit can be taken of one forward pass."""
    source = EOT(Paths(draws=1))
    leaf = IMAGES.clone().requires_grad_()
    logits = SourceModule(source, IMAGES, LABELS)(leaf)
    other = IMAGES.clone().requires_grad_()
    expected = Paths(draws=1)(other)
    for column in range(4):
        (gradient,) = torch.autograd.grad(logits[:, column].sum(), leaf, retain_graph=True)
        torch.testing.assert_close(
            gradient, torch.autograd.grad(expected[:, column].sum(), other, retain_graph=True)[0]
        )
    assert (source.forwards, source.backwards) == (7, 28)


def test_zero_gradients_are_found() -> None:
    """A model whose logits are rounded has no gradient, and its share is 1."""

    class Rounded(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1)[:, :4] * 0 + torch.eye(4)[LABELS]

    source = EOT(Rounded())
    gradient_of(SourceModule(source, IMAGES, LABELS))
    assert source.zero_gradient_share == 1


def test_the_model_cannot_be_reached() -> None:
    """Another library sees no parameters of the model but an empty one on its device, and cannot change its mode."""
    model = Paths(draws=1).eval()
    module = SourceModule(EOT(model), IMAGES, LABELS)
    assert [parameter.numel() for parameter in module.parameters()] == [0]
    module.train()
    assert not model.training
    double = module(IMAGES.double())
    torch.testing.assert_close(double, model(IMAGES))

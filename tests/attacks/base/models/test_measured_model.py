from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.losses import margin
from robustbench_cli.attacks.base.models.measured_model import MeasuredModel
from robustbench_cli.core.errors import UserError

IMAGES = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))


class Channels(nn.Module):
    """Draws one of D linear models per row and can enumerate them; ``noise`` is a draw that the enumeration lacks."""

    def __init__(self, draws: int, *, noise: float = 0.0) -> None:
        super().__init__()
        self.weights = torch.randn(draws, 3, 16, generator=torch.Generator().manual_seed(1))
        self.number_of_draws = draws
        self.cost_of_all_draws = float(draws)
        self.noise = noise

    def forward(self, images: Tensor) -> Tensor:
        rows = torch.arange(len(images))
        return self.all_draws(images)[torch.randint(self.number_of_draws, (len(images),)), rows]

    def all_draws(self, images: Tensor) -> Tensor:
        logits = torch.einsum("dkp,np->dnk", self.weights, images.flatten(1))
        return logits + self.noise * torch.randn_like(logits)


def test_the_source_of_a_model_that_counts_its_draws_is_exact() -> None:
    """With ``auto``, the gradient of a model with four channels is the mean of the four gradients."""
    model = Channels(4)
    labels = torch.tensor([0, 1, 2])
    logits, gradient = MeasuredModel(model, IMAGES).source("auto").gradient(IMAGES, labels, margin)
    assert torch.equal(logits, model.all_draws(IMAGES))
    label_index, best = labels.expand(4, -1), logits.scatter(2, labels.expand(4, -1)[:, :, None], -torch.inf).argmax(2)
    draws = torch.arange(4)[:, None]
    mean = (model.weights[draws, label_index] - model.weights[draws, best]).mean(0)
    torch.testing.assert_close(gradient.flatten(1), mean)


@pytest.mark.parametrize(
    ("model", "draws", "exhaustive"),
    [(nn.Flatten(), 1, True), (Channels(4), 4, True), (Channels(12), 10, False), (Channels(4, noise=1.0), 10, False)],
    ids=["deterministic", "few", "many", "uncounted"],
)
def test_the_source_follows_from_what_is_measured(model: nn.Module, draws: int, exhaustive: bool) -> None:
    """One draw for a deterministic model; all draws if they are few and complete; ten draws otherwise."""
    torch.manual_seed(0)
    source = MeasuredModel(model, IMAGES).source("auto")
    assert (source.draws, source.exhaustive) == (draws, exhaustive)


@pytest.mark.parametrize(
    "model", [nn.Sequential(nn.Flatten(), nn.Dropout()), Channels(4, noise=1.0)], ids=["uncountable", "uncounted"]
)
def test_not_all_draws_of_what_cannot_count_them(model: nn.Module) -> None:
    """``exact`` is refused, also if a layer inside makes draws that the enumeration lacks."""
    torch.manual_seed(0)
    measured = MeasuredModel(model, IMAGES)
    with pytest.raises(UserError, match="eot is exact, and the draws of this model cannot be counted"):
        measured.source("exact")


def test_a_model_is_measured_once() -> None:
    """Further sources need no further passes."""
    passes: list[Any] = []
    model = nn.Flatten()
    model.register_forward_hook(lambda *_: passes.append(1))
    measured = MeasuredModel(model, IMAGES)
    measured.source("auto")
    number = len(passes)
    for _ in range(3):
        measured.source("auto")
    assert len(passes) == number > 0


class Cut(nn.Module):
    """A network whose input is clamped to [0, 1], or only from below, in all columns or in the left ones."""

    def __init__(self, network: nn.Module, upper: float | None, columns: int) -> None:
        super().__init__()
        self.network, self.most, self.columns = network, upper, columns

    def forward(self, images: Tensor) -> Tensor:
        left, right = images[..., : self.columns], images[..., self.columns :]
        logits: Tensor = self.network(torch.cat([left.clamp(0, self.most), right], dim=3))
        return logits


@pytest.mark.parametrize("columns", [1, 6])
@pytest.mark.parametrize("upper", [1, None])
def test_a_cut_of_the_input_hides_no_gradient(upper: float | None, columns: int) -> None:
    """At black and white pixels, the gradient is that of the network without the clamp."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 20), nn.Tanh(), nn.Linear(20, 5))
    images, labels = torch.rand(6, 1, 6, 6).round(), torch.arange(6) % 5
    _, expected = MeasuredModel(network, images).source(1).gradient(images, labels, margin)
    logits, gradient = MeasuredModel(Cut(network, upper, columns), images).source(1).gradient(images, labels, margin)
    torch.testing.assert_close(gradient, expected)
    torch.testing.assert_close(logits[0], network(images), rtol=0, atol=1e-4)
    assert not MeasuredModel(network, images).cut_at_edges


@pytest.mark.parametrize("noisy", [False, True])
def test_an_equal_model_is_not_measured_again(noisy: bool) -> None:
    """Whether it draws, its noise and its edges are known from the first model; a randomized model is measured each time."""
    passes: list[int] = []

    class Counting(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            passes.append(len(images))
            logits = images.flatten(1)
            return logits + torch.rand_like(logits) if noisy else logits

    images, counts, noises = torch.rand(4, 1, 2, 2), [], []
    shared: dict[Hashable, Any] = {}
    for _ in range(2):
        source = MeasuredModel(Counting(), images, shared=shared).source("auto")
        assert source.noise is not None
        noises.append(source.noise())
        source.gradient(images, torch.zeros(4, dtype=torch.int64), margin)
        counts.append(len(passes))
        passes.clear()
    assert noises[0] == noises[1]
    assert counts[1] == (counts[0] if noisy else 1)
    assert bool(shared) is not noisy

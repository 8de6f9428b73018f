from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, distributions, nn
from torch.nn import functional

from robustbench_cli.benchmarks.models.paper_cnn import PaperCNN
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses import adv_bnn as module
from robustbench_cli.defenses.adv_bnn import AdvBNN
from robustbench_cli.defenses.base.training.recipe import Recipe
from robustbench_cli.defenses.base.training.trainer import Trainer


def test_the_divergence_is_that_of_normal_distributions() -> None:
    """The sum over all weights and biases equals that of torch.distributions, and is 0 for the prior itself."""
    model = AdvBNN(sigma=0.3, decision="one-draw").protect(
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3, bias=False)), torch.rand(1, 1, 4, 4)
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "log" in name:
                parameter.add_(torch.randn_like(parameter), alpha=0.5)
    prior = distributions.Normal(0, 0.2)
    pairs = [
        (model[0].layer.weight, model[0].log_sigma),
        (model[0].layer.bias, model[0].log_bias_sigma),
        (model[2].layer.weight, model[2].log_sigma),
    ]
    expected = sum(
        distributions.kl_divergence(distributions.Normal(mean, spread.exp()), prior).sum() for mean, spread in pairs
    )
    torch.testing.assert_close(module._divergence(model, 0.2), expected)
    with torch.no_grad():
        for mean, spread in pairs:
            mean.zero_()
            spread.fill_(torch.tensor(0.2).log())
    assert module._divergence(model, 0.2).abs() < 1e-5


@torch.no_grad()
def test_weights_and_biases_are_drawn() -> None:
    """For a unit vector, the output's variance is that of one weight plus that of the bias."""
    layer = nn.Linear(5, 4)
    noisy = AdvBNN(sigma=0.2, decision="one-draw").protect(layer, torch.zeros(1, 5)).eval()
    outputs = noisy(torch.eye(5)[2].expand(20000, 5))
    deviation = 0.2 * 2**0.5
    assert ((outputs.mean(0) - layer.weight[:, 2] - layer.bias).abs() < 4 * deviation / 20000**0.5).all()
    assert ((outputs.std(0) / deviation - 1).abs() < 4 / 40000**0.5).all()


@torch.no_grad()
@pytest.mark.parametrize(
    ("model", "images"),
    [
        (PaperCNN(shape=(1, 28, 28), classes=10), torch.rand(1, 1, 28, 28)),
        (torchvision.models.resnet18(num_classes=10), torch.rand(1, 3, 32, 32)),
    ],
    ids=["paper-cnn", "resnet18"],
)
def test_without_deviations_it_is_the_model(model: nn.Module, images: Tensor) -> None:
    """With tiny standard deviations the logits equal the model's exactly; with the default they do not."""
    model.eval()
    quiet = AdvBNN(sigma=1e-30, decision="one-draw").protect(model, images[:1])
    assert torch.equal(quiet(images), model(images))
    first, second = AdvBNN(decision="one-draw").protect(model, images)(images.repeat(2, 1, 1, 1))
    assert not torch.allclose(first, second)


def test_digits_are_learned(digits: Any, network: Callable[[], nn.Module], accuracy: Callable[..., float]) -> None:
    """The accuracy is far above chance, standard deviations are learned, and a larger weight ends nearer to the prior."""
    train, test = digits
    ends = []
    for weight in (0.02, 1.0):
        torch.manual_seed(0)
        defense = AdvBNN(eps=0.02, steps=1, draws=3, kl_weight=weight)
        model = defense.protect(network(), train.images[:1])
        defense.fit(model, Trainer(train, Recipe(epochs=6), seed=0, device=torch.device("cpu")))
        ends.append((accuracy(model, test), module._divergence(model, 0.1).item()))
        deviations = [value.exp() for name, value in model.named_parameters() if name.endswith("log_sigma")]
        assert all((value - 0.02).abs().mean() > 1e-4 for value in deviations)
    assert ends[0][0] > 0.6
    assert ends[1][1] < ends[0][1]


def test_the_last_iterate_is_trained_on() -> None:
    """The loss equals the authors' loop: signed steps from the image, a new draw in each, last iterate."""
    torch.manual_seed(3)
    base, images, labels = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), torch.rand(7, 1, 4, 4), torch.arange(7) % 3
    defense = AdvBNN(eps=0.2, steps=4, step_size=0.07, sigma=0.5, kl_weight=2)
    model = defense.randomize(base, images[:1])
    losses: list[Any] = []

    class Fitted:
        train_indices = range(100)

        def fit(self, network: nn.Module, *, loss: Any, **_: Any) -> None:
            losses.append(loss)
            torch.manual_seed(5)
            losses.append(loss(network, images, labels))
            torch.manual_seed(5)
            losses.append(authors(network))

    def authors(network: nn.Module) -> Tensor:
        current = images
        current = current.clamp(0, 1)
        for _ in range(4):
            leaf = current.clone().requires_grad_()
            (slope,) = torch.autograd.grad(functional.cross_entropy(network(leaf), labels), leaf)
            current = leaf.detach() + 0.07 * slope.sign()
            current = torch.minimum(torch.maximum(current, images - 0.2), images + 0.2).clamp(0, 1)
        return functional.cross_entropy(network(current), labels) + 2 / 100 * module._divergence(network, 0.1)

    defense.train_draws(model, Fitted())  # type: ignore[arg-type]
    _, ours, theirs = losses
    torch.testing.assert_close(ours, theirs)


def test_bad_parameters() -> None:
    """A standard deviation of 0 is a usage error."""
    with pytest.raises(UserError, match=r"adv-bnn.sigma is 0: input should be greater than 0"):
        AdvBNN.from_parameters({"sigma": 0}, name="adv-bnn")

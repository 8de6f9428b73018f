from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.benchmarks.models.paper_cnn import PaperCNN
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.training.recipe import Recipe
from robustbench_cli.defenses.base.training.trainer import Trainer
from robustbench_cli.defenses.none import Undefended
from robustbench_cli.defenses.pni import PNI


@torch.no_grad()
def test_the_noise_is_in_proportion_to_the_weights() -> None:
    """For a unit vector the output is a column of weights with alpha times the standard deviation of all weights."""
    layer = nn.Linear(5, 4, bias=False)
    noisy = PNI(alpha=0.5).protect(layer, torch.zeros(1, 5)).eval()
    outputs = noisy(torch.eye(5)[2].expand(20000, 5))
    deviation = 0.5 * layer.weight.std()
    assert ((outputs.mean(0) - layer.weight[:, 2]).abs() < 4 * deviation / 20000**0.5).all()
    # The relative standard error of a standard deviation of n normal numbers is 1 / sqrt(2 n).
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
def test_without_noise_it_is_the_model(model: nn.Module, images: Tensor) -> None:
    """With alpha 0 the logits equal the model's exactly; with the default it is randomized."""
    model.eval()
    assert torch.equal(PNI(alpha=0).protect(model, images[:1])(images), model(images))
    first, second = PNI().protect(model, images)(images.repeat(2, 1, 1, 1))
    assert not torch.allclose(first, second)


@pytest.mark.parametrize(("granularity", "count"), [("layer", 1), ("channel", 7), ("element", 35)])
def test_granularity(granularity: str, count: int) -> None:
    """There is one alpha per layer, per output or per weight, and each has a gradient."""
    noisy = PNI.from_parameters({"granularity": granularity}, name="pni").protect(nn.Linear(5, 7), torch.zeros(1, 5))
    alpha = dict(noisy.named_parameters())["alpha"]
    assert alpha.numel() == count
    (gradient,) = torch.autograd.grad(noisy(torch.rand(3, 5)).square().sum(), alpha)
    assert (gradient != 0).all()


def test_training_makes_it_robust(digits: Any, network: Callable[[], nn.Module]) -> None:
    """It learns alpha, and PGD leaves a higher accuracy than on an undefended network."""
    train, test = digits
    recipe, left = Recipe(epochs=10), []
    for defense in (PNI(eps=0.1, steps=2), Undefended()):
        torch.manual_seed(0)
        model = defense.protect(network(), train.images[:1])
        defense.fit(model, Trainer(train, recipe, seed=0, device=torch.device("cpu")))
        images, labels = test.images[:200], test.labels[:200]
        perturbed = PGD(steps=10)(model, images, labels, eps=0.15)
        left.append((model(perturbed).argmax(1) == labels).double().mean().item())
        if isinstance(defense, PNI):
            strengths = [value.item() for name, value in model.named_parameters() if name.endswith("alpha")]
    assert left[0] > left[1] + 0.1
    assert len(strengths) == 5
    assert all(abs(strength) < 0.25 for strength in strengths)


def test_the_last_iterate_is_trained_on() -> None:
    """The loss equals the authors' loop: signed steps from a uniform start, a new draw in each, last iterate."""
    torch.manual_seed(3)
    base, images, labels = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), torch.rand(7, 1, 4, 4), torch.arange(7) % 3
    defense = PNI(eps=0.2, steps=4, step_size=0.07, alpha=2)
    model = defense.randomize(base, images[:1])
    losses: list[Any] = []

    class Fitted:
        training = range(100)

        def fit(self, network: nn.Module, *, loss: Any, **_: Any) -> None:
            losses.append(loss)
            torch.manual_seed(5)
            losses.append(loss(network, images, labels))
            torch.manual_seed(5)
            losses.append(authors(network))

    def authors(network: nn.Module) -> Tensor:
        clean = network(images)
        current = images + torch.empty_like(images).uniform_(-0.2, 0.2)
        current = current.clamp(0, 1)
        for _ in range(4):
            leaf = current.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(functional.cross_entropy(network(leaf), clean.argmax(1)), leaf)
            current = leaf.detach() + 0.07 * gradient.sign()
            current = torch.minimum(torch.maximum(current, images - 0.2), images + 0.2).clamp(0, 1)
        return 0.5 * functional.cross_entropy(clean, labels) + 0.5 * functional.cross_entropy(network(current), labels)

    defense.train_draws(model, Fitted())  # type: ignore[arg-type]
    _, ours, theirs = losses
    torch.testing.assert_close(ours, theirs)


def test_bad_parameters() -> None:
    """A negative alpha and an unknown granularity are usage errors."""
    with pytest.raises(UserError, match=r"pni.alpha is -1: input should be greater than or equal to 0"):
        PNI.from_parameters({"alpha": -1}, name="pni")
    with pytest.raises(UserError, match=r"pni.granularity is 'row': input should be 'layer', 'channel' or 'element'"):
        PNI.from_parameters({"granularity": "row"}, name="pni")

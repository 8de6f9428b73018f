from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torchvision.models import resnet18, vgg16

from robustbench_cli.benchmarks.checkpoints.defended_model import model_size
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.defense import defend
from robustbench_cli.defenses.base.surgery.pruning import PrunedNetwork, prunable_weights
from robustbench_cli.defenses.deadwooding import Deadwooding

IMAGE = torch.zeros(1, 1, 8, 8)


def small() -> nn.Module:
    """A network of 772 weights, on which a training takes little time."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 16), nn.ReLU(), nn.Linear(16, 10)
    )


def test_the_multiplier_brings_weights_to_zero(digits: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The violation falls in every round, pruning then costs less, and the sparsity is exact until the end."""
    train, test = digits
    violations: list[float] = []
    costs: list[float] = []
    begin, prune = PrunedNetwork.begin_round, PrunedNetwork.prune

    def begin_round(model: PrunedNetwork, count: int, rho: float) -> None:
        begin(model, count, rho)
        violations.append(float(model.violation.detach()))

    @torch.no_grad()
    def measured(model: PrunedNetwork, count: int) -> None:
        before = functional.cross_entropy(model(test.images), test.labels)
        prune(model, count)
        costs.append(float(functional.cross_entropy(model(test.images), test.labels) - before))

    monkeypatch.setattr(PrunedNetwork, "begin_round", begin_round)
    monkeypatch.setattr(PrunedNetwork, "prune", measured)
    for rho in (0.0, 1.0):
        violations.clear()
        defense = Deadwooding(sparsity=0.8, rho=rho, steps=1, eps=0.05, warmup=0.3, tuning=0.4)
        torch.manual_seed(0)
        model = defend(small(), defense, train, epochs=16, epoch_fraction=0.2, batch_size=32, lr=0.01)
    assert len(violations) == 7
    assert violations == sorted(violations, reverse=True)
    assert violations[-1] < 0.2 * violations[0]
    assert abs(costs[1]) < 0.2 * costs[0]
    size = model_size(model, IMAGE)
    assert size.parameters == 772 + 30
    assert size.nonzero == 772 + 30 - round(0.8 * 772)
    with torch.no_grad():
        assert float((model(test.images).argmax(1) == test.labels).double().mean()) > 0.4


def test_the_loss_after_the_pruning_is_that_of_the_formula() -> None:
    """With torch's divergence, between the dense network on images and the pruned one on perturbed images."""
    defense = Deadwooding(distillation=0.3, temperature=2, eps=0.1, steps=1)
    model = defense.protect(small(), IMAGE)
    assert isinstance(model, PrunedNetwork)
    assert model.teacher is not None
    model.prune(500)
    images, labels = torch.rand(6, 1, 8, 8), torch.arange(6)
    torch.manual_seed(0)
    loss = defense.distilled_loss(model, model.network, images, labels)
    torch.manual_seed(0)
    logits = model.network(defense.perturb(model.network, images, labels))
    soft, hard = model.teacher(images), functional.cross_entropy(logits, labels)
    divergence = functional.kl_div(
        (logits / 2).log_softmax(1), (soft / 2).log_softmax(1), log_target=True, reduction="batchmean"
    )
    torch.testing.assert_close(loss, 0.7 * hard + 0.3 * 4 * divergence)


@pytest.mark.parametrize("stop", [2, 3, 4, 6])
def test_a_resumed_training_ends_with_the_same_weights(assert_resumes: Callable[..., None], stop: int) -> None:
    """Whether it stops when the teacher is dense, in a round, just before the pruning, or at the end."""
    assert_resumes(Deadwooding(steps=1, eps=0.05, warmup=0.5, tuning=0.4, sparsity=0.7), small, stop)


@pytest.mark.parametrize("average", [{"ema": 0.9}, {"held_out": 0.05, "held_out_steps": 1}])
def test_other_final_weights_are_pruned_too(digits: Any, average: dict[str, float]) -> None:
    """An average of the weights, and those of the best epoch."""
    train, _ = digits
    defense = Deadwooding(steps=1, eps=0.05, sparsity=0.5)
    model = defend(small(), defense, train, epochs=4, epoch_fraction=0.1, **average)
    assert sum(int((weight == 0).sum()) for weight in prunable_weights(model)) == 386


@pytest.mark.parametrize(("build", "layers"), [(resnet18, 21), (vgg16, 16)])
def test_large_networks(build: Callable[[], nn.Module], layers: int) -> None:
    """The weights of all convolutions and fully connected layers count; nothing is computed."""
    with torch.device("meta"):
        model = build()
        protected = Deadwooding().protect(model, torch.zeros(1, 3, 32, 32))
        assert len(prunable_weights(protected)) == layers
        plain = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
        assert [weight.shape for weight in prunable_weights(protected)] == [module.weight.shape for module in plain]
        assert protected.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 1000)


@pytest.mark.parametrize("sparsity", [0, 1])
def test_all_or_nothing_is_no_sparsity(sparsity: float) -> None:
    with pytest.raises(UserError, match=r"deadwooding.*sparsity"):
        Deadwooding.from_parameters({"sparsity": sparsity}, name="deadwooding")


def test_what_cannot_be_done_is_said() -> None:
    """In one line."""
    with pytest.raises(UserError, match=r"^deadwooding prunes weights, and Flatten has none to train$"):
        Deadwooding().protect(nn.Flatten(), IMAGE)
    for sparsity in (0.999, 1e-5):
        with pytest.raises(
            UserError,
            match=rf"^deadwooding.sparsity={sparsity:g} is out of reach: .* of 772 weights, .* 3 layers stays; give 0.001 to 0.9961$",
        ):
            Deadwooding(sparsity=sparsity).protect(small(), IMAGE)

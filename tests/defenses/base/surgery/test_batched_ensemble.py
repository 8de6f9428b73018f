from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from robustbench_cli.attacks.base.models.freezing import frozen
from robustbench_cli.core.errors import Notice
from robustbench_cli.defenses.base.surgery.batched_ensemble import BatchedEnsemble, OwnImages, ensemble_cross_entropy
from robustbench_cli.defenses.base.training.recipe import Recipe
from robustbench_cli.defenses.base.training.trainer import Trainer

CPU = torch.device("cpu")


def without_dropout(network: nn.Module) -> nn.Module:
    for layer in network.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    return network


def fresh(network: Callable[[], nn.Module], count: int) -> list[nn.Module]:
    torch.manual_seed(5)
    return [without_dropout(network()) for _ in range(count)]


def tensors(network: nn.Module) -> list[Tensor]:
    return list(network.state_dict().values())


@pytest.mark.parametrize("vectorized", [False, True])
@pytest.mark.parametrize(("optimizer", "architecture"), [("adam", "network"), ("sgd", "normed")])
def test_each_learns_as_it_would_alone(
    digits: Any, request: pytest.FixtureRequest, optimizer: str, architecture: str, vectorized: bool
) -> None:
    """Three networks trained together for two epochs have the weights and batch statistics of three trained alone.

    The biases before batch norm have no gradient except rounding errors. Adam would turn these into full steps.
    """
    train, _ = digits
    build = request.getfixturevalue(architecture)
    recipe = Recipe.from_parameters({"epochs": 2, "optimizer": optimizer, "batch_size": 256}, name="train")
    alone = fresh(build, 3)
    for network in alone:
        Trainer(train, recipe, seed=1, device=CPU).fit(network, name="block 1")
    together = fresh(build, 3)
    stacked = BatchedEnsemble(together, vectorized=vectorized)
    Trainer(train, recipe, seed=1, device=CPU).fit(
        stacked, name="block 1", loss=ensemble_cross_entropy, on_finish=partial(stacked.copy_to, together)
    )
    assert not torch.equal(tensors(together[0])[0], tensors(together[1])[0])
    for network, expected in zip(together, alone, strict=True):
        for tensor, expected_tensor in zip(tensors(network), tensors(expected), strict=True):
            torch.testing.assert_close(tensor, expected_tensor, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("vectorized", [False, True])
def test_logits(normed: Callable[[], nn.Module], vectorized: bool) -> None:
    """In train() mode the output is each network's logits, in eval() mode the log of their mean softmax."""
    networks = fresh(normed, 3)
    stacked = BatchedEnsemble(networks, vectorized=vectorized)
    rows = torch.rand(5, 1, 8, 8)
    for network in networks:
        network.train()
    torch.testing.assert_close(stacked.train()(rows), torch.stack([network(rows) for network in networks]))
    for network in networks:
        network.eval()
    torch.testing.assert_close(
        stacked.eval()(rows).exp(), torch.stack([network(rows).softmax(1) for network in networks]).mean(0)
    )
    assert all(parameter.requires_grad for parameter in stacked.parameters())


@pytest.mark.parametrize("vectorized", [False, True])
def test_networks_draw_separately(vectorized: bool) -> None:
    """Dropout drops different activations in two equal networks."""
    dropping = nn.Sequential(nn.Linear(100, 100), nn.Dropout(0.5))
    stacked = BatchedEnsemble([dropping, copy.deepcopy(dropping)], vectorized=vectorized).train()
    first, second = stacked(torch.ones(4, 100))
    assert not torch.equal(first == 0, second == 0)


@pytest.mark.parametrize("vectorized", [False, True])
def test_freezing_restores_train_mode(normed: Callable[[], nn.Module], vectorized: bool) -> None:
    """After ``frozen`` the networks use batch statistics again."""
    stacked = BatchedEnsemble(fresh(normed, 2), vectorized=vectorized).train()
    rows = torch.rand(5, 1, 8, 8)
    expected = stacked(rows)
    with frozen(stacked):
        assert stacked(rows).shape == (5, 10)
    torch.testing.assert_close(stacked(rows), expected)


class Counting(nn.Module):
    """Replaces its buffer by a new tensor in each pass, instead of changing it in place."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, rows: Tensor) -> Tensor:
        if self.training:
            self.mean = 0.5 * self.mean + 0.5 * rows.detach().mean(0)
        return rows - self.mean


@pytest.mark.parametrize("vectorized", [False, True])
def test_buffers_that_are_replaced(vectorized: bool) -> None:
    """A layer that replaces its buffer keeps the new value, as it does alone."""
    torch.manual_seed(0)
    networks = [nn.Sequential(nn.Linear(3, 4), Counting()).train() for _ in range(2)]
    stacked = BatchedEnsemble(networks, vectorized=vectorized).train()
    for rows in torch.rand(3, 7, 3):
        torch.testing.assert_close(stacked(rows), torch.stack([network(rows) for network in networks]))
    copies = [nn.Sequential(nn.Linear(3, 4), Counting()) for _ in range(2)]
    stacked.copy_to(copies)
    for copied, network in zip(copies, networks, strict=True):
        torch.testing.assert_close(tensors(copied), tensors(network))


def test_fallback_from_vmap_is_reported_once() -> None:
    """``vmap`` refuses stochastic depth. The networks then run one after the other, and a notice gives the reason once."""
    networks = [nn.Sequential(nn.Linear(3, 4), StochasticDepth(0.5, "row")) for _ in range(2)]
    stacked = BatchedEnsemble(networks, vectorized=True).train()
    expected = BatchedEnsemble(networks, vectorized=False).train()
    rows = torch.rand(7, 3)
    torch.manual_seed(0)
    with pytest.warns(Notice, match=r"^2 networks are trained one after the other .*\(RuntimeError: vmap: ") as notices:
        logits, _ = stacked(rows), stacked(rows)
    assert len(notices) == 1
    torch.manual_seed(0)
    torch.testing.assert_close(logits, expected(rows))


@pytest.mark.parametrize("vectorized", [False, True])
def test_too_little_memory(vectorized: bool) -> None:
    """An out-of-memory error is raised at once, without a second try one network after the other."""
    attempts: list[int] = []

    class Large(nn.Linear):
        def forward(self, rows: Tensor) -> Tensor:
            attempts.append(len(rows))
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        BatchedEnsemble([Large(3, 4), Large(3, 4)], vectorized=vectorized)(torch.rand(7, 3))
    assert attempts == [7]


def test_channels_last_convolutions() -> None:
    """If a convolution's stacked weights are channels-last, so is each network's part."""
    networks = [nn.Conv2d(4, 6, 3) for _ in range(2)]
    stacked = copy.deepcopy(BatchedEnsemble(networks, vectorized=False)).to(memory_format=torch.channels_last)
    weight = next(stacked.parameters())
    assert weight.shape == (12, 4, 3, 3)
    assert weight.chunk(2)[1].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("vectorized", [False, True])
@pytest.mark.parametrize("architecture", ["network", "normed"])
@pytest.mark.parametrize("training", [False, True])
def test_networks_on_images_of_their_own(
    request: pytest.FixtureRequest, vectorized: bool, architecture: str, training: bool
) -> None:
    """Each part of the batch goes through its own network, in both modes, and only there has it a gradient."""
    networks = [network.train(training) for network in fresh(request.getfixturevalue(architecture), 3)]
    sequence = nn.Sequential(nn.ReLU(), BatchedEnsemble(networks, vectorized=vectorized)).train(training)
    images = torch.rand(3, 7, 1, 8, 8).flatten(0, 1).requires_grad_()
    logits = OwnImages(sequence)(images)
    expected = torch.cat([network(part) for network, part in zip(networks, images.split(7), strict=True)])
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    (slope,) = torch.autograd.grad(logits[7:14].sum(), images)
    assert slope[7:14].any()
    assert not slope[:7].any()
    assert not slope[14:].any()

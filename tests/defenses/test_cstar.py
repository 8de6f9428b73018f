from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import resnet18, vgg16

from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.defense import defend
from robustbench_cli.defenses.base.surgery.tucker import TuckerConvolution, mode_bases
from robustbench_cli.defenses.cstar import CSTAR, global_ranks, tucker_weights

SHAPES = [(16, 16, 9), (32, 16, 9)]


def layers(model: nn.Module) -> list[TuckerConvolution]:
    return [layer for layer in model.modules() if isinstance(layer, TuckerConvolution)]


def convolutional() -> nn.Module:
    """A network with two convolutions to decompose, on which a training takes little time."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.ReLU(),
        nn.Conv2d(4, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8, 10),
    )


@pytest.mark.parametrize("compression", [2, 4, 10, 16])
def test_the_ranks_are_within_the_budget(compression: float) -> None:
    """By the number of parameters of the convolutions that are built, and one direction more would be too much."""
    convolutions = [nn.Conv2d(inputs, outputs, 3, bias=False) for outputs, inputs, _ in SHAPES]
    made = [TuckerConvolution(layer) for layer in convolutions]
    ranks = CSTAR(compression=compression).ranks(made)
    budget = sum(layer.weight.numel() for layer in convolutions) / compression
    for layer, pair in zip(made, ranks, strict=True):
        layer.compress(pair)
    assert sum(parameter.numel() for layer in made for parameter in layer.parameters()) <= budget
    for changed in range(2):
        for mode in range(2):
            more = [list(pair) for pair in ranks]
            more[changed][mode] += 1
            total = sum(tucker_weights(shape, (pair[0], pair[1])) for shape, pair in zip(SHAPES, more, strict=True))
            assert total > budget


def test_the_ranks_are_those_of_the_weights() -> None:
    """Where the budget allows them, and no more; a layer with a flat spectrum gets more than one with a steep one."""
    core = torch.randn(3, 2, 3, 3)
    low = torch.einsum("or,rskl,is->oikl", torch.randn(16, 3), core, torch.randn(16, 2))
    energies = [(outputs[0], inputs[0]) for outputs, inputs in [mode_bases(low), mode_bases(torch.randn(32, 16, 3, 3))]]
    first, second = global_ranks(SHAPES, energies, 10_000)
    assert first == (3, 2)
    assert tucker_weights(SHAPES[1], second) <= 32 * 16 * 9
    assert min(second) > 8
    tight = global_ranks(SHAPES, energies, 400)
    assert sum(map(sum, tight)) < 20


def test_admm_brings_the_weights_to_low_rank(digits: Any) -> None:
    """Without it the decomposition costs more; afterwards the network has fewer weights, and learns."""
    train, test = digits
    errors, compress = [], TuckerConvolution.compress

    def measured(layer: TuckerConvolution, ranks: tuple[int, int]) -> None:
        assert layer.dense is not None
        unfolded = layer.dense.weight.detach().flatten(1).numpy()
        values = np.linalg.svd(unfolded, compute_uv=False) ** 2
        errors.append(values[ranks[0] :].sum() / values.sum())
        compress(layer, ranks)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TuckerConvolution, "compress", measured)
        for rho in (0.0, 0.1):
            defense = CSTAR(compression=2, rho=rho, warmup=0.4, tuning=0.2, steps=1, eps=0.05)
            torch.manual_seed(0)
            recipe: dict[str, Any] = {"epochs": 20, "epoch_fraction": 0.2, "batch_size": 32, "lr": 0.01}
            model = defend(convolutional(), defense, train, **recipe)
    assert sum(errors[2:]) < 0.7 * sum(errors[:2])
    assert sum(layer.layers[1].weight.numel() for layer in layers(model)) < (4 + 8) * 8 * 9 / 2
    with torch.no_grad():
        assert float((model(test.images).argmax(1) == test.labels).double().mean()) > 0.5


@pytest.mark.parametrize("stop", [2, 4, 5, 6])
def test_a_resumed_training_ends_with_the_same_weights(assert_resumes: Callable[..., None], stop: int) -> None:
    """Whether it stops with ADMM, just before the decomposition, or after it."""
    assert_resumes(CSTAR(compression=3, steps=1, eps=0.05, warmup=0.2, tuning=0.4), convolutional, stop)


@pytest.mark.parametrize(("build", "count"), [(resnet18, 16), (vgg16, 12)])
def test_large_networks(build: Callable[[], nn.Module], count: int) -> None:
    """All convolutions but the first and the 1 x 1 ones are decomposed; nothing is computed."""
    with torch.device("meta"):
        model = build()
        images = torch.zeros(2, 3, 32, 32)
        protected = CSTAR(compression=16).protect(model, images[:1]).eval()
        assert len(layers(protected)) == count
        for layer in layers(protected):
            layer.compress((4, 3))
        assert protected(images).shape == (2, 1000)


def test_what_cannot_be_done_is_said() -> None:
    """In one line."""
    example = torch.zeros(1, 2, 9, 9)
    grouped = nn.Sequential(nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3, groups=2), nn.Conv2d(2, 2, 1))
    with pytest.raises(UserError, match="cstar replaces convolutions that are larger than 1 x 1, without groups"):
        CSTAR().protect(grouped, example)
    small = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3))
    with pytest.raises(
        UserError, match=r"^cstar.compression=10 is out of reach: .* 144 weights, and 17 at rank 1; give at most 8.4$"
    ):
        CSTAR(compression=10).protect(small, example)

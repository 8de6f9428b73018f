from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.models.freezing import frozen, move, override_layers
from robustbench_cli.attacks.base.models.frozen_draw import FrozenDraw
from robustbench_cli.attacks.base.models.passes import BatchSize
from robustbench_cli.attacks.base.models.probes import cut_at_edges, is_randomized
from robustbench_cli.core.errors import UserError

IMAGES = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))


class Switch(nn.Module):
    """Each row, or the whole batch, draws one of two linear models, which are ``apart`` from each other."""

    def __init__(
        self, *, apart: float = 1.0, scale: float = 1.0, shift: float = 0.0, whole_batch: bool = False
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 16, generator=torch.Generator().manual_seed(1)))
        self.apart, self.scale, self.shift, self.whole_batch = apart, scale, shift, whole_batch

    def forward(self, images: Tensor) -> Tensor:
        drawn = torch.rand(1 if self.whole_batch else len(images), 1).round()
        logits = images.flatten(1) @ self.weight.T * (1 + self.apart * drawn)
        return logits * self.scale + self.shift


@pytest.mark.parametrize("images", [IMAGES[:1], IMAGES[:2], IMAGES])
@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("apart", [1.0, 0.01])
def test_a_switch_between_two_is_noticed(images: Tensor, scale: float, apart: float) -> None:
    """Even one image and two channels, whatever the range of the logits; never missed in 200 attempts."""
    assert all(is_randomized(Switch(apart=apart, scale=scale), images) for _ in range(200))


def test_a_draw_for_the_whole_batch_is_noticed() -> None:
    """Of two paths that a whole pass shares, one is overlooked with a chance of 1e-9: never in 200 attempts."""
    assert all(is_randomized(Switch(whole_batch=True), IMAGES) for _ in range(200))


def test_a_draw_from_a_generator_of_the_models_own_is_noticed() -> None:
    """Python's and NumPy's, and one that nobody else can reach, of which one is overlooked in 500."""
    choices = [random.random, np.random.random, np.random.default_rng(0).random]
    for choose in choices:
        models = [lambda images, choose=choose: images.flatten(1) * (1 + (choose() < 0.5)) for _ in range(40)]
        assert sum(is_randomized(model, IMAGES) for model in models) >= 39


@pytest.mark.parametrize("batch_size", [None, 1, 5])
def test_no_more_rows_are_asked_about_than_fit_a_batch(batch_size: int | None) -> None:
    """Neither to measure whether a model draws, nor where a gradient is cut off."""
    rows: list[int] = []

    class Counting(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            rows.append(len(images))
            return images.flatten(1)

    assert not is_randomized(Counting(), IMAGES, size=BatchSize(batch_size))
    assert not cut_at_edges(Counting(), IMAGES, size=BatchSize(batch_size))
    assert max(rows) <= (batch_size or 18)


@pytest.mark.parametrize("shift", [0.0, 1e4])
@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_a_deterministic_model_is_not_taken_for_randomized(scale: float, shift: float) -> None:
    """Rounding is no randomness, not even that of logits with a large part in common."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 10)).eval()
    assert not is_randomized(lambda images: network(images) * scale + shift * scale, IMAGES)  # type: ignore[arg-type]
    assert not is_randomized(Switch(apart=1e-7, scale=scale, shift=shift * scale), IMAGES)


def test_a_frozen_model_is_still_and_comes_back() -> None:
    """Inside, every module is in ``eval()`` and no parameter needs a gradient; outside, all is as it was, errors or not."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout(), nn.Linear(2, 2)))
    model[1].eval()
    model[1][0].train()
    model[0].weight.requires_grad_(False)
    modes = [module.training for module in model.modules()]
    needs = [parameter.requires_grad for parameter in model.parameters()]
    with pytest.raises(KeyError), frozen(model) as still:
        assert still is model
        assert not any(module.training for module in model.modules())
        assert not any(parameter.requires_grad for parameter in model.parameters())
        raise KeyError
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == needs


def test_a_model_that_is_moved_computes_the_same_from_weights_channels_last() -> None:
    """It is moved in place, so that an optimizer's parameters stay its own, and no number of it changes."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(32, 10))
    parameters, before = list(model.parameters()), copy.deepcopy(model)
    move(model, torch.device("cpu"), torch.rand(2, 3, 4, 4))
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert all(now is parameter for now, parameter in zip(model.parameters(), parameters, strict=True))
    assert all(torch.equal(now, then) for now, then in zip(model.parameters(), before.parameters(), strict=True))


def test_layers_of_a_kind_are_otherwise_for_a_while() -> None:
    """All of the kind, at any depth, and no others; within another such change each goes back to what it was, errors or not."""
    model = nn.Sequential(nn.Dropout(0.1), nn.Sequential(nn.Dropout(0.2), nn.ReLU()), nn.BatchNorm1d(2))

    def rates() -> list[float]:
        return [module.p for module in model.modules() if isinstance(module, nn.Dropout)]

    with override_layers(model, nn.Dropout, p=0.5):
        assert rates() == [0.5, 0.5]
        with pytest.raises(KeyError), override_layers(model[1], nn.Dropout, p=0.9, inplace=True):
            assert rates() == [0.5, 0.9]
            assert model[1][0].inplace
            assert not model[1][1].inplace
            raise KeyError
        assert rates() == [0.5, 0.5]
        assert not model[1][0].inplace
    assert rates() == [0.1, 0.2]


def test_what_cannot_draw_once_is_told_in_one_line() -> None:
    """A model that leaves torch, as a codec does, has operations that vmap cannot run."""

    class Codec(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.from_numpy(images.numpy()).flatten(1)

    with pytest.raises(UserError, match=r"^one frozen draw needs a model that torch.func.vmap can run.*RuntimeError"):
        FrozenDraw(Codec(), seed=0)(IMAGES)

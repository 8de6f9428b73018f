from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.models.freezing import copy_of, frozen, frozen_on, move, override_layers


def test_a_copy_shares_no_state_or_is_none() -> None:
    """What a copy learns, the model does not know; a model that raises or gives itself has no copy."""

    class Shared(nn.Identity):
        def __deepcopy__(self, memo: object) -> Shared:
            return self

    class Refusing(nn.Identity):
        def __deepcopy__(self, memo: object) -> Refusing:
            raise TypeError

    model = nn.BatchNorm1d(2)
    copied = copy_of(model)
    assert copied is not None
    copied(torch.rand(4, 2))
    assert copied.num_batches_tracked == 1
    assert model.num_batches_tracked == 0
    assert copy_of(Shared()) is None
    assert copy_of(Refusing()) is None


def test_a_frozen_model_is_still_and_comes_back() -> None:
    """Inside, all modules are in ``eval()`` mode and no parameter needs a gradient; afterwards both are restored, also after an error."""
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
    """The move is in place, so an optimizer keeps its parameters, and their values do not change."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(32, 10))
    parameters, before = list(model.parameters()), copy.deepcopy(model)
    move(model, torch.device("cpu"), torch.rand(2, 3, 4, 4))
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert all(now is parameter for now, parameter in zip(model.parameters(), parameters, strict=True))
    assert all(torch.equal(now, then) for now, then in zip(model.parameters(), before.parameters(), strict=True))


def test_layers_of_a_kind_are_otherwise_for_a_while() -> None:
    """All layers of the class change, at any depth; nested overrides are undone in order, also after an error."""
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


class Views(nn.Module):
    """A convolution whose output is reshaped by ``view``, which fails in the channels-last layout."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 8, 3)
        self.register_buffer("count", torch.zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layer(images)
        return logits.view(len(images), -1)


def test_a_model_that_needs_its_own_layout_keeps_it() -> None:
    """The trial pass in channels-last fails, and the weights return to their own layout."""
    model = Views()
    assert move(model, torch.device("cpu"), torch.rand(2, 3, 4, 4)) == torch.contiguous_format
    assert model.layer.weight.is_contiguous()


def test_a_model_comes_back_from_an_attack_with_its_own_tensors() -> None:
    """Layout, storage, mode and buffers are restored, even if the attack replaces a buffer and fails."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(32, 10))
    weight, mean = model[0].weight.data, model[1].running_mean
    with pytest.raises(KeyError), frozen_on(model, torch.device("cpu"), torch.rand(2, 3, 4, 4)) as layout:
        assert layout == torch.channels_last
        assert not model.training
        model[1].running_mean = torch.ones(8)
        raise KeyError
    assert model.training
    assert model[0].weight.data_ptr() == weight.data_ptr()
    assert model[0].weight.is_contiguous()
    assert model[1].running_mean is mean

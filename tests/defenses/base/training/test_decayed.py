from __future__ import annotations

import torch
from torch import nn

from robustbench_cli.defenses.base.surgery.batched_ensemble import BatchedEnsemble
from robustbench_cli.defenses.base.training.decayed import is_norm, split_by_decay


class OwnNorm(nn.Module):
    """A norm of a user, with a scale of two dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4, 1))


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), OwnNorm(), nn.Flatten(), nn.Linear(4, 2))


def names(model: nn.Module, parameters: list[nn.Parameter]) -> list[str]:
    by_identity = {parameter: name for name, parameter in model.named_parameters()}
    return [by_identity[parameter] for parameter in parameters]


def test_the_parameters_that_decay() -> None:
    """All; all but those of norms; only weights: in the network's order, and each parameter once."""
    model = network()
    everything = [name for name, _ in model.named_parameters()]
    norms = {"1.weight", "1.bias", "2.scale"}
    biases = {"0.bias", "4.bias"}
    for decayed, left_out in (("all", set()), ("weights-and-biases", norms), ("weights", norms | biases)):
        first, second = split_by_decay(model, decayed)  # type: ignore[arg-type]
        assert names(model, first) == [name for name in everything if name not in left_out]
        assert names(model, second) == [name for name in everything if name in left_out]


def test_frozen_parameters_are_in_no_part() -> None:
    """The optimizer gets only what trains."""
    model = network()
    model[0].requires_grad_(False)
    first, second = split_by_decay(model, "weights")
    assert names(model, first) == ["4.weight"]
    assert set(names(model, second)) == {"1.weight", "1.bias", "2.scale", "4.bias"}


def test_an_ensemble_knows_the_norms_of_its_networks() -> None:
    """Its joined tensors have no names of layers. Their numbers of elements are three times those of one network."""
    ensemble = BatchedEnsemble([network() for _ in range(3)], vectorized=False)
    for decayed in ("weights-and-biases", "weights"):
        alone = split_by_decay(network(), decayed)  # type: ignore[arg-type]
        joined = split_by_decay(ensemble, decayed)  # type: ignore[arg-type]
        for of_one, of_three in zip(alone, joined, strict=True):
            assert [3 * tensor.numel() for tensor in of_one] == [tensor.numel() for tensor in of_three]


def test_norms_are_known_by_their_class() -> None:
    """Those of torch, classes that derive from them, and classes that are named as norms; no other layer."""
    derived = type("Activated", (nn.BatchNorm2d,), {})
    norms = (
        nn.BatchNorm1d(2),
        nn.SyncBatchNorm(2),
        nn.LayerNorm(2),
        nn.GroupNorm(1, 2),
        nn.InstanceNorm3d(2),
        OwnNorm(),
    )
    assert all(map(is_norm, (*norms, nn.RMSNorm(2), derived(2))))
    assert not any(map(is_norm, (nn.Conv2d(1, 1, 1), nn.Linear(1, 1), nn.ReLU(), nn.PReLU(), nn.Sequential(*norms))))

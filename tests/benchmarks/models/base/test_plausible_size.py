from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from robustbench_cli.benchmarks.models.base.plausible_size import require_plausible_size
from robustbench_cli.benchmarks.models.base.timm_network import TimmNetwork
from robustbench_cli.core.errors import UserError

FILE = Path("model.safetensors")


@pytest.mark.parametrize(
    ("name", "arguments", "classes"),
    [
        ("test_vit", {}, 10**6),
        ("test_vit", {"embed_dim": 8192, "num_heads": 2}, 10),
        ("test_vit", {"img_size": 32768}, 10),
        ("test_vit", {"depth": 30_000}, 10),
        ("swin_tiny_patch4_window7_224", {"window_size": 56, "img_size": 896}, 10),
    ],
)
def test_a_description_far_larger_than_its_file(name: str, arguments: dict[str, Any], classes: int) -> None:
    """Refused without the memory: the process does not grow by the smallest of these networks."""
    tensors = timm.create_model("test_vit").state_dict()
    network = TimmNetwork(name, {}, arguments)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=r"has 371,240 numbers, and describes a network of at least [\d,]{8,} in"):
        require_plausible_size(lambda: network.build(shape=(3, 160, 160), classes=classes), tensors, FILE)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 250_000


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "beit_base_patch16_384", "swin_small_patch4_window7_224"])
def test_a_network_and_its_own_weights(name: str) -> None:
    """The tables and masks that a network computes, and no file has, do not count against it."""
    with torch.device("meta"):
        tensors = {key: tensor for key, tensor in timm.create_model(name).state_dict().items() if "index" not in key}
    require_plausible_size(lambda: timm.create_model(name), tensors, FILE)


def test_building_leaves_no_trace() -> None:
    """Neither the random numbers nor the networks that follow change; the message of a failure is left to the real build."""
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    require_plausible_size(lambda: nn.Linear(2, 2), {"weight": torch.zeros(4)}, FILE)
    assert torch.equal(torch.rand(1), expected)
    assert nn.Linear(1, 1).weight.device.type == "cpu"

    def fails() -> nn.Module:
        raise RuntimeError("no such layer")

    require_plausible_size(fails, {}, FILE)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't allocate memory: you tried to allocate 9 bytes")])
def test_memory_that_ran_out_is_not_asked_for_again(error: Exception) -> None:
    """The network is built once, and its error comes out."""
    built: list[int] = []

    def fails() -> nn.Module:
        built.append(1)
        raise error

    with pytest.raises(type(error)):
        require_plausible_size(fails, {}, FILE)
    assert built == [1]

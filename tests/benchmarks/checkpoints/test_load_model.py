from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import timm
import torch
from timm.models import save_for_hf
from torch import nn

from robustbench_cli.benchmarks.checkpoints.load_model import load_model
from robustbench_cli.core.errors import Notice, UserError

if TYPE_CHECKING:
    from ..fake_hub import FakeHub

OWN = """
from torch import nn

ready = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
fresh = lambda: ready
"""


@pytest.fixture
def network(hub: FakeHub, tmp_path: Path) -> nn.Module:
    """A network with random weights, published under a name of timm's and in a folder ``saved``."""
    network = timm.create_model("test_vit").eval()
    save_for_hf(network, tmp_path / "saved", safe_serialization=True)
    hub.publish("timm/test_vit.r160_in1k", tmp_path / "saved")
    return network


@pytest.mark.filterwarnings("ignore::robustbench_cli.core.errors.Notice")
def test_published_weights_and_files_are_one_verb(network: nn.Module, tmp_path: Path) -> None:
    """By name, by a name and weights, from a folder and from a file: one model, which normalizes images itself."""
    images = torch.rand(2, 3, 160, 160)
    logits = network((images - 0.5) / 0.5)
    torch.save({"state_dict": network.state_dict()}, tmp_path / "file.pt")
    calls: list[tuple[Any, dict[str, Any]]] = [
        ("timm:test_vit.r160_in1k", {}),
        ("timm:test_vit", {"weights": "DEFAULT"}),
        (tmp_path / "saved", {"shape": (3, 160, 160)}),
        (
            str(tmp_path / "file.pt"),
            {"model": "timm:test_vit", "shape": (3, 160, 160), "classes": 1000, "mean": 0.5, "std": 0.5},
        ),
        # The name says how images are normalized, the file has the weights.
        (tmp_path / "file.pt", {"model": "timm:test_vit.r160_in1k", "shape": (3, 160, 160), "classes": 1000}),
    ]
    for name, options in calls:
        model = load_model(name, **options)
        assert not model.training
        torch.testing.assert_close(model(images), logits)


def test_what_is_assumed_is_a_notice(network: nn.Module) -> None:
    """Python shows it as a warning, once."""
    with pytest.warns(
        Notice, match=r"timm:test_vit\.r160_in1k: 1,000 classes, images of 160 x 160, normalized by mean"
    ):
        load_model("timm:test_vit.r160_in1k")


def test_a_users_own_module(tmp_path: Path) -> None:
    """It is trained, but nobody says for which images."""
    (tmp_path / "own_ready.py").write_text(OWN)
    spec = f"{tmp_path / 'own_ready.py'}:ready"
    assert load_model(spec, shape=(1, 2, 2), classes=3)(torch.rand(5, 1, 2, 2)).shape == (5, 3)
    with pytest.raises(UserError, match="does not say its shape: give shape and classes"):
        load_model(spec)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("timm:test_vit", {}, "model timm:test_vit has no weights: name them, as in weights='DEFAULT'"),
        ("small-cnn", {}, "model small-cnn has no weights"),
        ("small-cnn", {"weights": "DEFAULT"}, "has no published weights"),
        ("a.pt", {"weights": "DEFAULT"}, "a.pt has weights too: give one of them"),
        ("timm:test_vit", {"model": "small-cnn"}, "give model only with a file"),
        ("nothing.safetensors", {}, "no checkpoint nothing.safetensors"),
    ],
)
def test_what_has_no_weights(name: str, options: dict[str, Any], message: str) -> None:
    """A fresh network is not returned as if it were trained, and no argument is ignored."""
    with pytest.raises(UserError, match=message):
        load_model(name, **options)


def test_messages_name_keywords(tmp_path: Path) -> None:
    """Nobody types options in Python."""
    torch.save(nn.Conv2d(3, 4, 3).state_dict(), tmp_path / "file.pt")
    with pytest.raises(UserError, match=r"give its model and classes and shape, with mean and std where"):
        load_model(tmp_path / "file.pt")

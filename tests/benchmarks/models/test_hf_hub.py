from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import save_for_hf
from torch import nn

from robustbench_cli.benchmarks.models.base.build import build_model, build_untrained, is_trained
from robustbench_cli.benchmarks.models.base.source import model_source
from robustbench_cli.core.errors import UserError

if TYPE_CHECKING:
    from ..fake_hub import FakeHub

SPEC = "hf-hub:owner/net"


def published(hub: FakeHub, folder: Path, **keywords: Any) -> nn.Module:
    """A fine-tuned network with random weights and another first layer than its name says, on the Hub."""
    torch.manual_seed(1)
    network = timm.create_model("test_resnet", num_classes=5, in_chans=1).eval()
    save_for_hf(network, folder, model_config={"label_names": ["a", "b", "c", "d", "e"]}, **keywords)
    hub.publish("owner/net", folder)
    return network


@pytest.mark.parametrize("safe", [True, False])
def test_a_model_of_timm_on_the_hub(hub: FakeHub, tmp_path: Path, safe: bool) -> None:
    """Safetensors or a pickle of tensors: the logits are timm's, behind the normalization of the configuration."""
    theirs = published(hub, tmp_path / "saved", safe_serialization=safe)
    assert is_trained(SPEC)
    ours = build_model(SPEC, shape=(1, 32, 32), classes=5).eval()
    images = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(ours(images), theirs((images - 0.5) / 0.5))
    source = model_source(SPEC)
    assert source is not None
    metadata = source.metadata
    assert (metadata.classes, metadata.class_names, metadata.channels) == (5, ("a", "b", "c", "d", "e"), 1)
    assert source.fingerprint == f"hf-hub:owner/net@{'1' * 40}"


def test_a_checkpoint_builds_it_without_the_hub(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What its configuration says is kept; a checkpoint without that does not make us ask the Hub."""
    published(hub, tmp_path / "saved")
    source = model_source(SPEC)
    assert source is not None
    config = json.loads(json.dumps(source.config))
    ours = build_model(SPEC, shape=(1, 32, 32), classes=5).eval()
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", None)
    again = build_untrained(SPEC, shape=(1, 32, 32), classes=5, mean=0.5, std=0.5, config=config).eval()
    again.load_state_dict(ours.state_dict())
    images = torch.rand(2, 1, 32, 32)
    assert torch.equal(again(images), ours(images))
    with pytest.raises(UserError, match=r"hf-hub:owner/net: its config\.json names no architecture of timm"):
        build_untrained(SPEC, shape=(1, 32, 32), classes=5, config={})


def test_shards(hub: FakeHub, tmp_path: Path) -> None:
    """Weights in several files with an index are one model."""
    theirs = published(hub, tmp_path / "saved", safe_serialization=True)
    del hub.files["owner/net", "model.safetensors"]
    state = theirs.state_dict()
    halves = list(state)[: len(state) // 2], list(state)[len(state) // 2 :]
    weight_map = {}
    for number, half in enumerate(halves):
        save_file({name: state[name] for name in half}, tmp_path / f"{number}.safetensors")
        hub.files["owner/net", f"{number}.safetensors"] = (tmp_path / f"{number}.safetensors").read_bytes()
        weight_map |= dict.fromkeys(half, f"{number}.safetensors")
    hub.files["owner/net", "model.safetensors.index.json"] = json.dumps({"weight_map": weight_map}).encode()
    images = torch.rand(2, 1, 32, 32)
    ours = build_model(SPEC, shape=(1, 32, 32), classes=5).eval()
    torch.testing.assert_close(ours(images), theirs((images - 0.5) / 0.5))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, r"has no config\.json that names its architecture: download the folder"),
        (
            {"architectures": ["ViTForImageClassification"]},
            "it is a ViTForImageClassification of transformers: load it in a",
        ),
        ({"auto_map": {"AutoModel": "code.Net"}}, "names no architecture of timm"),
        ({"architecture": "resnet_18"}, "is a 'resnet_18', which this timm does not have: did you mean 'resnet18'"),
        (
            {"architecture": "test_resnet", "model_args": {"checkpoint_path": "/etc/passwd"}},
            "sets checkpoint_path, which",
        ),
        (
            {"architecture": "test_resnet", "model_args": {"pretrained_strict": False, "features_only": True}},
            "sets features_only, pretrained_strict, which",
        ),
        ({"architecture": "test_resnet", "model_args": []}, None),
        ({"architecture": "test_resnet", "model_args": 5}, "are no mappings"),
        ({"architecture": "test_resnet", "pretrained_cfg": {"mean": "x"}}, "has a value that timm does not write"),
        ({"architecture": "test_resnet", "num_classes": float("inf")}, "has a value that timm does not write"),
        (
            {"architecture": "test_vit", "model_args": {"depth": [10**8]}},
            "builds a network with the number 100,000,000",
        ),
        (
            {"architecture": "test_vit", "model_args": {"deeper": [{"depths": [100_000] * 2}]}},
            "from a list of 1 items with the sum 200,000",
        ),
        (
            {"architecture": "test_vit", "model_args": {"depths": [float("nan"), 9]}},
            "from a list of 2 items with the sum nan",
        ),
        (
            {"architecture": "test_vit", "model_args": {"depths": [1] * 101}},
            "from a list of 101 items with the sum 101",
        ),
        ({"architecture": "test_resnet", "num_classes": 1_000_001}, "1,000,000 classes are built"),
        ({"architecture": "test_resnet", "pretrained_cfg": {"input_size": [3, 5000, 9]}}, "images of 5000 x 9"),
        ({"architecture": "test_resnet", "pretrained_cfg": {"crop_pct": 1e-308}}, "crop_pct 1e-308"),
        ({"architecture": "test_resnet", "pretrained_cfg": {}}, "does not say how many classes it has"),
        ({"architecture": "test_resnet", "num_classes": 0}, "has 0 classes: its weights give features"),
    ],
)
def test_repositories_of_another_kind(hub: FakeHub, config: dict[str, Any] | None, message: str | None) -> None:
    """No code in them is run, and each is one line."""
    hub.files["owner/net", "code.py"] = b"raise SystemExit"
    if config is not None:
        hub.files["owner/net", "config.json"] = json.dumps(config).encode()
    with pytest.raises(UserError, match=message or "does not say how many classes"):
        build_model(SPEC, shape=(3, 32, 32), classes=5)
    assert "code.py" not in hub.downloads


def test_a_download_cut_short(hub: FakeHub, tmp_path: Path) -> None:
    """The file is named."""
    published(hub, tmp_path / "saved", safe_serialization=True)
    whole = hub.files["owner/net", "model.safetensors"]
    hub.files["owner/net", "model.safetensors"] = whole[: len(whole) // 2]
    with pytest.raises(UserError, match=r"model\.safetensors is cut off or damaged"):
        build_model(SPEC, shape=(1, 32, 32), classes=5)


def test_a_description_larger_than_the_weights(hub: FakeHub, tmp_path: Path) -> None:
    """It is refused before the network is built."""
    published(hub, tmp_path / "saved")
    config = json.loads(hub.files["owner/net", "config.json"]) | {"num_classes": 10**6}
    hub.files["owner/net", "config.json"] = json.dumps(config).encode()
    with pytest.raises(UserError, match=r"model.bin has [\d,]+ numbers, and describes a network of at least"):
        build_model(SPEC, shape=(1, 32, 32), classes=10**6)

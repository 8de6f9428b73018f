from __future__ import annotations

import pytest
import timm

from robustbench_cli.benchmarks.models.base.timm_network import TimmNetwork, timm_library
from robustbench_cli.core.errors import UserError


def test_the_resizing_is_timms() -> None:
    """For square images, the shorter side before the crop is that of timm's own evaluation transform."""
    for name in ("resnet18.a1_in1k", "test_vit.r160_in1k", "efficientnet_b0.ra_in1k"):
        cfg = timm.models.get_pretrained_cfg(name).to_dict()
        metadata = TimmNetwork(name.partition(".")[0], cfg, {}).metadata(origin="", where=name)
        transform = timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=cfg))
        resize, crop, *_ = transform.transforms
        assert (metadata.resize, metadata.image_size) == (resize.size, tuple(crop.size))
        assert metadata.interpolation == resize.interpolation.value


def test_a_configuration_of_before_timm_0_9() -> None:
    """The description of the weights was not nested."""
    config = {"architecture": "test_resnet", "num_classes": 7, "mean": [0.5], "std": [0.25], "input_size": [1, 8, 8]}
    network = TimmNetwork.from_config(config, where="folder")
    metadata = network.metadata(origin="", where="folder")
    assert (metadata.classes, metadata.mean, metadata.std, metadata.channels) == (7, (0.5,), (0.25,), 1)


def test_only_what_builds_the_network_is_kept() -> None:
    """It is the same network again, and no other one because its license changed."""
    cfg = timm.models.get_pretrained_cfg("test_vit").to_dict()
    network = TimmNetwork("test_vit", cfg, {"depth": 2})
    again = TimmNetwork.from_config(network.config, where="folder")
    assert again.config == network.config == TimmNetwork("test_vit", cfg | {"license": "x"}, {"depth": 2}).config
    built = [one.build(shape=(3, 64, 64), classes=3).state_dict() for one in (network, again)]
    assert {name: tensor.shape for name, tensor in built[0].items()} == {
        name: tensor.shape for name, tensor in built[1].items()
    }


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line has the command that installs it."""
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(UserError, match=r"hf-hub:a/b needs timm: install it with pip install 'advdef\[timm\]'"):
        timm_library("hf-hub:a/b")

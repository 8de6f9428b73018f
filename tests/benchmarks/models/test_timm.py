from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import timm
import torch
from timm.models import save_for_hf
from torch import nn

from robustbench_cli.benchmarks.models.base.build import build_model, build_untrained, is_trained
from robustbench_cli.benchmarks.models.base.source import model_source
from robustbench_cli.core.errors import UserError

if TYPE_CHECKING:
    from ..fake_hub import FakeHub

SPEC = "timm:test_vit.r160_in1k"
REPOSITORY = "timm/test_vit.r160_in1k"


def published(hub: FakeHub, folder: Path) -> nn.Module:
    """A network with random weights, on the Hub as timm saves it."""
    torch.manual_seed(1)
    network = timm.create_model("test_vit").eval()
    save_for_hf(network, folder, safe_serialization=True)
    hub.publish(REPOSITORY, folder)
    return network


def test_fresh_weights_are_timms_own() -> None:
    """The same seed gives the same network; gray images and other sizes are timm's business too."""
    for name, shape, keywords in (
        ("test_resnet", (3, 32, 32), {}),
        ("test_resnet", (1, 32, 32), {"in_chans": 1}),
        ("test_vit", (3, 64, 64), {"img_size": (64, 64)}),
    ):
        assert not is_trained(f"timm:{name}")
        torch.manual_seed(3)
        ours = build_model(f"timm:{name}", shape=shape, classes=7).state_dict()
        torch.manual_seed(3)
        theirs = timm.create_model(name, num_classes=7, **keywords).state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_published_weights_with_their_normalization(hub: FakeHub, tmp_path: Path) -> None:
    """The logits are timm's behind timm's own normalization, in each way to write the weights."""
    theirs = published(hub, tmp_path / "saved")
    cfg = theirs.pretrained_cfg
    mean, std = (torch.tensor(cfg[key]).reshape(3, 1, 1) for key in ("mean", "std"))
    images = torch.rand(2, 3, 160, 160)
    for spec in (SPEC, "timm:test_vit@r160_in1k", "timm:test_vit@DEFAULT"):
        source = model_source(spec)
        assert source is not None
        assert (source.spec, source.trained) == (SPEC, True)
    ours = build_model(SPEC, shape=(3, 160, 160), classes=1000).eval()
    torch.testing.assert_close(ours(images), theirs((images - mean) / std))


def test_a_transformer_at_another_size(hub: FakeHub, tmp_path: Path) -> None:
    """Timm resamples its position embeddings; the architecture that a checkpoint fills again is the same."""
    published(hub, tmp_path / "saved")
    ours = build_model(SPEC, shape=(3, 64, 64), classes=1000).eval()
    again = build_untrained(SPEC, shape=(3, 64, 64), classes=1000, mean=0.5, std=0.5).eval()
    again.load_state_dict(ours.state_dict())
    images = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(again(images), ours(images))


def test_the_weights_have_a_fingerprint(hub: FakeHub, tmp_path: Path) -> None:
    """It changes with the commit on the Hub, and nothing is downloaded for it."""
    published(hub, tmp_path / "saved")
    source = model_source(SPEC)
    assert source is not None
    assert source.fingerprint == f"hf-hub:{REPOSITORY}@{'1' * 40}"
    hub.commit = "2" * 40
    assert source.fingerprint == f"hf-hub:{REPOSITORY}@{'2' * 40}"
    assert hub.downloads == []


def test_what_timm_says_of_its_weights() -> None:
    """Sizes, classes and the part that is cropped."""
    source = model_source("timm:resnet18.a1_in1k")
    assert source is not None
    metadata = source.metadata
    assert (metadata.classes, metadata.channels, metadata.image_size) == (1000, 3, (224, 224))
    assert (metadata.resize, metadata.interpolation) == (235, "bicubic")
    assert metadata.mean == (0.485, 0.456, 0.406)
    assert metadata.origin == "hf-hub:timm/resnet18.a1_in1k"
    many = model_source("timm:vit_base_patch16_224.augreg_in21k")
    assert many is not None
    assert many.metadata.classes == 21843


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("timm:resnet_18", "timm has no network 'resnet_18': did you mean 'resnet18'"),
        ("timm:resnet18.a9", r"timm has no weights 'a9' of resnet18: (did you mean|known)"),
        ("timm:resnet18.a1_in1k@a2_in1k", "names its weights already"),
        ("timm:test_coatnet@DEFAULT", "timm has no weights 'DEFAULT' of test_coatnet: leave them out for fresh ones"),
        ("timm:", "model timm needs a network's name: give timm:NAME"),
    ],
)
def test_names_that_timm_does_not_have(spec: str, message: str) -> None:
    """Each is one line with the nearest of timm's names."""
    with pytest.raises(UserError, match=message):
        build_model(spec, shape=(3, 224, 224), classes=1000)


def test_features_are_no_classifier() -> None:
    """Weights without a head cannot be attacked."""
    with pytest.raises(UserError, match="has 0 classes: its weights give features"):
        build_model("timm:vit_small_patch14_dinov2.lvd142m", shape=(3, 28, 28), classes=10)

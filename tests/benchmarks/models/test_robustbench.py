from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from robustbench_cli.benchmarks.checkpoints.checkpoint import load_checkpoint
from robustbench_cli.benchmarks.models.base.wide_resnet import WideResNet
from robustbench_cli.benchmarks.models.preact_resnet18 import PreActResNet18
from robustbench_cli.core.errors import Notice, UserError

from .base.test_wide_resnet import timm_names
from .conftest import as_trained, timm_preact

SHAPE = (3, 32, 32)
AUGMIX = "robustbench:cifar10/corruptions/Hendrycks2020AugMix_WRN"


class Blocker:
    """Finds no module of RobustBench."""

    @staticmethod
    def find_spec(name: str, *_: object) -> None:
        if name == "robustbench":
            raise ModuleNotFoundError("No module named 'robustbench'", name="robustbench")


@pytest.fixture(autouse=True)
def _not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without RobustBench."""
    monkeypatch.delitem(sys.modules, "robustbench", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Blocker, *sys.meta_path])


def published(folder: Path) -> tuple[Path, nn.Module]:
    """A file in the layout of RobustBench's, and timm's network with the same weights."""
    torch.manual_seed(0)
    network = as_trained(WideResNet(depth=40, width=2, channels=3, classes=10))
    path = folder / "Hendrycks2020AugMix_WRN.pt"
    state = {f"module.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 99, "best_acc": 0.9, "arch": "wrn"}, path)
    return path, timm_preact(timm_names(network.state_dict()), blocks=6, channels=(32, 64, 128), stem=16)


def test_a_published_file_brings_its_network_and_its_normalization(tmp_path: Path) -> None:
    """The logits are those of timm's network on images normalized as RobustBench says for this entry."""
    path, theirs = published(tmp_path)
    with pytest.warns(Notice, match="took 'state_dict'"):
        checkpoint = load_checkpoint(path, model=AUGMIX, classes=10, shape=SHAPE)
    images = torch.rand(2, *SHAPE)
    torch.testing.assert_close(checkpoint.model(images), theirs((images - 0.5) / 0.5), rtol=1e-4, atol=1e-5)
    assert (checkpoint.info.model, checkpoint.info.mean) == (AUGMIX, (0.5, 0.5, 0.5))


def test_a_given_normalization_is_used_instead(tmp_path: Path) -> None:
    """The user's mean and std come before those of the table."""
    path, theirs = published(tmp_path)
    with pytest.warns(Notice):
        checkpoint = load_checkpoint(path, model=AUGMIX, classes=10, shape=SHAPE, mean=0.4, std=0.2)
    images = torch.rand(2, *SHAPE)
    torch.testing.assert_close(checkpoint.model(images), theirs((images - 0.4) / 0.2), rtol=1e-4, atol=1e-5)


def test_the_weights_are_those_that_robustbench_takes(tmp_path: Path) -> None:
    """RobustBench takes the last weights of this file, and not the best ones, which advdef takes of files from elsewhere."""
    last, best = (PreActResNet18(channels=3, classes=10, raw_shortcut=True, final_bn=False) for _ in range(2))
    path = tmp_path / "Andriushchenko2020Understanding.pt"
    torch.save({"best": best.state_dict(), "last": last.state_dict()}, path)
    with pytest.warns(Notice, match="took 'last'"):
        checkpoint = load_checkpoint(path, model="robustbench:Andriushchenko2020Understanding", classes=10, shape=SHAPE)
    assert torch.equal(checkpoint.model.get_parameter("conv1.weight"), last.conv1.weight)


@pytest.mark.parametrize(
    ("name", "classes", "message"),
    [
        ("cifar100/Linf/Rice2020Overfitting", 10, "has 100 classes, and 10 are asked for"),
        ("Carmon2019Unlabeled@best", 10, "comes with its weights: leave out '@best'"),
        ("", 10, r"give robustbench:\[DATASET/THREAT_MODEL/\]NAME"),
        ("Pang2020Boosting", 10, "the network of robustbench:.* needs robustbench: install it with pip install git"),
    ],
)
def test_mistakes(tmp_path: Path, name: str, classes: int, message: str) -> None:
    """One line each."""
    path, _ = published(tmp_path)
    with pytest.raises(UserError, match=message):
        load_checkpoint(path, model=f"robustbench:{name}", classes=classes, shape=SHAPE)

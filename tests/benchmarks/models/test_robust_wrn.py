from __future__ import annotations

import re

import pytest
import torch

from robustbench_cli.attacks.base.models.operations import multiply_accumulates
from robustbench_cli.benchmarks.models.base.wide_resnet import WideResNet
from robustbench_cli.benchmarks.models.robust_wrn import RobustWideResNet, robust_wrn
from robustbench_cli.core.errors import UserError

from .conftest import as_trained, parameters

SHAPE = (3, 32, 32)


def test_wrn_34_r_has_the_published_size() -> None:
    """68.1 M parameters and 19.1 G multiply-accumulates, by Huang, Lu, Deb, Boddeti 2023 (arXiv 2212.11005)."""
    assert round(parameters("robust-wrn") / 1e6, 1) == 68.1
    with torch.device("meta"):
        network = robust_wrn(shape=SHAPE, classes=10)
        assert round(multiply_accumulates(network, torch.empty(1, *SHAPE)) / 1e9, 1) == 19.1
    assert [stage.layer[0].conv1.out_channels for stage in network.blocks] == [320, 640, 512]
    assert [len(stage.layer) for stage in network.blocks] == [5, 5, 5]


def test_with_a_full_last_stage_it_is_the_usual_network() -> None:
    """The weights of WRN-10-2, which a test compares with timm, give the same logits under the authors' names."""
    torch.manual_seed(0)
    usual = as_trained(WideResNet(depth=10, width=2, channels=3, classes=7))
    ours = robust_wrn(shape=SHAPE, classes=7, argument="1x2,last=1")
    names = {
        re.sub(r"^block(\d)", lambda match: f"blocks.{int(match[1]) - 1}", name): name for name in usual.state_dict()
    }
    names = {re.sub(r"^conv1\.", "stem_conv.", new): old for new, old in names.items()}
    ours.load_state_dict({new: usual.state_dict()[old] for new, old in names.items()})
    images = torch.rand(2, *SHAPE)
    torch.testing.assert_close(ours.eval()(images), usual(images))


@pytest.mark.parametrize(
    ("argument", "widths"), [("1x2", (32, 64, 51)), ("1x5", (80, 160, 128)), ("1x2,last=0.5", (32, 64, 64))]
)
def test_the_last_stage_has_two_fifths_of_the_width(argument: str, widths: tuple[int, ...]) -> None:
    """Also where the last stage has as many channels as the one before it, and still halves the size of the image."""
    network = robust_wrn(shape=(1, 8, 8), classes=3, argument=argument)
    assert tuple(stage.layer[0].conv1.out_channels for stage in network.blocks) == widths
    assert network(torch.rand(2, 1, 8, 8)).shape == (2, 3)


def test_a_stage_as_wide_as_the_last_has_the_authors_shortcut() -> None:
    """By their code, a shortcut that only halves the size is a convolution of the block's input, without norm and ReLU."""
    torch.manual_seed(0)
    block = as_trained(RobustWideResNet(blocks=(1, 1), widths=(16, 16), channels=3, classes=3)).blocks[1].layer[0]
    features = torch.randn(2, 16, 8, 8)
    with torch.no_grad():
        block.conv2.weight.zero_()
        expected = torch.einsum("oi,nihw->nohw", block.convShortcut.weight[:, :, 0, 0], features[:, :, ::2, ::2])
        torch.testing.assert_close(block(features), expected)


@pytest.mark.parametrize(
    "argument", ["", "2", "0x2", "1x2,", "1x2,last=0", "1x2,last=99", "1x9999", "silu", "1x2,last=nan"]
)
def test_other_sizes_are_refused(argument: str) -> None:
    with pytest.raises(
        UserError, match=r"^model robust-wrn has no size .* give BLOCKSxWIDTH, as in robust-wrn:1x2, with"
    ):
        robust_wrn(shape=SHAPE, classes=10, argument=argument)

from __future__ import annotations

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from robustbench_cli.benchmarks.models.base.build import build_model
from robustbench_cli.benchmarks.models.vit_small_cifar import ViTSmallCifar
from robustbench_cli.core.errors import UserError

from .conftest import parameters


def test_parameter_count_is_the_published_one() -> None:
    """Timm's page says 22,050,664 for ViT-S of 224 x 224 images, patches of 16 and 1000 classes: the ends differ."""
    ends = (3 * 16 * 16 - 3 * 4 * 4) * 384 + (14 * 14 - 8 * 8) * 384 + (1000 - 10) * (384 + 1)
    assert parameters("vit-small-cifar") == 22_050_664 - ends


def test_it_is_timms() -> None:
    """Timm's vision transformer takes the weights as they are and gives the same logits."""
    torch.manual_seed(0)
    ours = ViTSmallCifar(shape=(1, 32, 28), classes=10).eval()
    theirs = VisionTransformer(
        img_size=(32, 28), patch_size=4, in_chans=1, num_classes=10, embed_dim=384, depth=12, num_heads=6
    )
    for parameter in ours.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    images = torch.rand(2, 1, 32, 28)
    torch.testing.assert_close(ours(images), theirs.eval()(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 64, 64)])
def test_other_shapes(shape: tuple[int, int, int]) -> None:
    """Any number of channels, other sizes."""
    build_model("vit-small-cifar", shape=shape, classes=7)


def test_sides_that_are_no_multiple_of_the_patch() -> None:
    """The message names the size and another model."""
    with pytest.raises(UserError, match="a multiple of 4, not 30x32: use resnet18-cifar"):
        ViTSmallCifar(shape=(3, 30, 32), classes=10)

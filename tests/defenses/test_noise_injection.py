from __future__ import annotations

import pytest
import torch
import torchvision
from scipy import stats
from torch import Tensor, nn

from robustbench_cli.benchmarks.models.paper_cnn import PaperCNN
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.noise_injection import NoiseInjection


def test_the_model_sees_noise() -> None:
    """The model's input is the image plus normal noise (Kolmogorov-Smirnov, level 0.001), without clipping."""
    images = torch.rand(50, 3, 8, 8)
    inputs = NoiseInjection(sigma=0.4).protect(nn.Identity(), images[:1]).eval()(images)
    assert stats.kstest((inputs - images).flatten().numpy(), "norm", args=(0, 0.4)).pvalue > 0.001
    assert inputs.min() < 0
    assert inputs.max() > 1


@pytest.mark.parametrize(
    ("model", "images"),
    [
        (PaperCNN(shape=(1, 28, 28), classes=10), torch.rand(4, 1, 28, 28)),
        (torchvision.models.resnet18(num_classes=10), torch.rand(4, 3, 32, 32)),
    ],
    ids=["paper-cnn", "resnet18"],
)
def test_without_noise_it_is_the_model(model: nn.Module, images: Tensor) -> None:
    """With sigma 0 the logits equal the model's exactly."""
    model.eval()
    assert torch.equal(NoiseInjection(sigma=0).protect(model, images[:1])(images), model(images))


def test_bad_parameters() -> None:
    """A negative sigma is a usage error."""
    with pytest.raises(UserError, match=r"noise-injection.sigma is -1: input should be greater than or equal to 0"):
        NoiseInjection.from_parameters({"sigma": -1}, name="noise-injection")

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.benchmarks.evaluation.checks.base.finding import UndecidedError
from robustbench_cli.benchmarks.evaluation.checks.surrogate_beats import SurrogateBeats

from .conftest import MakeProbe


class Cut(nn.Module):
    """Two classes by the sum of the pixels, behind something that cuts the gradient."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, images: Tensor) -> Tensor:
        if self.kind == "noisy":
            images = images + 0.05 * torch.randn_like(images)
        if self.kind in ("quantizer", "noisy"):
            images = (20 * images).round() / 20
        if self.kind == "thermometer":
            images = sum((images > level / 20).float() for level in range(20)) / 20 + 0 * images  # type: ignore[assignment]
        if self.kind == "purifier":
            with torch.no_grad():
                smooth = nn.functional.avg_pool2d(images, 3, 1, 1, count_include_pad=False)
            images = smooth + 0 * images
        sums = (images - 0.5).flatten(1).sum(1)
        return torch.stack([sums, -sums], 1)


@pytest.fixture
def images() -> Tensor:
    """Images a little above the decision boundary, of which a radius of 0.1 can break all."""
    return 0.55 + 0.05 * torch.rand(60, 1, 6, 6, generator=torch.Generator().manual_seed(0))


LABELS = torch.zeros(60, dtype=torch.int64)


@pytest.mark.parametrize("kind", ["quantizer", "thermometer", "purifier"])
def test_a_cut_gradient_is_found(make_probe: MakeProbe, images: Tensor, kind: str) -> None:
    """PGD leaves all images, and the straight-through gradient breaks all."""
    probe = make_probe(Cut(kind), images, LABELS, eps=0.2)
    found = SurrogateBeats("surrogate-beats").finding_in_model(probe)
    assert found is not None
    assert found.figures["broken"] == found.figures["left"] == 50


def test_a_cut_gradient_of_a_randomized_model_is_found(make_probe: MakeProbe, images: Tensor) -> None:
    """By a paired test on the same draws."""
    probe = make_probe(Cut("noisy"), images, LABELS, eps=0.2)
    found = SurrogateBeats("surrogate-beats").finding_in_model(probe)
    assert found is not None
    assert found.figures["robust_accuracy"] > 0.9
    assert found.figures["robust_accuracy_second"] < 0.1


@pytest.mark.parametrize(("kind", "eps"), [("none", 0.05), ("quantizer", 0.01)])
def test_no_surrogate_beats_a_true_gradient_or_a_robust_model(
    make_probe: MakeProbe, images: Tensor, kind: str, eps: float
) -> None:
    """In a linear model nothing is cut, and at a small radius a quantizer really is robust."""
    probe = make_probe(Cut(kind), images, LABELS, eps=eps)
    assert probe.baseline.summary["robust_accuracy"] > 0.2
    assert SurrogateBeats("surrogate-beats").finding_in_model(probe) is None


def test_a_model_that_no_surrogate_can_replace_raises_nothing(make_probe: MakeProbe, images: Tensor) -> None:
    """Here NumPy would need a tensor without a graph, and gets a list."""

    class Listed(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            sums = torch.as_tensor(images.detach().sum((1, 2, 3)).tolist())
            return torch.stack([sums - 18, 18 - sums], 1) + 0 * images.sum((1, 2, 3))[:, None]

    probe = make_probe(Listed(), images, LABELS, eps=0.2)
    assert SurrogateBeats("surrogate-beats").finding_in_model(probe) is None


def test_a_surrogate_that_cannot_run_is_no_pass(make_probe: MakeProbe, images: Tensor) -> None:
    """A change in place after detach is allowed in the model, and not in the surrogate."""

    class InPlace(Cut):
        def forward(self, images: Tensor) -> Tensor:
            kept = images.detach()
            kept.mul_(1.0)
            logits: Tensor = super().forward(images)
            return logits + 0 * kept.sum()

    probe = make_probe(InPlace("quantizer"), images, LABELS, eps=0.2)
    with pytest.raises(UndecidedError, match="do not run with a straight-through gradient"):
        SurrogateBeats("surrogate-beats").finding_in_model(probe)

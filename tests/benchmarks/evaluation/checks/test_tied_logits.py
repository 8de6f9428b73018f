from __future__ import annotations

import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.models.decision import RejectionLayer
from robustbench_cli.benchmarks.evaluation.checks.tied_logits import TiedLogits

from .conftest import MakeProbe


class Capped(nn.Module):
    """A network whose logits end at a cap, which several classes reach."""

    def __init__(self, network: nn.Module, cap: float) -> None:
        super().__init__()
        self.network = network
        self.cap = cap

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits.clamp(max=self.cap)


def test_ties_with_the_true_class_are_found(make_probe: MakeProbe, network: nn.Module, images: Tensor) -> None:
    """A cap below most logits ties them; one above all logits does not, and neither do ties of other classes."""
    low, high = network(images).median().item(), network(images).max().item() + 100
    check = TiedLogits("tied-logits")
    assert check.finding_in_model(make_probe(Capped(network, low), images)) is not None
    assert check.finding_in_model(make_probe(Capped(network, high), images)) is None
    never_tied = network(images).argmin(1)
    assert check.finding_in_model(make_probe(Capped(network, low), images, never_tied, eps=1e-6)) is None


def test_ties_that_an_attack_makes_are_found(make_probe: MakeProbe) -> None:
    """The clean images have no ties; the attack reaches the cap of the second class, and the first stays in front of it."""

    class Meeting(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            pixel = images.flatten(1)[:, 0]
            return torch.stack([torch.zeros_like(pixel), (pixel - 0.5).clamp(max=0)], 1)

    images = torch.full((8, 1, 1, 1), 0.45)
    probe = make_probe(Meeting(), images, torch.zeros(8, dtype=torch.int64), eps=0.1)
    found = TiedLogits("tied-logits").finding_in_model(probe)
    assert found is not None
    assert "perturbed" in found.evidence


def test_rejections_are_no_ties(make_probe: MakeProbe, network: nn.Module, images: Tensor) -> None:
    """A detector rejects an image by equal logits."""

    class Rejecting(RejectionLayer):
        def forward(self, logits: Tensor) -> Tensor:
            return logits * (torch.arange(len(logits)) % 2)[:, None]

    probe = make_probe(nn.Sequential(network, Rejecting()), images, torch.zeros(8, dtype=torch.int64))
    assert (probe.logits == 0).all(1).sum() == 4
    assert TiedLogits("tied-logits").finding_in_model(probe) is None

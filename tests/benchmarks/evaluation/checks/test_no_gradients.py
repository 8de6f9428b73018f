from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.models.passes import NoGradientError
from robustbench_cli.attacks.fmn import FMN
from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.benchmarks.evaluation.checks.no_gradients import NoGradients
from robustbench_cli.benchmarks.evaluation.evaluate import evaluate

from .conftest import MakeProbe


class Cut(nn.Module):
    """A network whose logits have no graph."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = self.network(images)
        return logits


class Refusing(Cut):
    """A network whose backward pass ends with an error."""

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = _Refuse.apply(self.network(images))
        return logits


class _Refuse(torch.autograd.Function):
    @staticmethod
    def forward(context: object, logits: Tensor) -> Tensor:
        return logits.clone()

    @staticmethod
    def backward(context: object, gradient: Tensor) -> Tensor:  # type: ignore[override]
        raise RuntimeError("no gradient for you")


@pytest.mark.parametrize(("kind", "reason"), [(Cut, "detach"), (Refusing, "no gradient for you")])
def test_a_model_without_gradients_is_found(
    make_probe: MakeProbe, network: nn.Module, images: Tensor, kind: type[Cut], reason: str
) -> None:
    """The evidence says why there is none."""
    found = NoGradients("no-gradients").finding_in_model(make_probe(kind(network), images))
    assert found is not None
    assert reason in found.evidence


def test_a_network_has_gradients(make_probe: MakeProbe, network: nn.Module, images: Tensor) -> None:
    """Nothing is found."""
    assert NoGradients("no-gradients").finding_in_model(make_probe(network, images)) is None


@pytest.mark.parametrize("attack", [PGD(steps=2), FMN(steps=2)])
def test_an_attack_without_gradients_breaks_nothing_where_another_needs_none(
    network: nn.Module, images: Tensor, attack: PGD | FMN
) -> None:
    """Its row has the clean accuracy and this flag alone; elsewhere it is an error."""
    labels = network(images).argmax(1)
    labels[0] = (labels[0] + 1) % 2
    found = evaluate(Cut(network), images, labels, attack=attack, eps=0.1, allow_no_gradients=True)
    assert found.flags == ("no-gradients",)
    assert found.summary["robust_accuracy"] == found.summary["clean_accuracy"] == 1 - 1 / len(images)
    with pytest.raises(NoGradientError, match="use an attack on its scores"):
        evaluate(Cut(network), images, labels, attack=attack, eps=0.1)

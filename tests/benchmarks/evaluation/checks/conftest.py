"""Images and models that the tests of several checks share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.benchmarks.audit.model_audit import AuditOptions, probe_of
from robustbench_cli.benchmarks.evaluation.checks.base.model_probe import ModelProbe
from robustbench_cli.benchmarks.evaluation.checks.base.row_group import Row, RowGroup
from robustbench_cli.benchmarks.evaluation.outcomes import Outcomes

MakeProbe = Callable[..., ModelProbe]
MakeRow = Callable[..., Row]
MakeRows = Callable[..., RowGroup]


@pytest.fixture
def images() -> Tensor:
    """Eight images of 12 x 12."""
    return torch.rand(8, 1, 12, 12, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def network() -> nn.Module:
    """A small network of ten classes, whose logits have the size of a trained one's."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        last = nn.Linear(800, 10)
        model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), last)
    model.eval().requires_grad_(False)
    for parameter in last.parameters():
        parameter.mul_(10)
    return model


class NoisyModel(nn.Module):
    """A network on noisy images."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images + 0.1 * torch.randn_like(images))
        return logits


@pytest.fixture
def noisy(network: nn.Module) -> nn.Module:
    """The network as a randomized model."""
    return NoisyModel(network)


@pytest.fixture
def make_probe() -> Iterator[MakeProbe]:
    """Makes the probe of an audit; labels are the model's own classes by default."""
    with ExitStack() as stack:

        def make(model: nn.Module, images: Tensor, labels: Tensor | None = None, **options: Any) -> ModelProbe:
            usual = {"norm": "linf", "eps": 0.1, "budget": "quick", "device": torch.device("cpu")}
            training = options.pop("training", None)
            labels = model(images).argmax(1) if labels is None else labels
            probe = probe_of(model, images, labels, AuditOptions(**usual | options), training=training)
            return stack.enter_context(probe)

        yield make


@pytest.fixture
def make_row() -> MakeRow:
    """Makes a stored row of given outcomes."""

    def make(outcomes: Outcomes, eps: float | None = 0.1, **changes: Any) -> Row:
        usual: dict[str, Any] = {"cell": f"{changes} {eps}", "attack": "pgd", "access": "gradients"}
        text = "" if eps is None else f"{eps:g}"
        values = usual | changes
        values.setdefault("only_gradients", values["access"] == "gradients")
        return Row(outcomes=outcomes, eps=eps, eps_text=text, **values)

    return make


@pytest.fixture
def make_rows() -> MakeRows:
    """Makes the group of some rows of one model."""

    def make(*rows: Row, **changes: Any) -> RowGroup:
        return RowGroup(rows=rows, **{"norm": "linf"} | changes)

    return make

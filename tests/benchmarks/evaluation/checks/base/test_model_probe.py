from __future__ import annotations

import torch
from torch import Tensor, nn

from robustbench_cli.attacks.fgsm import FGSM
from robustbench_cli.attacks.square import Square

from ..conftest import MakeProbe


def test_the_announced_passes_are_those_that_are_made(
    make_probe: MakeProbe, network: nn.Module, images: Tensor
) -> None:
    """Where no image is broken, an evaluation costs what was announced; FGSM takes one gradient."""
    probe = make_probe(network, images, eps=1e-6)
    evaluation = probe.evaluate(FGSM())
    made = evaluation.forwards + evaluation.backwards  # type: ignore[attr-defined]
    assert probe.passes_of(FGSM()) >= made
    assert probe.passes_of(FGSM()) <= made + 4 * len(images)


def test_the_budget_selects_the_effort(make_probe: MakeProbe, network: nn.Module, images: Tensor) -> None:
    """The baseline of a larger budget has more steps."""
    steps = [make_probe(network, images, budget=budget).baseline_attack for budget in ("quick", "standard", "thorough")]
    assert [attack.steps for attack in steps] == [20, 40, 100]  # type: ignore[attr-defined]
    assert make_probe(network, images).effort(1, 2, 3) == 1


def test_a_model_without_gradients_is_attacked_by_scores(
    make_probe: MakeProbe, network: nn.Module, images: Tensor
) -> None:
    """The baseline is Square, and finds something."""

    class Cut(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = network(images).detach()
            return logits

    probe = make_probe(Cut(), images, eps=0.3)
    assert isinstance(probe.baseline_attack, Square)
    assert probe.baseline.summary["robust_accuracy"] < 0.5


def test_an_evaluation_starts_from_a_model_without_queries(make_probe: MakeProbe, images: Tensor) -> None:
    """Each has a copy of the model as it came, so that what one evaluation leaves in it is not seen by the next."""

    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("queries", torch.zeros(()))
            self.layer = nn.Linear(144, 10)

        def forward(self, images: Tensor) -> Tensor:
            self.queries += len(images)
            logits: Tensor = self.layer(images.flatten(1))
            return logits

    probe = make_probe(Counts(), images, torch.zeros(8, dtype=torch.int64))
    before = float(probe.model.queries)  # type: ignore[arg-type]
    probe.evaluate(FGSM())
    assert float(probe.model.queries) == before  # type: ignore[arg-type]
    assert probe.fresh is not None
    assert float(probe.fresh.queries) == 0  # type: ignore[arg-type]

"""Attacks need no more access to the model than they declare."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from robustbench_cli.attacks import registry
from robustbench_cli.attacks.base.attack import Attack
from robustbench_cli.attacks.base.gradients.eot import gradient_source
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import Threat

from .conftest import LinearVictim

ATTACKS = {name: registry.load(name) for name in registry.names()}
WITHOUT_GRADIENTS = [name for name, kind in ATTACKS.items() if kind.perturbs and kind.access != "gradients"]


class Answers:
    """A source that answers one kind of question only."""

    def __init__(self, model: nn.Module, kind: str) -> None:
        self._source = gradient_source(model, randomized=False)
        self.draws, self.exhaustive, self.noise = self._source.draws, self._source.exhaustive, None
        setattr(self, kind, getattr(self._source, kind))


@pytest.mark.parametrize("name", WITHOUT_GRADIENTS)
def test_an_attack_asks_for_no_more_than_it_says(name: str, linear_victim: Callable[..., LinearVictim]) -> None:
    """On a source that has nothing but scores, or nothing but decisions, the attack succeeds."""
    victim, kind = linear_victim(5), registry.load(name)
    attack: Attack = kind(**{key: 200 for key in ("queries",) if key in kind.model_fields})
    norm = attack.norms[0]
    threat = Threat(norm=norm, eps=(4 * victim.radii(norm)).double())
    answers: Any = Answers(victim.model, {"scores": "logits", "decisions": "decisions"}[attack.access])
    with torch.no_grad():
        perturbed = attack.run(answers, victim.images, victim.labels, threat, Random.of(0, victim.images))
    assert victim.accuracy(perturbed) == 0

"""Counts the passes of an attack on an image that it cannot break, so that no search stops early."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.attack import Attack
from robustbench_cli.attacks.base.gradients.eot import gradient_source
from robustbench_cli.attacks.base.library import ForeignAttack
from robustbench_cli.attacks.base.models.freezing import frozen
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random

__all__ = ["Passes", "passes"]

_SHAPE = (1, 8, 8)
_ROWS = 1024
_EPS: dict[Norm, float] = {"linf": 0.1, "l2": 0.5, "l1": 5.0, "l0": 5.0}


@dataclass(frozen=True)
class Passes:
    """Passes of one image through a model, in passes of one draw.

    Attributes:
        forwards: Forward passes, to the logits.
        backwards: Backward passes, to the input.
    """

    forwards: int
    backwards: int


def passes(attack: Attack, *, norm: Norm | None = None, classes: int = 10) -> Passes | None:
    """The passes of an untargeted attack per unbroken image, with one draw per gradient.

    Args:
        attack: The attack and its parameters.
        norm: One of the attack's norms; its first norm by default.
        classes: K.

    Returns:
        ``None`` for an attack of another library: it may take minutes even for one image, so it is not run.
    """
    if isinstance(attack, ForeignAttack):
        return None
    queries = attack.most_queries()
    return _counted_passes(attack, norm, classes) if queries is None else Passes(queries, 0)


def _counted_passes(attack: Attack, norm: Norm | None, classes: int) -> Passes:
    """The passes of an attack that is run on an image that it cannot break."""
    model = _Unbreakable(classes)
    images = torch.full((1, *_SHAPE), 0.5)
    labels = torch.zeros(1, dtype=torch.int64)
    norm = norm or attack.norms[0]
    threat = attack.threat(images, norm=norm, eps=_EPS[norm], targeted=False)
    with frozen(model), torch.random.fork_rng(devices=[]):
        # Several targets of one image are rows of one batch.
        source = gradient_source(model, randomized=False, batch_size=_ROWS)
        attack.run(source, images, labels, attack.search_threat(threat), Random.of(0, images))
    return Passes(round(source.forwards), round(source.backwards))


class _Unbreakable(nn.Module):
    """Linear logits; the first one exceeds the others by more than any image can change."""

    weights: Tensor
    lead: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        weights = torch.randn(classes, _SHAPE[1] * _SHAPE[2], generator=torch.Generator().manual_seed(0))
        self.register_buffer("weights", weights)
        self.register_buffer("lead", 1000.0 * nn.functional.one_hot(torch.tensor(0), classes))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = images.flatten(1) @ self.weights.T + self.lead
        return logits

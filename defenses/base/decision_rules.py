"""The rules by which the random draws of a defense are combined into one decision."""

from __future__ import annotations

import math
from typing import Literal, cast

import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.models.enumerable_draws import EnumerableDraws, cost_of_all_draws
from robustbench_cli.attacks.base.models.freezing import frozen
from robustbench_cli.attacks.base.models.frozen_draw import FrozenDraw
from robustbench_cli.attacks.base.models.probes import is_randomized
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.stochastic import without_draws

__all__ = ["Decision", "DecisionRule", "mean_softmax", "with_decision_rule"]


DecisionRule = Literal["one-draw", "mean", "vote", "exact", "deterministic", "frozen"]
"""How the draws of a model decide.

One draw, anew at each pass; the mean softmax, or the vote, of several; the exact mean over all there are. Then two that
tell what the randomness is worth: ``deterministic`` draws nothing, so that noise is away, nothing is dropped, and
switches give the mean of all their paths; ``frozen`` has made one draw, for all images, and keeps it.
"""


class Decision(nn.Module):
    """The deployed rule over the draws of a model.

    Its logits are logarithms: of the mean softmax, or of the share of the votes. A vote's share is
    ``(votes + mean softmax) / (draws + 1)``, so that equal votes are decided by the mean, and no class by itself; since
    votes have no slope, its gradient is the mean's.

    Args:
        model: Each forward pass is one draw; one whose draws can be counted for ``exact``.
        rule: Which.
        draws: Of ``mean`` and ``vote``. They are passes one after the other, so that a model whose rows share a draw
            gets as many too.

    Attributes:
        approximating: Whether a vote gives the mean's logarithm, whose gradient it has, as a layer that is
            :class:`~robustbench_cli.attacks.base.gradients.bpda.BPDALayer` gives what its surrogate does.
    """

    approximating = False

    def __init__(self, model: nn.Module, rule: DecisionRule, draws: int) -> None:
        super().__init__()
        self.model = model
        self.rule = rule
        self.draws = draws

    @property
    def unwrapped_model(self) -> nn.Module:
        """See :class:`~robustbench_cli.attacks.base.models.unwrap.Wrapper`."""
        return self.model

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(N, K)`` of images ``(N, C, H, W)``."""
        if self.rule == "exact":
            assert isinstance(self.model, EnumerableDraws)
            return mean_softmax(self.model.all_draws(images))
        if self.rule == "deterministic":
            with without_draws(self.model):
                return cast("Tensor", self.model(images))
        if self.rule == "frozen":
            return cast("Tensor", FrozenDraw(self.model, seed=0)(images))
        logits = torch.stack([self.model(images) for _ in range(self.draws)])
        mean = mean_softmax(logits)
        return mean if self.rule == "mean" or self.approximating else mean + (_shares(logits, mean) - mean).detach()

    def extra_repr(self) -> str:
        return f"{self.rule}, draws={self.draws}" if self.rule in ("mean", "vote") else self.rule


def with_decision_rule(model: nn.Module, rule: DecisionRule, *, draws: int, example: Tensor) -> nn.Module:
    """A model whose draws decide by a rule.

    Args:
        model: Each forward pass is one draw; or such a model with another rule, which is taken off.
        rule: Which.
        draws: Of ``mean`` and ``vote``.
        example: One image ``(1, C, H, W)`` in [0, 1].

    Raises:
        UserError: The rule needs to count the draws, or to do without them, and cannot.
    """
    inner = model.model if isinstance(model, Decision) else model
    if rule == "one-draw":
        return inner
    deciding = Decision(inner, rule, draws)
    with frozen(deciding):
        if rule == "exact" and cost_of_all_draws(inner, example) is None:
            raise UserError("decision is exact, and the draws of this defense cannot be counted: give mean or vote")
        if rule == "deterministic" and is_randomized(deciding, example):
            raise UserError(
                "decision is deterministic, and some layer draws nevertheless: give mean, or make the layer a Drawing"
            )
    return deciding


def mean_softmax(logits: Tensor) -> Tensor:
    """The logarithm ``(N, K)`` of the mean softmax of logits ``(D, N, K)``."""
    return logits.log_softmax(2).logsumexp(0) - math.log(len(logits))


def _shares(logits: Tensor, mean: Tensor) -> Tensor:
    """The logarithm of the votes' shares."""
    votes = nn.functional.one_hot(logits.argmax(2), logits.shape[2]).sum(0)
    shares = (votes + mean.exp()) / (len(logits) + 1)
    return shares.clamp_min(torch.finfo(shares.dtype).tiny).log()

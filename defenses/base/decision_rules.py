"""Decision rules: how the random draws of a defense become one decision."""

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

__all__ = ["Decision", "DecisionRule", "log_mean_softmax", "with_decision_rule"]


DecisionRule = Literal["one-draw", "mean", "vote", "exact", "deterministic", "frozen"]
"""How the draws of a model decide.

``one-draw``: a new draw in each pass. ``mean``: the mean softmax of several draws. ``vote``: their majority vote.
``exact``: the mean softmax over all draws, which must be enumerable. Two rules measure the effect of the randomness:
``deterministic`` is the deterministic counterpart, without noise or dropout and with the mean of all paths of a switch;
``frozen`` makes one draw and uses it for all images.
"""


class Decision(nn.Module):
    """A model with a decision rule: the rule that is deployed.

    Its logits are the logarithms of the mean softmax or of the vote shares. The share of a class is
    ``(votes + mean softmax) / (draws + 1)``, so the mean softmax breaks ties. Votes are piecewise constant; their
    gradient is replaced by that of the mean softmax.

    Args:
        model: Each forward pass is one draw. For ``exact`` its draws are enumerable.
        rule: The decision rule.
        draws: The number of draws of ``mean`` and ``vote``. Each draw is a pass of its own, so this also works for a model
            whose rows share one draw.

    Attributes:
        approximating: Whether a vote returns the logarithm of the mean softmax, to which its gradient belongs, as a
            :class:`~robustbench_cli.attacks.base.gradients.bpda.BPDALayer` returns its surrogate's output.
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
            return log_mean_softmax(self.model.all_draws(images))
        if self.rule == "deterministic":
            with without_draws(self.model):
                return cast("Tensor", self.model(images))
        if self.rule == "frozen":
            return cast("Tensor", FrozenDraw(self.model, seed=0)(images))
        logits = torch.stack([self.model(images) for _ in range(self.draws)])
        mean = log_mean_softmax(logits)
        return (
            mean
            if self.rule == "mean" or self.approximating
            else mean + (_log_vote_shares(logits, mean) - mean).detach()
        )

    def extra_repr(self) -> str:
        return f"{self.rule}, draws={self.draws}" if self.rule in ("mean", "vote") else self.rule


def with_decision_rule(model: nn.Module, rule: DecisionRule, *, draws: int, example: Tensor) -> nn.Module:
    """Gives a model a decision rule.

    Args:
        model: Each forward pass is one draw. If the model has a rule already, it is replaced.
        rule: The decision rule.
        draws: The number of draws of ``mean`` and ``vote``.
        example: One image ``(1, C, H, W)`` in [0, 1].

    Raises:
        UserError: The rule is ``exact`` and the draws are not enumerable, or it is ``deterministic`` and the model draws
            nevertheless.
    """
    inner = model.model if isinstance(model, Decision) else model
    if rule == "one-draw":
        return inner
    deciding = Decision(inner, rule, draws)
    with frozen(deciding):
        if rule == "exact" and cost_of_all_draws(inner, example) is None:
            raise UserError("decision is exact, and the draws of this defense cannot be enumerated: give mean or vote")
        if rule == "deterministic" and is_randomized(deciding, example):
            raise UserError(
                "decision is deterministic, and some layer draws nevertheless: give mean, or make the layer a StochasticLayer"
            )
    return deciding


def log_mean_softmax(logits: Tensor) -> Tensor:
    """The logarithm of the mean softmax over draws.

    Args:
        logits: ``(D, N, K)`` of D draws.

    Returns:
        ``(N, K)``.
    """
    return logits.log_softmax(2).logsumexp(0) - math.log(len(logits))


def _log_vote_shares(logits: Tensor, mean: Tensor) -> Tensor:
    """The logarithm ``(N, K)`` of the vote shares, for logits ``(D, N, K)`` and their log mean softmax ``(N, K)``."""
    votes = nn.functional.one_hot(logits.argmax(2), logits.shape[2]).sum(0)
    shares = (votes + mean.exp()) / (len(logits) + 1)
    return shares.clamp_min(torch.finfo(shares.dtype).tiny).log()

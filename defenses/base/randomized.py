"""The base of the randomized defenses."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn

from robustbench_cli.defenses.base.decision_rules import Decision, DecisionRule, with_decision_rule
from robustbench_cli.defenses.base.defense import Defense
from robustbench_cli.defenses.base.training.trainer import Trainer

__all__ = ["RandomizedDefense"]


class RandomizedDefense(Defense):
    """A defense whose model draws in each pass. A decision rule turns the draws into a decision.

    A subclass defines :meth:`randomize` and, if it trains, :meth:`train_draws`. The decision rule wraps the model that
    ``randomize`` builds, so an attack on the defended model attacks the deployed rule. If several defenses are composed,
    each has its own rule; that of the last defense is the outermost.
    """

    trains: ClassVar[bool] = False
    attacked_by: ClassVar[str] = "the expectation over its draws (--eot auto)"

    decision: DecisionRule = Field(
        "one-draw",
        description="decision rule: one draw, the mean softmax or the vote of several draws, the exact mean over all draws, "
        "the deterministic counterpart, or one frozen draw",
    )
    draws: int = Field(10, ge=1, description="number of draws of a mean or a vote")

    @property
    def needs_fit(self) -> bool:
        cls = type(self)
        return cls.train_draws is not RandomizedDefense.train_draws or cls.fit is not RandomizedDefense.fit

    @abstractmethod
    def randomize(self, model: nn.Module, example: Tensor) -> nn.Module:
        """Builds the model whose forward pass is one draw; see :meth:`~.defense.Defense.protect`.

        Args:
            model: Images ``(N, C, H, W)`` in [0, 1] to logits ``(N, K)``. It stays unchanged.
            example: One image ``(1, C, H, W)`` in [0, 1], on the model's device.
        """

    def train_draws(self, model: nn.Module, trainer: Trainer) -> None:
        """Trains, in place, the model that :meth:`randomize` built. Each pass is one draw.

        Args:
            model: The randomized model, without the decision rule.
            trainer: The examples, the recipe and the loop.
        """

    def protect(self, model: nn.Module, example: Tensor) -> nn.Module:
        return with_decision_rule(self.randomize(model, example), self.decision, draws=self.draws, example=example)

    def fit(self, model: nn.Module, trainer: Trainer) -> None:
        self.train_draws(model.model if isinstance(model, Decision) else model, trainer)
        model.eval()

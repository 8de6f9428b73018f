"""The base of the defenses that draw, and the rules by which their draws decide."""

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
    """A defense whose model draws; its draws decide by one of several rules.

    A subclass writes :meth:`randomize` and, if it trains, :meth:`train_draws`. The rule stands outside of what
    it builds, so that an attack on the defended model is one on the deployed rule. Of several defenses around one model
    each has a rule of its own; the last one's is the outermost.
    """

    trains: ClassVar[bool] = False
    attacked_by: ClassVar[str] = "the expectation over its draws (--eot auto)"

    decision: DecisionRule = Field(
        "one-draw",
        description="what decides: one draw, the mean softmax or the vote of several, the exact mean over all there are, "
        "the deterministic counterpart that draws nothing, or one frozen draw",
    )
    draws: int = Field(10, ge=1, description="draws of a mean or a vote")

    @property
    def needs_fit(self) -> bool:
        cls = type(self)
        return cls.train_draws is not RandomizedDefense.train_draws or cls.fit is not RandomizedDefense.fit

    @abstractmethod
    def randomize(self, model: nn.Module, example: Tensor) -> nn.Module:
        """Builds the model of which each forward pass is one draw; see :meth:`~.defense.Defense.protect`."""

    def train_draws(self, model: nn.Module, trainer: Trainer) -> None:
        """Trains in place what :meth:`randomize` returned, which is one draw at each pass."""

    def protect(self, model: nn.Module, example: Tensor) -> nn.Module:
        return with_decision_rule(self.randomize(model, example), self.decision, draws=self.draws, example=example)

    def fit(self, model: nn.Module, trainer: Trainer) -> None:
        self.train_draws(model.model if isinstance(model, Decision) else model, trainer)
        model.eval()

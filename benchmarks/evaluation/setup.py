"""The attack, the options and the models of an evaluation, as the search and the checks use them."""

from __future__ import annotations

from dataclasses import dataclass

from robustbench_cli.attacks.base.attack import Attack
from robustbench_cli.attacks.base.gradients.draws import Draws
from robustbench_cli.attacks.base.models.measured_model import MeasuredModel
from robustbench_cli.attacks.base.models.precision import Precision
from robustbench_cli.benchmarks.evaluation.options import EvaluationOptions

__all__ = ["Setup", "gradient_precision_of"]


def gradient_precision_of(attack: Attack, options: EvaluationOptions) -> Precision:
    """The precision of an attack's gradients: full float32 where the attack needs it, and where it follows none.

    Args:
        attack: The attack.
        options: The options of the evaluation.
    """
    full = attack.needs_full_precision() or attack.access != "gradients"
    return "float32" if full else options.precision


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What an evaluation consists of.

    Attributes:
        attack: The attack and its parameters.
        options: The options of the evaluation.
        attacked: The attacked model.
        followed: The model that the attack follows: the attacked model, or a surrogate.
        classes: K.
    """

    attack: Attack
    options: EvaluationOptions
    attacked: MeasuredModel
    followed: MeasuredModel
    classes: int

    @property
    def single_draw(self) -> bool:
        """Whether images are counted on single draws, as AutoAttack counts them."""
        return self.attacked.randomized and self.options.accounting == "single-draw"

    @property
    def follows_gradients(self) -> bool:
        """Whether the attack uses gradients."""
        return self.attack.access == "gradients"

    @property
    def precision(self) -> Precision:
        """See :func:`gradient_precision_of`."""
        return gradient_precision_of(self.attack, self.options)

    @property
    def draws(self) -> Draws:
        """The draws behind each gradient."""
        return self.followed.eot(self.options.eot)

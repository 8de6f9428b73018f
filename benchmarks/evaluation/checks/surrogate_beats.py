"""The flag of a model whose gradient is cut: an attack that ignores the cuts breaks more."""

from __future__ import annotations

import logging
from typing import ClassVar

from robustbench_cli.attacks.base.gradients.straight_through import StraightThrough
from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Budget, Finding, Severity, UndecidedError
from robustbench_cli.benchmarks.evaluation.checks.base.model_probe import ModelProbe
from robustbench_cli.benchmarks.evaluation.checks.base.second_attack import (
    PGDOnSurrogate,
    Stronger,
    second_attack,
    second_attack_passes,
)
from robustbench_cli.core.errors import one_line

__all__ = ["SurrogateBeats"]

_logger = logging.getLogger(__name__)

_ALLOWED = 0.1
"""The share of the images left by the baseline that the attack on the surrogate may break.

In the gallery, it breaks up to 4 % of those of honest deterministic models, as any second PGD does, and 52 to 91 % of those behind a
cut gradient.
"""


class SurrogateBeats(Check):
    """A model in which nothing has to be replaced costs one pass."""

    text: ClassVar[str] = (
        "an attack that passes gradients through rounding, comparisons, detach and custom backward passes breaks clearly more "
        "images: the gradient is cut (use BPDA)"
    )
    severity: ClassVar[Severity] = "broken"
    raised_when: ClassVar[str] = (
        "PGD on a surrogate of the model breaks more than 10 % of the images that the baseline attack left, by an exact binomial "
        "test at level 0.001; or for a randomized model, it leaves fewer of the same images, by a paired test at that level. In "
        "the surrogate, rounding and signs have the derivative of the identity, comparisons and their masks that of a sigmoid, "
        "one-hot classes that of the softmax, arrays that leave torch and come back in the same shape that of the identity, and "
        "detach, no_grad, hooks of tensors and custom backward passes do nothing. Not replaced are integers in an index, rounding "
        "and masks in place, remainders, single numbers that leave torch (item), and a custom function whose apply is stored in a "
        "container or a closure."
    )
    why: ClassVar[str] = (
        "A quantizer, a purifier or a detector without a gradient hides the way to adversarial images from PGD. The images "
        "exist, and a straight-through gradient finds them."
    )
    remedy: ClassVar[str] = (
        "Give the layer a differentiable approximation (BPDA), such as the identity, and attack the model again."
    )
    source: ClassVar[str] = (
        "Athalye, Carlini, Wagner: Obfuscated Gradients Give a False Sense of Security. ICML 2018, section 4.1; Tramer, Carlini, "
        "Brendel, Madry: On Adaptive Attacks to Adversarial Example Defenses. NeurIPS 2020"
    )
    budget: ClassVar[Budget] = "standard"

    def finding_in_model(self, probe: ModelProbe) -> Finding | None:
        surrogate = StraightThrough(probe.model)
        try:
            stronger = self._stronger(probe, surrogate)
        # The replaced operations may fail together in any way.
        except Exception as error:
            _logger.debug("the model has no straight-through surrogate", exc_info=True)
            raise UndecidedError(
                f"its operations do not run with a straight-through gradient: {one_line(error)}"
            ) from error
        if stronger is None:
            return None
        return self.finding(
            f"PGD on a straight-through surrogate {stronger.evidence}", severity=self.severity, **stronger.figures
        )

    def _stronger(self, probe: ModelProbe, surrogate: StraightThrough) -> Stronger | None:
        images = probe.images[:1].clone().requires_grad_()
        surrogate(images)
        if not surrogate.replaced:
            return None
        return second_attack(probe, _attack(probe, surrogate), allowed=_ALLOWED)

    def passes(self, probe: ModelProbe) -> int:
        return 1 + second_attack_passes(probe, _attack(probe, None))


def _attack(probe: ModelProbe, surrogate: StraightThrough | None) -> PGDOnSurrogate:
    return PGDOnSurrogate(steps=probe.effort(20, 40, 100), surrogate=surrogate)

"""Steps away from the image's hidden representation."""

from __future__ import annotations

from robustbench_cli.attacks.base.losses import Loss
from robustbench_cli.attacks.base.search.hidden_steps import HiddenSteps
from robustbench_cli.attacks.base.threat import Threat

__all__ = ["HiddenH1"]


class HiddenH1(HiddenSteps):
    """Steps that maximize the distance between the hidden representations of the perturbed and the clean image.

    In the style of the paper, whose full text was not at hand: its abstract only names three attacks with hidden
    representations. The loss is ``|h(x') - h(x)|_2``, under one draw of a randomized model. No label is part of it, and no target. Only the
    choice of the best iterate has them. The gradient is 0 at the image, so the start is random.

    The attack is mostly weaker than ``pgd``, because the distance also grows away from the decision boundary. Run it beside ``pgd``, for
    a defense that hides the gradient in its last layers.
    """

    def objective(self, threat: Threat) -> tuple[Loss | None, float]:
        return None, 1

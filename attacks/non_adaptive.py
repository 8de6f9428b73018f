"""An attack that knows of no defense."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field
from torch import Tensor, nn

from robustbench_cli.attacks.base.attack import Attack, FixedRadiusAttack
from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.models.unwrap import unwrapped_model
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.parameters.nested import InnerAttack
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import Threat, within
from robustbench_cli.core.errors import UserError

__all__ = ["NonAdaptive"]


def _knows_the_norms(attack: Attack) -> Attack:
    if attack.access != "gradients" or not {*NonAdaptive.norms} <= {*attack.norms} or isinstance(attack, NonAdaptive):
        raise UserError("give an attack by gradients that knows linf and l2, such as pgd or fmn")
    return attack


class NonAdaptive(FixedRadiusAttack):
    """An attack that does not adapt: another attack on the model as if nothing stood around it, judged on the whole.

    Transformations of the image, noise on it, detectors and votes are left out while the image is made, as in the
    evaluations of the papers that propose them; what a defense has changed in the model's own layers and weights is
    not. It is there to stand beside attacks that do adapt: what a defense has against this one alone is no robustness.
    Give it one draw of a randomized defense (``--eot 1``). The default, PGD, goes as far as the radius allows; the
    smallest perturbations (``attack=fmn``), which many papers defend against, are the easiest to undo.
    """

    paper: ClassVar[str] = (
        "Tramer, Carlini, Brendel, Madry: On Adaptive Attacks to Adversarial Example Defenses. NeurIPS 2020, "
        "arXiv 2002.08347 (why it is not enough)"
    )
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")

    attack: Annotated[InnerAttack, AfterValidator(_knows_the_norms)] = Field(
        "pgd",  # type: ignore[assignment]
        description="what makes the images: an attack's name, or {name: pgd, steps: 20} with its parameters",
    )

    def asked(self, model: nn.Module) -> nn.Module:
        return unwrapped_model(model)

    def decides(self) -> bool:
        return self.attack.decides()

    def fewest_classes(self, *, targeted: bool) -> int:
        return self.attack.fewest_classes(targeted=targeted)

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        perturbed = self.attack.run(source, images, labels, self.attack.searched(threat), random)
        # The smallest perturbation is an attack where it is inside the radius, and not where it is cut off there.
        return within(perturbed, images, threat) if self.attack.minimal_norm else perturbed

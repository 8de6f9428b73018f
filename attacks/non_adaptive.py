"""An attack that ignores the defense."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field
from torch import Tensor, nn

from robustbench_cli.attacks.base.attack import Attack, FixedRadiusAttack
from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.models.unwrap import unwrapped_model
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.parameters.nested import NestedAttack
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import Threat, reset_outside
from robustbench_cli.core.errors import UserError

__all__ = ["NonAdaptive"]


def _knows_the_norms(attack: Attack) -> Attack:
    if attack.access != "gradients" or not {*NonAdaptive.norms} <= {*attack.norms} or isinstance(attack, NonAdaptive):
        raise UserError("give a gradient-based attack that supports linf and l2, such as pgd or fmn")
    return attack


class NonAdaptive(FixedRadiusAttack):
    """A non-adaptive attack: another attack on the undefended model, evaluated on the defended one.

    Input transformations, input noise, detectors and votes are removed while the images are made, as in the papers that
    propose such defenses. Changes to the model's own layers and weights stay. Run it beside adaptive attacks: robustness
    against this attack alone is no robustness. Use one draw of a randomized defense (``--eot 1``). The default, PGD, uses
    the whole radius. Minimal perturbations (``attack=fmn``), against which many papers defend, are the easiest to undo.
    """

    paper: ClassVar[str] = (
        "Tramer, Carlini, Brendel, Madry: On Adaptive Attacks to Adversarial Example Defenses. NeurIPS 2020, "
        "arXiv 2002.08347 (why it is not enough)"
    )
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")

    attack: Annotated[NestedAttack, AfterValidator(_knows_the_norms)] = Field(
        "pgd",  # type: ignore[assignment]
        description="attack on the undefended model: a name, or {name: pgd, steps: 20} with its parameters",
    )

    def queried_model(self, model: nn.Module) -> nn.Module:
        return unwrapped_model(model)

    def needs_full_precision(self) -> bool:
        return self.attack.needs_full_precision()

    def min_classes(self, *, targeted: bool) -> int:
        return self.attack.min_classes(targeted=targeted)

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        perturbed = self.attack.run(source, images, labels, self.attack.search_threat(threat), random)
        # A minimal perturbation beyond the radius is dropped, because its projection is no success.
        return reset_outside(perturbed, images, threat) if self.attack.minimal_norm else perturbed

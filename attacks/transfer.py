"""Transfer attack from a surrogate model."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field
from torch import Tensor, nn

from robustbench_cli.attacks.base.attack import Attack, FixedRadiusAttack
from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.models.mean_logits import MeanLogits
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.parameters.nested import NestedAttack
from robustbench_cli.attacks.base.parameters.surrogate import Ensemble, Surrogate
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import Threat
from robustbench_cli.core.errors import UserError

__all__ = ["Transfer"]


def _checked_attack(attack: Attack) -> Attack:
    if (
        attack.minimal_norm
        or attack.access != "gradients"
        or "linf" not in attack.norms
        or isinstance(attack, Transfer)
    ):
        raise UserError("give a gradient-based fixed-radius attack that supports linf, such as mi-fgsm")
    return attack


_Inner = Annotated[NestedAttack, AfterValidator(_checked_attack)]


class Transfer(FixedRadiusAttack):
    """Adversarial examples of a surrogate model, which often fool the attacked model as well.

    Another attack runs on the surrogate alone; its images are then evaluated on the attacked model, which is never queried.
    So the attack needs no gradients of the attacked model, and it reveals defenses that only mask them: white-box attacks
    should break at least as many images as transfer does. The strongest surrogate is trained on the same data in a
    similar way, and several surrogates that differ are stronger than one. The draws of each gradient (``--eot``) are those of the
    surrogates.
    """

    paper: ClassVar[str] = (
        "Papernot, McDaniel, Goodfellow: Transferability in Machine Learning: from Phenomena to Black-Box Attacks using "
        "Adversarial Samples. 2016, arXiv 1605.07277"
    )
    norms: ClassVar[tuple[Norm, ...]] = ("linf",)

    surrogate: Surrogate = Field(
        repr=False, description="checkpoint of the surrogate model, for the same image shape and classes"
    )
    ensemble: Ensemble = Field(
        (),
        repr=False,
        description="checkpoints of further surrogates: the attack follows the mean of the logits of all",
        exclude_if=lambda models: not models,
    )
    attack: _Inner = Field(
        "mi-fgsm",  # type: ignore[assignment]
        description="attack on the surrogate: a name, or {name: di-fgsm, steps: 20} with its parameters",
    )

    def queried_model(self, model: nn.Module) -> nn.Module:
        models = []
        for surrogate in (self.surrogate, *self.ensemble):
            if not isinstance(surrogate, nn.Module):
                raise UserError(f"the surrogate is the file {surrogate}: give its model, load_checkpoint(path).model")
            models.append(surrogate)
        return models[0] if len(models) == 1 else MeanLogits(models)

    def needs_full_precision(self) -> bool:
        return self.attack.needs_full_precision()

    def min_classes(self, *, targeted: bool) -> int:
        return self.attack.min_classes(targeted=targeted)

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        return self.attack.run(source, images, labels, threat, random)

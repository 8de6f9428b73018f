"""Transfer from a surrogate."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field
from torch import Tensor, nn

from robustbench_cli.attacks.base.attack import Attack, FixedRadiusAttack
from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.parameters.nested import InnerAttack
from robustbench_cli.attacks.base.parameters.surrogate import Surrogate
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import Threat
from robustbench_cli.core.errors import UserError

__all__ = ["Transfer"]


def _follows_gradients(attack: Attack) -> Attack:
    if attack.minimal_norm or attack.access != "gradients" or "linf" not in attack.norms or isinstance(attack, Transfer):
        raise UserError("give an attack by gradients inside a fixed linf radius, such as mi-fgsm")
    return attack


_Inner = Annotated[InnerAttack, AfterValidator(_follows_gradients)]


class Transfer(FixedRadiusAttack):
    """Adversarial images of another model, the surrogate, which often fool the attacked model as well.

    The attacked model is asked nothing: another attack runs on the surrogate alone, and what it makes there is judged
    on the attacked model. So it needs no gradients of that model, and tells whether a defense only hides them:
    white-box attacks should break at least what transfer does. A surrogate of the same data whose training is like that
    of the attacked model is the strongest. The draws behind each gradient (``--eot``) are the surrogate's.
    """

    paper: ClassVar[str] = (
        "Papernot, McDaniel, Goodfellow: Transferability in Machine Learning: from Phenomena to Black-Box Attacks using "
        "Adversarial Samples. 2016, arXiv 1605.07277"
    )
    norms: ClassVar[tuple[Norm, ...]] = ("linf",)

    surrogate: Surrogate = Field(
        repr=False, description="checkpoint of the model that the images are made on, of the same images and classes"
    )
    attack: _Inner = Field(
        "mi-fgsm",  # type: ignore[assignment]
        description="what makes them: an attack's name, or {name: di-fgsm, steps: 20} with its parameters",
    )

    def asked(self, model: nn.Module) -> nn.Module:
        if not isinstance(self.surrogate, nn.Module):
            raise UserError(f"the surrogate is the file {self.surrogate}: give its model, load_checkpoint(path).model")
        return self.surrogate

    def decides(self) -> bool:
        return self.attack.decides()

    def fewest_classes(self, *, targeted: bool) -> int:
        return self.attack.fewest_classes(targeted=targeted)

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        return self.attack.run(source, images, labels, threat, random)

"""Gradient steps on a loss of logits and of the distance between hidden representations."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn

from robustbench_cli.attacks.base.attack import FixedRadiusAttack
from robustbench_cli.attacks.base.gradients.representation_distance import RepresentationDistance
from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.iterates import BestIterates
from robustbench_cli.attacks.base.losses import Loss
from robustbench_cli.attacks.base.models.hidden_layer import HiddenLayer, full_name, last_linear
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import FeasibleSet, Threat, per_image, random_in_ball, steepest_ascent
from robustbench_cli.core.errors import UserError

__all__ = ["HiddenSteps"]

_EXAMPLES = 8
"""The images on which a layer is tried: with few, all might pass the same branch of a model that switches at random."""


class HiddenSteps(FixedRadiusAttack):
    """An attack by gradient steps that compares each image's hidden representation with that of a reference image.

    Both pass under the same draw of a randomized model. The steps start at a random point of the ball, their size falls linearly
    from 2 eps to 0, and the best iterate is that of the smallest expected margin, as in ``pgd``.
    """

    paper: ClassVar[str] = (
        "In the style of Shen, Chen, Wang, Wang: Incorporating Hidden Layer Representation into Adversarial Attacks and Defences. "
        "2020, arXiv 2011.14045"
    )
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")

    steps: int = Field(40, ge=1, description="number of steps")
    layer: str | None = Field(
        None,
        description="layer whose output is the representation, by its name in the model, such as relu4; default: the input of the "
        "last linear layer, or the logits where it does not have one row per image",
    )

    @abstractmethod
    def objective(self, threat: Threat) -> tuple[Loss | None, float]:
        """What the steps increase: a loss of one draw, or ``None`` for 0, and the factor of the distance that is added to it."""

    def references(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat) -> Tensor:
        """The reference images ``(N, C, H, W)``: here the images; the arguments are those of :meth:`run`."""
        return images

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        layer = self._hidden_layer(source.model, images[:1].repeat(_EXAMPLES, 1, 1, 1))
        best = BestIterates(source, images, labels, threat)
        references = self.references(source, images, labels, threat)
        loss, weight = self.objective(threat)
        feasible, sizes = FeasibleSet(images, threat), per_image(threat.eps, images).to(images.dtype)
        iterates = feasible.project(images + random_in_ball(images, threat, random))
        for step in range(self.steps):
            distance = RepresentationDistance(layer, references, weight)
            logits, gradient = source.gradient_with_distance(iterates, labels, loss, distance)
            unbroken = best.offer(iterates, logits)
            if unbroken is not None:
                if not len(unbroken):
                    return best.images
                feasible, labels = feasible.select(unbroken), labels[unbroken]
                references, iterates, gradient, sizes = (
                    rows[unbroken] for rows in (references, iterates, gradient, sizes)
                )
            size = 2 * (1 - step / self.steps) * sizes
            iterates = feasible.project(iterates + size * steepest_ascent(gradient, threat.norm))
        best.offer(iterates, source.logits(iterates))
        return best.images

    def _hidden_layer(self, model: nn.Module, examples: Tensor) -> HiddenLayer | None:
        """The layer of the representations; ``None`` for the logits.

        Raises:
            UserError: The parameter names no layer with one row per image.
        """
        if self.layer is not None:
            layer = HiddenLayer(full_name(model, self.layer))
            layer.width(model, examples, parameter="layer")
            return layer
        name = last_linear(model, examples[:1])
        if name is None:
            return None
        layer = HiddenLayer(name, before=True)
        try:
            layer.width(model, examples, parameter="layer")
        except UserError:
            return None
        return layer

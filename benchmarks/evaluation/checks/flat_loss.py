"""The flag of a model whose logits hardly change in the ball, although they change between images."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from robustbench_cli.attacks.base.gradients.bpda import use_surrogates
from robustbench_cli.attacks.base.threat import distance, project, random_in_ball, steepest_ascent
from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Finding, Need, Severity, UndecidedError
from robustbench_cli.benchmarks.evaluation.checks.base.measurements import (
    class_gaps,
    gap_gradients,
    model_logits,
    require_repeatable,
)
from robustbench_cli.benchmarks.evaluation.checks.base.model_probe import ModelProbe

__all__ = ["FlatLoss", "steepness"]

_LEAST = 0.25
"""The least median steepness in the ball, in units of the mean slope between images.

Honest models of the gallery have 1.5 to 3.3, adversarially trained ones the least, and models that recognize images 0.
"""

_IMAGES, _RANDOM = 32, 4
"""The most images, and the random points of each ball."""

_FEWEST = 8
"""The fewest steepnesses that have a median."""


class FlatLoss(Check):
    """The steepest direction at an image is at least as steep as the way to an image of another class.

    The measure depends neither on the radius nor on the scale of the logits.
    """

    text: ClassVar[str] = (
        "the logits hardly change in the ball, along the gradient or at random: an attack has nothing to climb"
    )
    severity: ClassVar[Severity] = "suspicious"
    raised_when: ClassVar[str] = (
        "Over the length of the perturbation, the gap between the logits of an image's class and of another image's class changes less "
        "than a quarter as fast inside the ball as on the line between these two images, for half of the images. Inside the "
        "ball, the fastest change counts: along the gradient of the gap to the surface, and to 4 random points."
    )
    why: ClassVar[str] = (
        "Between images of two classes the logits have to change. If they are flat around each image and steep elsewhere, the model "
        "recognizes the images or hides the slope. A gradient there is tiny, though it need not be zero, and an attack drifts."
    )
    remedy: ClassVar[str] = (
        "Start the attack away from the image (more restarts), use attacks by decisions (--attack hopskipjump), and look at larger radii and at "
        "images that the model cannot know."
    )
    source: ClassVar[str] = (
        "Carlini, Athalye, Papernot et al.: On Evaluating Adversarial Robustness. arXiv 1902.06705, section 5.9 (the loss landscape); "
        "the measure is our own"
    )
    needs: ClassVar[tuple[Need, ...]] = ("gradients",)

    def finding_in_model(self, probe: ModelProbe) -> Finding | None:
        require_repeatable(probe.measured)
        with use_surrogates(probe.model):
            values = steepness(probe, torch.arange(min(len(probe), _IMAGES), device=probe.images.device))
        # The check not-a-number reports logits of NaN.
        values = values[values.isfinite()]
        if len(values) < _FEWEST:
            raise UndecidedError(
                f"{len(values)} images have finite logits and a partner of another class, of {_FEWEST} needed"
            )
        median = float(values.median())
        if median >= _LEAST:
            return None
        return self.finding(
            f"on {len(values)} images the logits change {median:.2g} times as fast inside the ball as between images of two classes "
            "(median)",
            steepness=median,
        )

    def passes(self, probe: ModelProbe) -> int:
        return (_RANDOM + 6) * min(len(probe), _IMAGES)


def steepness(probe: ModelProbe, rows: Tensor) -> Tensor:
    """How fast the logits change inside the ball of each image, in units of the mean slope to an image of another class.

    Args:
        probe: The model and the images.
        rows: ``(n,)``, the numbers of the images.

    Returns:
        ``(m,)``: of the images for which there is another class.
    """
    classes = model_logits(probe.measured, probe.images[rows]).argmax(1)
    partners = _next_of_another_class(classes)
    paired = classes[partners] != classes
    rows, other_rows = rows[paired], rows[partners[paired]]
    if not len(rows):
        return rows.double()
    pairs = torch.stack([classes[paired], classes[partners[paired]]], 1)
    images, threat = probe.images[rows], probe.threat(rows)

    def gaps(points: Tensor) -> Tensor:
        return class_gaps(model_logits(probe.measured, points), pairs).double()

    here = gaps(images)

    def slope(points: Tensor) -> Tensor:
        # Over tiny lengths, which the box can leave, the change is rounding.
        return (gaps(points) - here).abs() / distance(points, images, probe.norm).clamp_min(probe.eps / 10)

    measured = gap_gradients(probe.measured, images, pairs)
    gradient = torch.zeros_like(images) if measured is None else measured.gradients
    moves = [-probe.eps * steepest_ascent(gradient, probe.norm)]
    moves += [random_in_ball(images, threat, probe.random(rows, f"flat loss {point}")) for point in range(_RANDOM)]
    fastest = torch.stack([slope(project(images + move, images, threat)) for move in moves]).amax(0)
    return fastest / slope(probe.images[other_rows])


def _next_of_another_class(classes: Tensor) -> Tensor:
    """``(n,)``, for each image the number of the next one of another class, in a circle; any number where there is none."""
    numbers = torch.arange(len(classes), device=classes.device)
    is_other = torch.stack([classes.roll(-shift) != classes for shift in range(len(classes))])
    return (numbers + is_other.int().argmax(0)) % len(classes)

"""The flag of an attack that ends where its gradient still leads on: the first-order stationary condition does not hold."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from robustbench_cli.attacks.base.threat import per_image, project, scale_by_largest, steepest_ascent
from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Finding, Need, Severity, UndecidedError
from robustbench_cli.benchmarks.evaluation.checks.base.loss_path import LossPath
from robustbench_cli.benchmarks.evaluation.checks.base.model_probe import ModelProbe

__all__ = ["NotStationary", "stationarity"]

_FAR = 0.25
"""The mean share of the gain that is still open above which the ends are far from stationary.

In the gallery at radii of 0.05 and 0.15, the ends of honest models have up to 0.1 (JPEG with a straight-through gradient; the others
up to 0.03), those of a rippled input 0.5, and those of a noisy gradient 1.0.
"""


class NotStationary(Check):
    """A local maximum of the loss in the ball is a point at which no direction that stays inside leads up.

    The condition is taken relative to what its gradient promises over the whole ball, so that it does not depend on the
    scale of the logits. At an end that has nothing to do with its gradient it is 1.
    """

    text: ClassVar[str] = (
        "the attack ends where the gradient still leads on inside the ball: it had not reached a maximum of the loss"
    )
    severity: ClassVar[Severity] = "suspicious"
    raised_when: ClassVar[str] = (
        "At the last iterates x of the baseline PGD on images that it does not break, the first-order stationary condition (FOSC) is on "
        "average more than a quarter of its value at the image x0 itself. It is the largest gain inside the ball and the box that the "
        "gradient g at x predicts: without the box eps |g|_1 - <x - x0, g> in linf, and eps |g|_2 - <x - x0, g> in l2."
    )
    why: ClassVar[str] = (
        "An attack that converged is at a maximum, where the condition is 0. Where it is large, the gradient turns from step "
        "to step: it is shattered or noisy, or the steps are too few or too long. There may be a higher loss in the ball."
    )
    remedy: ClassVar[str] = (
        "Give more steps: --set pgd.steps=400. If that does not help, smooth the gradient: the mean over points nearby or over more "
        "draws (--eot 100), a differentiable approximation (BPDA), or attacks by scores: --suite standard."
    )
    source: ClassVar[str] = (
        "Wang, Ma, Bailey, Yi, Zhou, Gu: On the Convergence and Robustness of Adversarial Training. ICML 2019, section 4"
    )
    needs: ClassVar[tuple[Need, ...]] = ("gradients", "baseline", "path")

    def finding_in_model(self, probe: ModelProbe) -> Finding | None:
        if probe.norm == "l1":
            raise UndecidedError("the condition is for linf and l2")
        path = probe.path
        if path is None:
            return None
        at_ends, at_images = stationarity(path)
        # The check zero-gradient reports gradients of zero.
        share = float(at_ends.mean() / at_images.mean()) if len(at_ends) else 0.0
        if not share > _FAR:
            return None
        return self.finding(
            f"at the ends of {probe.baseline_name} on {len(at_ends)} unbroken images, {share:.2f} of the gain that the gradient promises "
            "over the ball is still open",
            fosc=share,
        )


def stationarity(path: LossPath) -> tuple[Tensor, Tensor]:
    """The first-order stationary condition at the ends of a path, and what the same gradients promise at the images.

    Args:
        path: In linf or l2.

    Returns:
        Two of ``(n,)``, in units of ``eps |g|``, of the images whose gradient at the end is not zero: in [0, 2] and in [0, 1].
    """
    images, slope = path.images.double(), scale_by_largest(path.gradients.double())
    some = slope.flatten(1).any(1)
    step = steepest_ascent(slope, path.threat.norm) * per_image(path.threat.eps, images)
    best = project(images + step, images, path.threat)

    def gain(start: Tensor) -> Tensor:
        predicted, largest = ((change * slope).flatten(1).sum(1)[some] for change in (best - start, step))
        return predicted.clamp_min(0) / largest

    return gain(path.ends.double()), gain(images)

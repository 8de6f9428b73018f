"""The flag of an attack that misses adversarial images that are known to exist: the binarization test."""

from __future__ import annotations

import copy
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from robustbench_cli.attacks.base.models.measured_model import MeasuredModel
from robustbench_cli.attacks.base.rng import Random, seed_from
from robustbench_cli.attacks.base.threat import Threat, distance, per_image, random_in_ball
from robustbench_cli.attacks.none import NoAttack
from robustbench_cli.benchmarks.checkpoints.repeats import resolve_repeats
from robustbench_cli.benchmarks.evaluation.checks.base.binarized_model import (
    BinarizedModel,
    Features,
    Readout,
    fit_readout,
    last_layer,
)
from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Budget, Finding, Need, Severity, UndecidedError
from robustbench_cli.benchmarks.evaluation.checks.base.measurements import model_logits, require_repeatable
from robustbench_cli.benchmarks.evaluation.checks.base.model_probe import Attacked, ModelProbe

__all__ = ["Binarization", "BinarizationTest", "binarization_test"]

_INNER = 0.95
"""The radius of the inner points, as a share of the whole."""

_CLOSENESS = {False: 0.9, True: 0.5}
"""Where the threshold is; see :func:`~.binarized_model.fit_readout`. The features of a randomized model vary at the boundary point,
which must be of class 1 in most draws.
"""

_DRAWS = 8
"""The draws in which the features of a boundary point and of random points of a randomized model are averaged."""

_EXPECTED, _LEVEL = 0.95, 0.001
"""The success rate that an attack must reach, and the probability of a false alarm at this rate."""

_LEAST = 8
"""The fewest images that decide anything."""


class BinarizationTest(NamedTuple):
    """The result of the test.

    Attributes:
        images: The number of images whose boundary point is of class 1 and whose clean image is of class 0.
        broken: How many of them the attack breaks in most draws.
        success_rate: The share of images and draws that the attack breaks.
        random_success_rate: The same for the best of random points.
    """

    images: int
    broken: int
    success_rate: float
    random_success_rate: float


class Binarization(Check):
    """The test of Zimmermann et al., also for randomized models.

    The success is the expected one over held-out draws. The attack follows the expectation over draws, and the random
    attack selects its point by an average over draws.
    """

    text: ClassVar[str] = "the attack misses adversarial images that are known to exist: it is too weak for this model"
    severity: ClassVar[Severity] = "broken"
    raised_when: ClassVar[str] = (
        "The last layer is replaced, for each image, by a linear classifier that tells one point on the surface of the ball from "
        "random points inside. The baseline attack then breaks so few images (for randomized models, in most of their draws) that "
        "at a true success rate of 95 % this would happen with probability 0.001. The features are the logits if the last layer is "
        "not linear. Images whose points cannot be told apart do not count, and fewer than eight decide nothing."
    )
    why: ClassVar[str] = (
        "Each image has an adversarial point by construction. An attack that does not find it cannot show that there is none for "
        "the original model, so the robust accuracy is that of the attack."
    )
    remedy: ClassVar[str] = (
        "Use an attack that passes the test: more steps, a loss that does not saturate, a differentiable approximation of a layer "
        "(BPDA), the expectation over draws (EOT), or attacks by scores and decisions: --suite standard."
    )
    source: ClassVar[str] = (
        "Zimmermann, Brendel, Tramer, Carlini: Increasing Confidence in Adversarial Robustness Evaluations. NeurIPS 2022, arXiv "
        "2206.13991"
    )
    budget: ClassVar[Budget] = "standard"
    needs: ClassVar[tuple[Need, ...]] = ()

    def finding_in_model(self, probe: ModelProbe) -> Finding | None:
        require_repeatable(probe.measured)
        test = binarization_test(probe)
        if _probability(test) >= _LEVEL:
            return None
        return self.finding(
            f"{probe.baseline_name} breaks {test.broken} of {test.images} images that have an adversarial point by construction "
            f"(success rate {test.success_rate:.3f}; random points {test.random_success_rate:.3f})",
            images=test.images,
            success_rate=test.success_rate,
            random_success_rate=test.random_success_rate,
        )

    def passes(self, probe: ModelProbe) -> int:
        count = min(_images(probe), len(probe))
        draws = _DRAWS if probe.randomized else 1
        points = _points(probe) * (1 + draws) + draws + 8 * resolve_repeats(None, randomized=probe.randomized)
        return count * points + probe.passes_of(probe.baseline_attack, count)


def _images(probe: ModelProbe) -> int:
    return probe.effort(10, 20, 100)


def _points(probe: ModelProbe) -> int:
    """The number of inner points, and of random points."""
    return probe.effort(50, 100, 999)


def _probability(test: BinarizationTest) -> float:
    """The probability of so few broken images at the expected success rate."""
    from scipy.special import bdtr

    return float(bdtr(test.broken, test.images, _EXPECTED))


def binarization_test(probe: ModelProbe) -> BinarizationTest:
    """Runs the test with the baseline attack of a probe.

    Args:
        probe: The model and the images.

    Raises:
        UndecidedError: There are fewer than eight images whose points a linear classifier of the features can tell apart.
    """
    numbers = _separate_images(probe)
    model = copy.deepcopy(probe.fresh) if probe.fresh is not None else probe.model
    features = Features(model, last_layer(model, probe.images[:8])).eval()
    measured = MeasuredModel(features, probe.measured.images, probe.measured.size)
    built = [(number, *_build(probe, measured, number)) for number in numbers]
    built = [entry for entry in built if entry[1].separates]
    if len(built) < _LEAST:
        raise UndecidedError(_too_few(len(built), len(numbers)))
    images = probe.images[[entry[0] for entry in built]]
    binarized = BinarizedModel(features, images, probe.norm, [entry[1] for entry in built]).eval()
    boundary, random = torch.stack([entry[2] for entry in built]), torch.stack([entry[3] for entry in built])

    def run(attacked: Tensor, *, attack: bool) -> Attacked:
        labels = torch.zeros(len(attacked), dtype=torch.int64)
        options = {"norm": probe.norm, "eps": probe.eps} if attack else {"norm": probe.norm, "eps": 0}
        chosen = probe.baseline_attack if attack else NoAttack()
        return probe.run(chosen, attacked, labels, other=binarized, seed=probe.seed, **options)

    result = run(images, attack=True).outcomes
    usable = ((run(boundary, attack=False).outcomes.clean == 1).mean(0) > 0.5) & ((result.clean == 0).mean(0) > 0.5)
    if usable.sum() < _LEAST:
        raise UndecidedError(_too_few(int(usable.sum()), len(numbers)))
    shares = (result.worst() == 1).mean(0)[usable]
    random_shares = (run(random, attack=False).outcomes.clean == 1).mean(0)[usable]
    return BinarizationTest(
        images=len(shares),
        broken=int((shares > 0.5).sum()),
        success_rate=float(shares.mean()),
        random_success_rate=float(random_shares.mean()),
    )


def _too_few(usable: int, tried: int) -> str:
    return f"a linear classifier of the features tells the points of {usable} of {tried} images apart, and {_LEAST} are needed"


def _separate_images(probe: ModelProbe) -> list[int]:
    """The numbers of the first images whose balls do not meet."""
    numbers: list[int] = []
    for number in range(len(probe)):
        others = probe.images[numbers]
        image = probe.images[number].expand_as(others)
        if bool((distance(image, others, probe.norm) > 2 * probe.eps).all()):
            numbers.append(number)
        if len(numbers) == _images(probe):
            break
    return numbers


def _build(probe: ModelProbe, measured: MeasuredModel, number: int) -> tuple[Readout, Tensor, Tensor]:
    """The classifier of an image, its boundary point, and the best of the random points."""
    count, draws = _points(probe), _DRAWS if measured.randomized else 1
    images = probe.images[number].expand(count, -1, -1, -1)
    threat = probe.threat(torch.full((count,), number, device=images.device))
    random = Random.of(
        seed_from(probe.seed, "binarization", number), images, indices=torch.arange(count, device=images.device)
    )
    boundary = _on_surface(images, threat, random.split())[:1]
    inner = (images + _INNER * random_in_ball(images, threat, random)).clamp(0, 1)
    points = model_logits(measured, torch.cat([inner, boundary.expand(draws, -1, -1, -1)]))
    readout = fit_readout(points[:count], points[count:].mean(0), closeness=_CLOSENESS[measured.randomized])
    others = _on_surface(images, threat, random.split())
    scores = (model_logits(measured, others.repeat(draws, 1, 1, 1)) - readout.center) @ readout.weights
    return readout, boundary[0], others[scores.view(draws, count).mean(0).argmax()]


def _on_surface(images: Tensor, threat: Threat, random: Random) -> Tensor:
    """Random points on the surface of the balls, in linf corners; the box cuts them."""
    if threat.norm == "linf":
        moves = per_image(threat.eps, images).to(images.dtype) * random.signs(images.shape[1:])
    else:
        inside = random_in_ball(images, threat, random)
        sizes = inside.flatten(1).norm(p=2 if threat.norm == "l2" else 1, dim=1)
        moves = inside * per_image((threat.eps / sizes).to(images.dtype), images)
    return (images + moves).clamp(0, 1)

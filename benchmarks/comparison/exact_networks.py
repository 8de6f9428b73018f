"""Compares the minimal-norm attacks and the standard suite with the exact distances of small ReLU networks."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from robustbench_cli.attacks.base.losses import margin, rounding
from robustbench_cli.attacks.base.search.minimal_norm import linear_distance, without_blocked_pixels
from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel, method_spec
from robustbench_cli.benchmarks.comparison.contest import distances, unbroken
from robustbench_cli.benchmarks.comparison.exact import ExactDistance, exact_distance
from robustbench_cli.benchmarks.comparison.models import ImageSet, correctly_classified
from robustbench_cli.benchmarks.comparison.optimality import Counted, suite_attacks
from robustbench_cli.benchmarks.comparison.peers import LIBRARIES, OURS, AutoAttackBudget
from robustbench_cli.benchmarks.comparison.relu_network import Array, BallNorm, ReLUNetwork
from robustbench_cli.benchmarks.comparison.tables import markdown
from robustbench_cli.benchmarks.datasets.base.load import load_dataset
from robustbench_cli.benchmarks.datasets.base.slice import first_examples
from robustbench_cli.benchmarks.training.model_cache import ModelCache
from robustbench_cli.defenses import registry as defenses

__all__ = [
    "CASES",
    "ExactCase",
    "compare_exact",
    "distance_table",
    "radius_table",
    "rounding_distance",
    "small_conv",
    "small_mlp",
    "small_pool",
]

_DATASET = "digits"

_SUITE = "suite minimal-norm"

_ROUNDING = 1e-3
"""How far an attack on the network in single precision may come below the distance in double precision."""

_TUNED = 60
"""The correctly classified test images on which the parameters of the restarts and of the polish were chosen. The comparison
leaves them out."""


def small_mlp(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Two hidden layers of 16 neurons.

    Args:
        shape: ``(C, H, W)``.
        classes: K.
    """
    size = int(np.prod(shape))
    return nn.Sequential(
        *(nn.Flatten(), nn.Linear(size, 16), nn.ReLU()),
        *(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, classes)),
    )


def small_conv(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Two 3 x 3 convolutions of 4 channels, the second with stride 2.

    Args:
        shape: ``(C, 8, 8)``.
        classes: K.
    """
    return nn.Sequential(
        *(nn.Conv2d(shape[0], 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, stride=2), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(16, classes)),
    )


def small_pool(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A 3 x 3 convolution of 4 channels and max-pooling of 2 x 2.

    Args:
        shape: ``(C, 8, 8)``.
        classes: K.
    """
    return nn.Sequential(
        *(nn.Conv2d(shape[0], 4, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(36, classes)),
    )


@dataclass(frozen=True, kw_only=True)
class ExactCase:
    """A network of the comparison and a norm.

    Attributes:
        label: Its name in the output.
        network: The name of its function in this module.
        most: The maximum number of images.
        norm: The norm of the distances.
        radii: The radii at which the standard suite runs.
        defense: Its defense.
        parameters: The parameters of the defense.
    """

    label: str
    network: str
    most: int = 60
    norm: BallNorm = "linf"
    radii: tuple[float, ...] = (0.05, 0.1, 0.15)
    defense: str = "none"
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def trained(self) -> DefendedModel:
        """The network, trained once on the digits; it stays in the user's cache folder."""
        cache = ModelCache(
            dataset=_DATASET,
            data_dir=None,
            device=torch.device("cpu"),
            seed=0,
            recipe={},
            begin=lambda label, path: print(f"training {label}, once: {path}", file=sys.stderr),
        )
        spec = method_spec(defenses, self.defense, dict(self.parameters)).spec
        return cache.trained(cache.training(model=f"{__name__}:{self.network}", defenses=(spec,)))


CASES = (
    ExactCase(label="64-16-16-10", network=small_mlp.__name__),
    ExactCase(label="64-16-16-10, pgd-at", network=small_mlp.__name__, defense="pgd-at", parameters={"eps": 0.1}),
    ExactCase(label="convolutional", network=small_conv.__name__),
    ExactCase(label="max-pooling", network=small_pool.__name__, most=20),
    ExactCase(label="64-16-16-10", network=small_mlp.__name__, norm="l1", radii=(0.5, 1.0, 1.5)),
)
"""The networks and the norms of the comparison."""


def compare_exact(cases: Sequence[ExactCase] = CASES, *, images: int, seconds: float) -> None:
    """Prints how close the minimal-norm attacks and the standard suite come to the exact distances.

    Args:
        cases: The networks and the norms.
        images: The maximum number of correctly classified test images, after those on which the attacks were tuned.
        seconds: The time limit for the exact distance of an image.

    Raises:
        RuntimeError: An attack broke an image within a distance that is proven to be safe.
    """
    examples = first_examples(load_dataset(_DATASET).split("test"), 2 * (_TUNED + images))
    for case in cases:
        defended = case.trained()
        right = correctly_classified(defended, ImageSet(examples.images, examples.labels))
        rows = slice(_TUNED, _TUNED + min(images, case.most))
        right = ImageSet(right.images[rows], right.labels[rows])
        lengths, passes, nearest = _attacked(defended, right, case.norm)
        started = time.perf_counter()
        answers = _answers(defended.load(), right, case.norm, lengths[_SUITE].numpy(), seconds)
        moved = rounding_distance(defended.load(), ImageSet(nearest, right.labels), case.norm).numpy()
        print(
            f"\n{case.norm}, {case.label} network, {len(right)} correctly classified images; exact distance: "
            f"{sum(answer.solved for answer in answers)} solved, {sum(not answer.solved for answer in answers)} not solved, in "
            f"{time.perf_counter() - started:.0f} s, median {np.median([answer.upper for answer in answers]):.4f}; "
            f"rounding moves the boundary by {np.median(moved):.1g} (median), {moved.max():.1g} at most\n"
        )
        print(distance_table(lengths, passes, answers, moved), flush=True)
        left = {eps: _left_by_standard(defended, right, case.norm, eps) for eps in case.radii}
        print(f"\n{radius_table(left, answers)}", flush=True)


def _attacked(
    defended: DefendedModel, right: ImageSet, norm: BallNorm
) -> tuple[dict[str, Tensor], dict[str, str], Tensor]:
    """The distances ``(N,)`` float64 of each attack of the suite and of the suite, the passes per image, and the nearest images."""
    lengths, passes, perturbed = {}, {}, []
    for name, attack in suite_attacks(norm).items():
        model = Counted(defended.load()).eval()
        perturbed.append(attack(model, right.images, right.labels))
        lengths[name] = distances(model, right, perturbed[-1], norm).double()
        passes[name] = f"{model.passes / len(right):.0f}"
    lengths[_SUITE], chosen = torch.stack(list(lengths.values())).min(0)
    return lengths, passes, torch.stack(perturbed)[chosen, torch.arange(len(right))]


def rounding_distance(model: nn.Module, nearest: ImageSet, norm: BallNorm) -> Tensor:
    """How far the attacks' tolerance of rounding errors moves the decision boundary, for a linear model.

    An attack counts a success only if the other logit leads by more than this tolerance.

    Args:
        model: In ``eval()`` mode.
        nearest: N images on the decision boundary or a little beyond it, with the classes that they left.
        norm: The norm of the distance.

    Returns:
        ``(N,)`` float64.
    """
    images = nearest.images.clone().requires_grad_()
    logits = model(images)
    (gradient,) = torch.autograd.grad(margin(logits, nearest.labels).sum(), images)
    return linear_distance(rounding(logits.detach()), without_blocked_pixels(gradient, nearest.images), norm)


def _answers(model: nn.Module, right: ImageSet, norm: BallNorm, upper: Array, seconds: float) -> list[ExactDistance]:
    shape = right.images.shape[1:]
    network = ReLUNetwork.of(model, shape)
    # Without a success of any attack, the whole box.
    widest = {"linf": 1.0, "l1": float(np.prod(shape))}[norm]
    pixels = right.images.flatten(1).double().numpy()
    return [
        exact_distance(network, image, label, norm, upper=min(most, widest), seconds=seconds)
        for image, label, most in zip(pixels, right.labels.tolist(), upper.tolist(), strict=True)
    ]


def _left_by_standard(defended: DefendedModel, right: ImageSet, norm: BallNorm, eps: float) -> Tensor:
    """The images ``(N,)`` that the standard suite does not break."""
    budget = AutoAttackBudget(norm=norm, eps=eps)
    model = defended.load()
    perturbed = LIBRARIES[OURS].autoattack(model, right.images, right.labels, budget)
    return unbroken(model, right, perturbed, budget)


def distance_table(
    lengths: Mapping[str, Tensor], passes: Mapping[str, str], answers: Sequence[ExactDistance], moved: Array
) -> str:
    """A table of how close each attack comes to the exact distance, on the images that are solved.

    An attack must cross the boundary by more than its tolerance of rounding errors. This part of a distance is no excess. The
    column "by rounding" counts the images that are within 1 % only for that reason.

    Args:
        lengths: By attack, ``(N,)``: its distances, infinite where it failed.
        passes: By attack, its passes per image.
        answers: The N exact distances.
        moved: ``(N,)``, how far the tolerance moves the boundary; see :func:`rounding_distance`.

    Raises:
        RuntimeError: A distance is below the proven lower bound.
    """
    lower = np.array([answer.lower for answer in answers])
    solved = np.array([answer.solved for answer in answers])
    rows = []
    for name, tensor in lengths.items():
        length = tensor.numpy()
        _require_consistent(name, length >= (1 - _ROUNDING) * lower)
        strict, excess = (_excess(length[solved], lower[solved], free[solved]) for free in (0 * moved, moved))
        rows.append(
            (
                name,
                f"{100 * np.mean(excess <= 0.01):.1f} %",
                f"{100 * np.mean(excess <= 0.1):.1f} %",
                f"{100 * excess.max(initial=0):.1f} %",
                str(int(((excess <= 0.01) & (strict > 0.01)).sum())),
                passes.get(name, ""),
            )
        )
    return markdown(("attack", "within 1 %", "within 10 %", "worst excess", "by rounding", "passes per image"), rows)


def _excess(length: Array, exact: Array, free: Array) -> Array:
    """The excess of distances over the exact ones, relative to them; infinite where the exact distance is 0."""
    farther = np.maximum(length - exact - free, 0)
    return np.divide(farther, exact, out=np.where(farther > 0, np.inf, 0.0), where=exact > 0)


def radius_table(left: Mapping[float, Tensor], answers: Sequence[ExactDistance]) -> str:
    """A table of the exact robust accuracy at each radius, and of the images that the standard suite misses.

    Args:
        left: By radius, ``(N,)`` bool: the images that the suite does not break.
        answers: The N exact distances.

    Raises:
        RuntimeError: The suite broke an image whose distance is proven to be larger than the radius.
    """
    lower = np.array([answer.lower for answer in answers])
    upper = np.array([answer.upper for answer in answers])
    rows = []
    for eps, tensor in left.items():
        standing = tensor.numpy()
        _require_consistent("standard", standing | ((1 - _ROUNDING) * lower <= eps))
        safe, broken = (lower > eps).mean(), (upper <= eps).mean()
        exact = f"{100 * safe:.1f} %" if safe + broken == 1 else f"{100 * safe:.1f} to {100 * (1 - broken):.1f} %"
        rows.append((f"{eps:g}", exact, f"{100 * standing.mean():.1f} %", str(int((standing & (upper <= eps)).sum()))))
    return markdown(("radius", "exact robust accuracy", "standard", "missed by standard"), rows)


def _require_consistent(name: str, consistent: NDArray[np.bool_]) -> None:
    if not consistent.all():
        indices = ", ".join(map(str, np.nonzero(~consistent)[0]))
        raise RuntimeError(f"{name} broke images within a distance that is proven to be safe: {indices}")

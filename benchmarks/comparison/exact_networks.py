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

__all__ = ["CASES", "ExactCase", "compare_exact", "distance_table", "radius_table", "small_conv", "small_mlp"]

_DATASET = "digits"

_ROUNDING = 1e-3
"""How far an attack on the network in single precision may come below the distance in double precision."""

_NEGLIGIBLE = 1 / 2550
"""A tenth of a step of 8-bit pixels. An excess distance below this counts as none: an attack must cross the boundary by more
than the rounding errors of the logits, and some images lie almost on it."""


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


@dataclass(frozen=True, kw_only=True)
class ExactCase:
    """A network of the comparison and a norm.

    Attributes:
        label: Its name in the output.
        network: The name of its function in this module.
        norm: The norm of the distances.
        radii: The radii at which the standard suite runs.
        defense: Its defense.
        parameters: The parameters of the defense.
    """

    label: str
    network: str
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
    ExactCase(label="64-16-16-10", network=small_mlp.__name__, norm="l1", radii=(0.5, 1.0, 1.5)),
)
"""The networks and the norms of the comparison."""


def compare_exact(cases: Sequence[ExactCase] = CASES, *, images: int, seconds: float) -> None:
    """Prints how close the minimal-norm attacks and the standard suite come to the exact distances.

    Args:
        cases: The networks and the norms.
        images: The number of correctly classified test images.
        seconds: The time limit for the exact distance of an image.

    Raises:
        RuntimeError: An attack broke an image within a distance that is proven to be safe.
    """
    examples = first_examples(load_dataset(_DATASET).split("test"), 2 * images)
    for case in cases:
        defended = case.trained()
        right = correctly_classified(defended, ImageSet(examples.images, examples.labels), most=images)
        lengths, passes = _attacked(defended, right, case.norm)
        started = time.perf_counter()
        answers = _answers(defended.load(), right, case.norm, lengths["suite minimal-norm"].numpy(), seconds)
        print(
            f"\n{case.norm}, {case.label} network, {len(right)} correctly classified images; "
            f"exact distance: {sum(answer.solved for answer in answers)} solved in "
            f"{time.perf_counter() - started:.0f} s, median {np.median([answer.upper for answer in answers]):.4f}\n"
        )
        print(distance_table(lengths, passes, answers), flush=True)
        left = {eps: _left_by_standard(defended, right, case.norm, eps) for eps in case.radii}
        print(f"\n{radius_table(left, answers)}", flush=True)


def _attacked(defended: DefendedModel, right: ImageSet, norm: BallNorm) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The distances ``(N,)`` float64 of each attack of the suite and of the suite, and the passes per image."""
    lengths, passes = {}, {}
    for name, attack in suite_attacks(norm).items():
        model = Counted(defended.load()).eval()
        lengths[name] = distances(model, right, attack(model, right.images, right.labels), norm).double()
        passes[name] = f"{model.passes / len(right):.0f}"
    lengths["suite minimal-norm"] = torch.stack(list(lengths.values())).amin(0)
    return lengths, passes


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


def distance_table(lengths: Mapping[str, Tensor], passes: Mapping[str, str], answers: Sequence[ExactDistance]) -> str:
    """A table of how close each attack comes to the exact distance, on the images that are solved.

    Args:
        lengths: By attack, ``(N,)``: its distances, infinite where it failed.
        passes: By attack, its passes per image.
        answers: The N exact distances.

    Raises:
        RuntimeError: A distance is below the proven lower bound.
    """
    lower = np.array([answer.lower for answer in answers])
    solved = np.array([answer.solved for answer in answers])
    rows = []
    for name, tensor in lengths.items():
        length = tensor.numpy()
        _require_consistent(name, length >= (1 - _ROUNDING) * lower)
        farther = np.maximum(length - lower - _NEGLIGIBLE, 0)[solved]
        excess = farther / np.maximum(lower[solved], _NEGLIGIBLE)
        rows.append(
            (
                name,
                f"{100 * np.mean(excess <= 0.01):.1f} %",
                f"{100 * np.mean(excess <= 0.1):.1f} %",
                f"{100 * excess.max(initial=0):.1f} %",
                passes.get(name, ""),
            )
        )
    return markdown(("attack", "within 1 %", "within 10 %", "worst excess", "passes per image"), rows)


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

"""Runs the same attack of several libraries, each in a process of its own, and scores what they give by one rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.threat import Threat, distance, project_exactly
from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel
from robustbench_cli.benchmarks.comparison.models import ImageSet
from robustbench_cli.benchmarks.comparison.peers import LIBRARIES, AutoAttackBudget, CWBudget, PGDBudget
from robustbench_cli.benchmarks.comparison.timing import clock

__all__ = ["Array", "Budget", "Contest", "Entry", "distances", "robust_accuracy", "stands"]

Budget = PGDBudget | CWBudget | AutoAttackBudget

# Arrays rather than tensors go to the processes: a tensor would be shared, and the processes are to have nothing in
# common.
Array = np.ndarray[Any, Any]

T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """What one library did.

    Attributes:
        perturbed: ``(N, C, H, W)`` its images of the last turn.
        seconds: Of each turn.
    """

    perturbed: Tensor
    seconds: tuple[float, ...]


class Contest(ExitStack):
    """Processes in which libraries run in turn, each alone with the settings that it makes or leaves as they are.

    Args:
        libraries: Names in :data:`LIBRARIES`.
    """

    def __init__(self, libraries: Sequence[str]) -> None:
        super().__init__()
        self._processes = {
            name: self.enter_context(
                ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_begin, initargs=(name,))
            )
            for name in libraries
        }

    def call(self, library: str, function: Callable[..., T], *arguments: Any) -> T:
        """What a function gives in a library's process; it, its arguments and its result are to be picklable."""
        return self._processes[library].submit(function, *arguments).result()

    def run(self, defended: DefendedModel, examples: ImageSet, budget: Budget, *, turns: int) -> Mapping[str, Entry]:
        """Runs one attack of every library.

        Args:
            defended: The model to attack.
            examples: N images, and the classes to leave.
            budget: The attack and its parameters.
            turns: Times that each library runs, after a run of three steps that is not counted.
        """
        seconds: dict[str, list[float]] = {name: [] for name in self._processes}
        perturbed: dict[str, Array] = {}
        for turn in range(-1, turns):
            asked = _short(budget) if turn < 0 else budget
            for name in self._processes:
                perturbed[name], spent = self.call(
                    name, _attack, name, defended, examples.images.numpy(), examples.labels.numpy(), asked
                )
                if turn >= 0:
                    seconds[name].append(spent)
        return {name: Entry(torch.from_numpy(perturbed[name]), tuple(seconds[name])) for name in self._processes}


def robust_accuracy(
    model: nn.Module, examples: ImageSet, perturbed: Tensor, budget: PGDBudget | AutoAttackBudget
) -> float:
    """The share of images that stand; see :func:`stands`."""
    return stands(model, examples, perturbed, budget).double().mean().item()


def stands(model: nn.Module, examples: ImageSet, perturbed: Tensor, budget: PGDBudget | AutoAttackBudget) -> Tensor:
    """``(N,)``, which images are classified right, after what left the ball or the box was projected back.

    Args:
        model: In ``eval()`` mode.
        examples: The N images.
        perturbed: ``(N, C, H, W)``.
        budget: Gives the norm and the radius.
    """
    eps = torch.full((len(examples),), budget.eps, dtype=torch.float64)
    inside = project_exactly(perturbed, examples.images, Threat(norm=budget.norm, eps=eps))
    return ~_fooled(model, inside, examples.labels)


def distances(model: nn.Module, examples: ImageSet, perturbed: Tensor, norm: Norm = "l2") -> Tensor:
    """``(N,)`` norms of the perturbations that fool the model, infinite where one does not; see :func:`stands`."""
    found = perturbed.clamp(0, 1)
    return distance(found, examples.images, norm).where(_fooled(model, found, examples.labels), torch.inf)


@torch.no_grad()
def _fooled(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    fooled: Tensor = model(images).argmax(1) != labels
    return fooled


def _short(budget: Budget) -> Budget:
    """A run of three steps, to warm up."""
    if isinstance(budget, AutoAttackBudget):
        return PGDBudget(norm=budget.norm, eps=budget.eps, steps=3)
    return replace(budget, steps=3)


def _begin(name: str) -> None:
    LIBRARIES[name].begin()


def _attack(name: str, defended: DefendedModel, images: Array, labels: Array, budget: Budget) -> tuple[Array, float]:
    """What a library gives, and the seconds that its attack took."""
    library = LIBRARIES[name]
    model = library.wrap(defended.load())
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    started = clock()
    if isinstance(budget, PGDBudget):
        found = library.pgd(model, x, y, budget)
    elif isinstance(budget, CWBudget):
        found = library.cw(model, x, y, budget)
    else:
        found = library.autoattack(model, x, y, budget)
    seconds = clock() - started
    return found.detach().contiguous().numpy(), seconds

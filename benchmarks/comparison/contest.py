"""Runs the same attack of several libraries, each in its own process, and scores the images by one rule."""

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

__all__ = ["Array", "Budget", "Contest", "Entry", "distances", "robust_accuracy", "unbroken"]

Budget = PGDBudget | CWBudget | AutoAttackBudget

# The processes get arrays and not tensors, since tensors would be in shared memory.
Array = np.ndarray[Any, Any]

T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """The result of one library.

    Attributes:
        perturbed: ``(N, C, H, W)``, the perturbed images of the last turn.
        seconds: The seconds of each turn.
    """

    perturbed: Tensor
    seconds: tuple[float, ...]


class Contest(ExitStack):
    """A process for each library, so that no library changes the settings of another. They run in turn.

    Args:
        libraries: Names in :data:`~.peers.LIBRARIES`.
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
        """Calls a function in a library's process.

        Args:
            library: Its name.
            function: Picklable, like its arguments and its result.
            *arguments: Of the function.
        """
        return self._processes[library].submit(function, *arguments).result()

    def run(self, defended: DefendedModel, examples: ImageSet, budget: Budget, *, turns: int) -> Mapping[str, Entry]:
        """Runs one attack of every library.

        Args:
            defended: The model to attack.
            examples: N images, and the classes to leave.
            budget: The attack and its parameters.
            turns: Timed runs of each library. A run of three steps comes first and is not timed; AutoAttack takes too
                long to need one.
        """
        seconds: dict[str, list[float]] = {name: [] for name in self._processes}
        perturbed: dict[str, Array] = {}
        warm_ups = [] if isinstance(budget, AutoAttackBudget) else [replace(budget, steps=3)]
        for turn, turn_budget in enumerate([*warm_ups, *turns * [budget]]):
            for name in self._processes:
                perturbed[name], spent = self.call(
                    name, _attack, name, defended, examples.images.numpy(), examples.labels.numpy(), turn_budget
                )
                if turn >= len(warm_ups):
                    seconds[name].append(spent)
        return {name: Entry(torch.from_numpy(perturbed[name]), tuple(seconds[name])) for name in self._processes}


def robust_accuracy(
    model: nn.Module, examples: ImageSet, perturbed: Tensor, budget: PGDBudget | AutoAttackBudget
) -> float:
    """The share of unbroken images; see :func:`unbroken`."""
    return unbroken(model, examples, perturbed, budget).double().mean().item()


def unbroken(model: nn.Module, examples: ImageSet, perturbed: Tensor, budget: PGDBudget | AutoAttackBudget) -> Tensor:
    """Which images ``(N,)`` the model still classifies correctly, after a projection into the ball and the box.

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
    """The norms ``(N,)`` of the perturbations; infinite where the image is still classified correctly.

    Args:
        model: In ``eval()`` mode.
        examples: The N images.
        perturbed: ``(N, C, H, W)``, clipped to the box here.
        norm: The norm of the distance.
    """
    clipped = perturbed.clamp(0, 1)
    return distance(clipped, examples.images, norm).where(_fooled(model, clipped, examples.labels), torch.inf)


@torch.no_grad()
def _fooled(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    fooled: Tensor = model(images).argmax(1) != labels
    return fooled


def _begin(name: str) -> None:
    LIBRARIES[name].begin()


def _attack(name: str, defended: DefendedModel, images: Array, labels: Array, budget: Budget) -> tuple[Array, float]:
    """Runs the attack of a library: its perturbed images, and its seconds."""
    library = LIBRARIES[name]
    model = library.wrap(defended.load())
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    started = clock()
    if isinstance(budget, PGDBudget):
        perturbed = library.pgd(model, x, y, budget)
    elif isinstance(budget, CWBudget):
        perturbed = library.cw(model, x, y, budget)
    else:
        perturbed = library.autoattack(model, x, y, budget)
    seconds = clock() - started
    return perturbed.detach().contiguous().numpy(), seconds

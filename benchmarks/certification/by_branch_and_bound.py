"""Certificates by branch and bound over ReLU inputs, for images that linear relaxation alone leaves open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.losses import margin
from robustbench_cli.attacks.base.threat import Threat, project, steepest_ascent
from robustbench_cli.benchmarks.certification.bounds.activations import Rectifier
from robustbench_cli.benchmarks.certification.bounds.branch_and_bound import prove
from robustbench_cli.benchmarks.certification.bounds.linear_bounds import relax
from robustbench_cli.benchmarks.certification.bounds.network import Network
from robustbench_cli.benchmarks.certification.by_linear_relaxation import LinearRelaxation, Problem
from robustbench_cli.core.errors import UserError

__all__ = ["SMALL", "BranchAndBound", "splittable"]

SMALL = 2000
"""The most ReLU inputs of a network that the method ``auto`` splits."""

_STEPS = 40
"""Steps of the attack that spares branch and bound the images that it breaks."""


def splittable(network: Network) -> int:
    """The number of ReLU inputs of a network.

    Args:
        network: The network.
    """
    sizes = [
        channels * height * width
        for operation, (channels, height, width) in zip(network.operations, network.shapes, strict=True)
        if isinstance(operation, Rectifier)
    ]
    return sum(sizes)


@dataclass(frozen=True, kw_only=True)
class BranchAndBound(LinearRelaxation):
    """Certification by linear relaxation, and by branch and bound where that is not enough.

    Attributes:
        branches: The most subproblems for one image and radius.

    Raises:
        UserError: As for :class:`LinearRelaxation`, or there are fewer than 1 subproblems.
    """

    name: ClassVar[str] = "branch-and-bound"

    branches: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.branches < 1:
            raise UserError(f"branches is {self.branches}: give a number of subproblems, at least 1")

    def _network(self, model: nn.Module, images: Tensor) -> Network:
        network = super()._network(model, images)
        if not splittable(network):
            raise UserError("the model has no ReLU for branch and bound to split: give --method linear")
        return network

    def proven(self, problem: Problem) -> Tensor:
        with torch.no_grad():
            proven = relax(problem.network, problem.ball(), size=problem.size).margins(problem.labels).amin(1)
        holds = proven > problem.tolerances
        for index in (~holds & ~_broken(problem)).nonzero()[:, 0]:
            one = problem.select(index[None])
            with torch.no_grad():
                relaxation = relax(one.network, one.ball(), size=one.size)
                holds[index] = prove(relaxation, one.labels, float(one.tolerances), branches=self.branches)
        return holds


def _broken(problem: Problem) -> Tensor:
    """For which images ``(N,)`` projected gradient steps find another class within the radius; they cannot be proven."""
    threat = Threat(norm=problem.norm, eps=problem.ball().eps)
    perturbed, size = problem.images, problem.eps / 4
    broken = torch.zeros(len(perturbed), dtype=torch.bool, device=perturbed.device)
    for _ in range(_STEPS):
        leaf = perturbed.clone().requires_grad_()
        with torch.enable_grad():
            value = margin(problem.model(leaf), problem.labels)
            (gradient,) = torch.autograd.grad(value.sum(), leaf)
        broken |= value <= 0
        perturbed = project(perturbed - size * steepest_ascent(gradient, problem.norm), problem.images, threat)
        size *= 0.95
    return broken

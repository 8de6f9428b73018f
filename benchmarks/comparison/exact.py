"""The exact distance of an image to misclassification by a small ReLU network, by mixed-integer programming."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, OptimizeResult, milp

from robustbench_cli.benchmarks.comparison.relu_network import Affine, Array, Ball, BallNorm, ReLUNetwork

__all__ = ["GAP", "ExactDistance", "exact_distance"]

GAP = 1e-4
"""The relative gap between the proven bounds of a distance that counts as exact."""

_INFEASIBLE = 2
"""The status of a program without a solution."""


@dataclass(frozen=True)
class ExactDistance:
    """The bounds of a distance.

    Attributes:
        lower: No image that is nearer than this is misclassified.
        upper: The distance of an image on the decision boundary or beyond it.
        nodes: The nodes of all branch-and-bound trees.
        seconds: The time that it took.
    """

    lower: float
    upper: float
    nodes: int
    seconds: float

    @property
    def solved(self) -> bool:
        """Whether the bounds agree to :data:`GAP`."""
        return self.lower >= (1 - GAP) * self.upper


def exact_distance(
    network: ReLUNetwork, image: Array, label: int, norm: BallNorm, *, upper: float, seconds: float
) -> ExactDistance:
    """Finds the smallest distance at which some other logit is at least the label's.

    One mixed-integer program for each other class: a binary variable says whether an unstable ReLU is active (Tjeng, Xiao,
    Tedrake: Evaluating Robustness of Neural Networks with Mixed Integer Programming. ICLR 2019, arXiv 1711.07356). The
    distance that an attack found makes the programs small, since the bounds of the neurons hold only within it. Most
    programs then have no solution, which proves that there is nothing nearer.

    Args:
        network: The network.
        image: ``(P,)``, the pixels in [0, 1].
        label: The class to leave.
        norm: The norm of the distance.
        upper: The distance of a misclassified image, such as an attack's result.
        seconds: The time limit.
    """
    started = time.perf_counter()
    logits = network(image)
    if np.delete(logits, label).max() >= logits[label]:
        return ExactDistance(0.0, 0.0, 0, time.perf_counter() - started)
    lower, nodes = upper, 0
    for other in np.argsort(-logits):
        if other == label:
            continue
        left = seconds - (time.perf_counter() - started)
        proven, witness, count = _distance_to(network, image, (label, int(other)), norm, upper, left)
        lower, upper, nodes = min(lower, proven), min(upper, witness), nodes + count
    return ExactDistance(min(lower, upper), upper, nodes, time.perf_counter() - started)


def _distance_to(
    network: ReLUNetwork, image: Array, classes: tuple[int, int], norm: BallNorm, upper: float, seconds: float
) -> tuple[float, float, int]:
    """A lower bound of the distance to a class, the distance of an image there, and the nodes of the tree.

    The search is for images that are nearer than ``upper`` by more than half of the gap. Without one, the bound is the
    radius of that search.
    """
    ball = Ball(image, upper * (1 - GAP / 2), norm)
    lead = _lead(classes, len(network.layers[-1].bias))
    known = network.bounds(ball)
    if network.smallest(lead, known, ball)[0] > 0:
        return ball.radius, np.inf, 0
    if seconds <= 0:
        return 0.0, np.inf, 0
    program = _Program.of(network, known, ball, lead)
    result = program.solve(seconds)
    nodes = int(result.mip_node_count or 0)
    if result.status == _INFEASIBLE:
        return ball.radius, np.inf, nodes
    # A program without binary variables has no bound but its solution.
    bound = result.fun if result.mip_dual_bound is None else result.mip_dual_bound
    if result.x is None:
        return max(0.0, bound or 0.0), np.inf, nodes
    return max(0.0, bound), _verified_distance(network, program.pixels(result.x), ball, lead), nodes


def _verified_distance(network: ReLUNetwork, pixels: Array, ball: Ball, lead: Affine) -> float:
    """The distance of the first point beyond a solution at which a function of the logits is at most 0; else infinite.

    The solver fulfills its constraints to rounding errors only.
    """
    change = pixels - ball.center
    for excess in (0.0, *(GAP / 100 * 2.0**k for k in range(11))):
        point = np.clip(ball.center + (1 + excess) * change, 0, 1)
        if lead(network(point))[0] <= 0:
            return float(np.linalg.norm(point - ball.center, np.inf if ball.norm == "linf" else 1))
    return np.inf


def _lead(classes: tuple[int, int], count: int) -> Affine:
    """The lead of the first class over the second, as a function of the logits."""
    weight = np.zeros((1, count))
    weight[0, classes] = 1, -1
    return Affine(weight, np.zeros(1))


@dataclass(frozen=True)
class _Program:
    """The mixed-integer program of the smallest change with which a function of the logits is at most 0.

    The variables are the increases and the decreases of the P pixels, the distance, and for each unstable ReLU its output
    and whether it is active.

    Attributes:
        ball: The images among which to search.
        highest: ``(V,)``, the upper bounds of the variables; the lower bounds are 0.
        binary: ``(V,)`` bool.
        rows: ``(R, V)``, the constraints ``rows @ variables <= limits``.
        limits: ``(R,)``.
    """

    ball: Ball
    highest: Array
    binary: Array
    rows: sparse.csr_array
    limits: Array

    @classmethod
    def of(cls, network: ReLUNetwork, known: Sequence[tuple[Array, Array]], ball: Ball, lead: Affine) -> _Program:
        """The program of a network.

        Args:
            network: The network.
            known: The bounds of the inputs of its ReLU layers over the ball.
            ball: The images among which to search.
            lead: The function of the logits.
        """
        pixels = len(ball.center)
        unstable = [(low < 0) & (high > 0) for low, high in known]
        count = 2 * pixels + 1 + 2 * sum(int(mask.sum()) for mask in unstable)
        unit = np.eye(count)
        increases, decreases, distance = unit[:pixels], unit[pixels : 2 * pixels], unit[2 * pixels]
        if ball.norm == "linf":
            rows = [increases + decreases - distance]
        else:
            rows = [(increases + decreases).sum(0, keepdims=True) - distance]
        limits = [np.zeros(len(rows[0]))]
        highest = [ball.high - ball.center, ball.center - ball.low, np.array([ball.radius])]
        binary = np.zeros(count)
        outputs, at = Affine(increases - decreases, ball.center), 2 * pixels + 1
        for layer, (low, high), mask in zip(network.layers[:-1], known, unstable, strict=True):
            inputs, size = layer.after(outputs), int(mask.sum())
            output, active = unit[at : at + size], unit[at + size : at + 2 * size]
            binary[at + size : at + 2 * size] = 1
            at += 2 * size
            highest += [high[mask], np.ones(size)]
            weight, bias, least = inputs.weight[mask], inputs.bias[mask], low[mask]
            rows += [weight - output, output - weight - least[:, None] * active, output - high[mask, None] * active]
            limits += [-bias, bias - least, np.zeros(size)]
            stable = (low >= 0).astype(float)
            outputs = Affine(inputs.weight * stable[:, None], inputs.bias * stable)
            outputs.weight[mask], outputs.bias[mask] = output, 0
        final = lead.after(network.layers[-1]).after(outputs)
        return cls(
            ball,
            np.concatenate(highest),
            binary,
            sparse.csr_array(np.concatenate([*rows, final.weight])),
            np.concatenate([*limits, -final.bias]),
        )

    def solve(self, seconds: float) -> OptimizeResult:
        """Minimizes the distance; see :func:`scipy.optimize.milp`."""
        objective = np.zeros(len(self.highest))
        objective[2 * len(self.ball.center)] = 1
        with _silenced():
            return milp(
                objective,
                integrality=self.binary,
                bounds=Bounds(0, self.highest),
                constraints=LinearConstraint(self.rows, -np.inf, self.limits),
                options={"time_limit": seconds, "mip_rel_gap": GAP / 2},
            )

    def pixels(self, variables: Array) -> Array:
        """The image ``(P,)`` of a solution ``(V,)``."""
        size = len(self.ball.center)
        pixels = self.ball.center + variables[:size] - variables[size : 2 * size]
        return np.clip(pixels, self.ball.low, self.ball.high)


@contextmanager
def _silenced() -> Iterator[None]:
    """Sends the process's own standard output to nowhere: HiGHS prints there even if it is told not to."""
    sys.stdout.flush()
    before, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(before, 1)
        os.close(before)
        os.close(nowhere)

"""The ways to certify a model, and their identity in a store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.benchmarks.certification.bounds.network import Network
from robustbench_cli.benchmarks.certification.by_branch_and_bound import SMALL, BranchAndBound, splittable
from robustbench_cli.benchmarks.certification.by_distance import BoundaryDistance, is_linear
from robustbench_cli.benchmarks.certification.by_interval_bounds import Intervals
from robustbench_cli.benchmarks.certification.by_linear_relaxation import LinearRelaxation
from robustbench_cli.benchmarks.certification.by_smoothing import Smoothing, VoteCounts
from robustbench_cli.benchmarks.certification.certified_radius import CertifiedRadius
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.surgery.interval_bounds import is_boundable
from robustbench_cli.defenses.base.training.at_once import learner_in

__all__ = ["CERTIFICATE_FLAGS", "ImageRecord", "Procedure", "choose", "identity_of", "procedure_of"]

CERTIFICATE_FLAGS = {
    "no-noise-training": "the model was not trained with noise on its images, so few images can be certified: train it with "
    "--defense randomized-smoothing",
    "other-noise": "the noise in training had another standard deviation than sigma",
    "no-bound-training": "the model was not trained for interval bounds, so few images can be certified: train it with "
    "--defense ibp",
}
"""The flags of a certified model, with the text of the table's legend."""

Procedure = Smoothing | Intervals | LinearRelaxation | BoundaryDistance
"""How a model is certified."""

_KINDS: tuple[type[Procedure], ...] = (Smoothing, Intervals, LinearRelaxation, BranchAndBound, BoundaryDistance)

ImageRecord = VoteCounts | CertifiedRadius
"""The stored result of one image."""


def identity_of(procedure: Procedure, seed: int) -> dict[str, Any]:
    """The part of a certification's identity that comes from its procedure.

    Args:
        procedure: How the model is certified.
        seed: The seed of the draws; only smoothing has any.
    """
    if isinstance(procedure, Smoothing):
        return {"smoothing": procedure.parameters, "seed": seed}
    return {procedure.name: procedure.parameters}


def procedure_of(identity: dict[str, Any]) -> Procedure:
    """The procedure that a stored identity names: the inverse of :func:`identity_of`.

    Raises:
        UserError: A parameter is out of range.
        ValueError: It names no procedure.
    """
    (kind,) = (kind for kind in _KINDS if kind.name in identity)
    return kind(**identity[kind.name])


def choose(
    method: str,
    model: nn.Module,
    images: Tensor,
    *,
    eps: Sequence[float],
    norm: Norm = "linf",
    branches: int | None = None,
) -> Procedure:
    """The deterministic procedure of a method.

    ``auto`` is the strongest that a model allows: the exact distance for linear classifiers; branch and bound for networks of
    up to :data:`~.by_branch_and_bound.SMALL` ReLU inputs; linear relaxation for others; interval bounds for networks whose
    layers only these know, and where no radius is to be tried.

    Args:
        method: ``auto``, or the name of a procedure.
        model: It may be untrained.
        images: ``(N, C, H, W)`` in [0, 1], N >= 1.
        eps: The radii to try; interval bounds and distances find the largest radius instead.
        norm: The norm of the radii; interval bounds know linf only.
        branches: See :class:`~.by_branch_and_bound.BranchAndBound`; ``None`` for its default.

    Raises:
        UserError: The model cannot be certified by this method, a value does not fit the method, or nothing is known of the
            model before its training.
    """
    learner = learner_in(model)
    if learner is not None and not learner.has_learned:
        raise UserError(
            "before its training, nothing says how this model can be certified: train it by 'advdef train', and give --checkpoint"
        )
    if method == "auto":
        method = _strongest(model, images, eps=eps, norm=norm, split=branches is not None)
    if branches is not None and method != "branch-and-bound":
        raise UserError(f"--branches is for --method branch-and-bound, not {method}: leave it out")
    procedure: Procedure
    if method == "intervals":
        if norm != "linf":
            raise UserError(f"interval bounds are in linf, not in {norm}: give --method linear")
        procedure = Intervals()
    elif method == "distance":
        procedure = BoundaryDistance(norm=norm)
    elif method == "linear":
        procedure = LinearRelaxation(eps=eps, norm=norm)
    else:
        procedure = BranchAndBound(eps=eps, norm=norm, **({} if branches is None else {"branches": branches}))
    procedure.require(model, images)
    return procedure


def _strongest(model: nn.Module, images: Tensor, *, eps: Sequence[float], norm: Norm, split: bool) -> str:
    """The method that ``auto`` selects; ``split`` asks for branch and bound of networks of any size."""
    try:
        network = Network(model, images)
    except UserError:
        network = None
    if network is not None and is_linear(network) and not split:
        return "distance"
    if norm == "linf" and not any(eps) and not split:
        return "intervals"
    if network is None:
        if norm == "linf" and not split and is_boundable(model):
            return "intervals"
        return "linear"
    return "branch-and-bound" if split or 0 < splittable(network) <= SMALL else "linear"

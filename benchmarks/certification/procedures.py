"""The ways to certify a model, and their identity in a store."""

from __future__ import annotations

from typing import Any

from robustbench_cli.benchmarks.certification.by_interval_bounds import CertifiedRadius, Intervals
from robustbench_cli.benchmarks.certification.by_smoothing import Smoothing, VoteCounts

__all__ = ["CERTIFICATE_FLAGS", "ImageRecord", "Procedure", "identity_of", "procedure_of"]

CERTIFICATE_FLAGS = {
    "no-noise-training": "the model was not trained with noise on its images, so few images can be certified: train it with "
    "--defense randomized-smoothing",
    "other-noise": "the noise in training had another standard deviation than sigma",
    "no-bound-training": "the model was not trained for interval bounds, so few images can be certified: train it with "
    "--defense ibp",
}
"""The flags of a certified model, with the text of the table's legend."""

Procedure = Smoothing | Intervals
"""How a model is certified."""

ImageRecord = VoteCounts | CertifiedRadius
"""The stored result of one image."""


def identity_of(procedure: Procedure, seed: int) -> dict[str, Any]:
    """The part of a certification's identity that comes from its procedure.

    Args:
        procedure: How the model is certified.
        seed: The seed of the draws; interval bounds have none.
    """
    if isinstance(procedure, Smoothing):
        return {"smoothing": procedure.parameters, "seed": seed}
    return {"intervals": procedure.parameters}


def procedure_of(identity: dict[str, Any]) -> Procedure:
    """The procedure that a stored identity names: the inverse of :func:`identity_of`.

    Raises:
        UserError: A parameter of the smoothing is out of range.
    """
    return Smoothing(**identity["smoothing"]) if "smoothing" in identity else Intervals()

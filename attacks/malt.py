"""MALT: targeted Auto-PGD towards the classes with the nearest linearized decision boundaries."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from robustbench_cli.attacks.apgd_t import APGDT
from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.search.linearization import by_boundary_distance
from robustbench_cli.attacks.base.threat import Threat

__all__ = ["MALT"]

_CANDIDATES = 100
"""The likeliest other classes whose decision boundaries are linearized, as in the paper."""


class MALT(APGDT):
    """Auto-PGD towards the classes whose decision boundaries are nearest: ``apgd-t`` with another choice of targets.

    The logits are linearized at the clean image, which costs a backward pass for the label and for each of the 100 most
    likely other classes. The targets are those with the smallest distance ``(Z_y - Z_t) / |grad(Z_y - Z_t)|``, where the
    gradient is measured in the dual of the threat's norm. Three of these targets break about as many images as nine of the
    most likely classes.
    """

    paper: ClassVar[str] = (
        "Melamed, Yehudai, Shamir: MALT Powers Up Adversarial Attacks. NeurIPS 2024, arXiv 2407.02240; the search is that "
        "of Croce, Hein: Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free Attacks. "
        "ICML 2020, arXiv 2003.01690"
    )

    def classes_in_order(
        self, source: GradientSource, images: Tensor, labels: Tensor, logits: Tensor, threat: Threat
    ) -> Tensor:
        likeliest = super().classes_in_order(source, images, labels, logits, threat)[:, : 1 + _CANDIDATES]
        return by_boundary_distance(source, images, likeliest, threat.norm)

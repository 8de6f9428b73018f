"""Certificates by linear relaxation: radii within which no attack changes the class that a network predicts."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.losses import rounding
from robustbench_cli.attacks.base.models.freezing import frozen
from robustbench_cli.attacks.base.models.passes import BatchSize, logits_of
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.benchmarks.certification.bounds.linear_bounds import Ball, relax
from robustbench_cli.benchmarks.certification.bounds.network import Network
from robustbench_cli.benchmarks.certification.by_interval_bounds import Intervals
from robustbench_cli.benchmarks.certification.certificates import Certificates
from robustbench_cli.benchmarks.certification.certified_radius import CertifiedRadius, enlarged, records_by_batch
from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel
from robustbench_cli.core.errors import UserError

__all__ = ["LinearRelaxation", "Problem"]

_IMAGES = 8
"""Images at once, unless the user chooses. All their values have bounds and lines in memory."""


@dataclass(frozen=True)
class Problem:
    """N images whose predicted classes are to be proven within one radius.

    Attributes:
        model: The model, in single precision.
        network: Its operations.
        images: ``(N, C, H, W)`` in [0, 1].
        labels: ``(N,)`` the classes that the model predicts.
        tolerances: ``(N,)``: all other logits must lie below the label's by more than this.
        eps: The radius.
        norm: The norm of the radius.
        size: Halved where the memory is too small.
    """

    model: nn.Module
    network: Network
    images: Tensor
    labels: Tensor
    tolerances: Tensor
    eps: float
    norm: Norm
    size: BatchSize

    def ball(self) -> Ball:
        """The images within the radius of each image."""
        center = self.images.double()
        return Ball(center, torch.full_like(center[:, 0, 0, 0], self.eps), self.norm)

    def select(self, index: Tensor) -> Problem:
        """The problem of some of the images."""
        images, labels, tolerances = self.images[index], self.labels[index], self.tolerances[index]
        return replace(self, images=images, labels=labels, tolerances=tolerances)


@dataclass(frozen=True, kw_only=True)
class LinearRelaxation:
    """Certification by linear relaxation (CROWN). It is deterministic.

    Each radius is tried for each image, from the smallest on, until one cannot be proven.

    Attributes:
        eps: The radii above 0, in ascending order.
        norm: ``linf``, ``l2`` or ``l1``.

    Raises:
        UserError: There is no radius above 0, one is not finite, or the norm is another.
    """

    record: ClassVar[type[CertifiedRadius]] = CertifiedRadius
    name: ClassVar[str] = "linear"

    eps: Sequence[float]
    norm: Norm = "linf"

    def __post_init__(self) -> None:
        object.__setattr__(self, "eps", tuple(sorted({radius for radius in self.eps if radius != 0})))
        if not self.eps or not all(math.isfinite(radius) and radius > 0 for radius in self.eps):
            raise UserError(
                f"the method {self.name} tries given radii: give an --eps above 0, or --method intervals, which finds "
                "the largest radius"
            )
        if self.norm not in {"linf", "l2", "l1"}:
            raise UserError(f"the method {self.name} has no certificates in {self.norm}: give linf, l2 or l1")

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters that are part of the stored identity."""
        return {**vars(self), "eps": list(self.eps)}

    @property
    def passes(self) -> int:
        """Forward passes per image: one for the prediction, and at most one for each radius."""
        return 1 + len(self.eps)

    def flags(self, defended: DefendedModel) -> list[str]:
        """The names of the :data:`~.procedures.CERTIFICATE_FLAGS` that apply to a model: none."""
        return []

    def require(self, model: nn.Module, images: Tensor) -> None:
        """Checks that a model can be certified.

        Args:
            model: It may be untrained.
            images: ``(N, C, H, W)`` in [0, 1], N >= 1.

        Raises:
            UserError: The model has an operation without a linear relaxation.
        """
        self._network(model, images)

    def _network(self, model: nn.Module, images: Tensor) -> Network:
        """The operations of a model that can be certified; see :meth:`require`."""
        try:
            return Network(model, images)
        except UserError as error:
            raise UserError(f"{error}; or give --sigma SIGMA, such as 0.25, which certifies any model") from error

    def examine(
        self,
        model: nn.Module,
        images: Tensor,
        *,
        indices: Sequence[int],
        seed: int,
        device: torch.device,
        batch_size: int | None,
    ) -> Iterator[CertifiedRadius]:
        """Computes the records of images.

        Args:
            model: The model; it stays unchanged.
            images: ``(N, C, H, W)`` in [0, 1].
            indices: The images' indices in the data slice.
            seed: Not used.
            device: The device to compute on.
            batch_size: Images at once.

        Yields:
            For each image the largest radius that is proven.

        Raises:
            UserError: The model has an operation without a linear relaxation.
        """
        model, size = copy.deepcopy(model).to(device), BatchSize(batch_size or _IMAGES)
        network = self._network(model, images)
        with frozen(model):

            def radii_of(rows: Tensor) -> tuple[Tensor, Tensor]:
                logits = logits_of(model, rows, size)
                problem = Problem(
                    model=model,
                    network=network,
                    images=rows,
                    labels=logits.argmax(1),
                    tolerances=rounding(logits),
                    eps=0.0,
                    norm=self.norm,
                    size=BatchSize(),
                )
                return problem.labels, self._radii(problem)

            yield from records_by_batch(images, indices, radii_of, device=device, size=size)

    def _radii(self, problem: Problem) -> Tensor:
        """``(N,)``: the largest proven radii; 0 where none is proven."""
        radii = torch.zeros(len(problem.images), dtype=torch.float64, device=problem.images.device)
        remaining = torch.arange(len(radii), device=radii.device)
        for eps in map(enlarged, self.eps):
            part = problem.select(remaining)
            remaining = remaining[self.proven(replace(part, eps=eps))]
            radii[remaining] = eps
            if not len(remaining):
                break
        return radii

    def proven(self, problem: Problem) -> Tensor:
        """For which images ``(N,)`` all other logits provably lie below the label's within the radius."""
        with torch.no_grad():
            margins = relax(problem.network, problem.ball(), size=problem.size).margins(problem.labels)
        return margins.amin(1) > problem.tolerances

    def certificates(self, records: Sequence[CertifiedRadius], *, alpha: float) -> Certificates:
        """The certificates that follow from the records.

        Args:
            records: One for each image.
            alpha: Not used: the bounds are proofs.
        """
        return Intervals().certificates(records, alpha=alpha)

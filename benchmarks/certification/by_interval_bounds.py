"""Certificates by interval bounds: linf radii within which no attack changes the class that a network predicts."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.losses import rounding
from robustbench_cli.attacks.base.models.freezing import frozen
from robustbench_cli.attacks.base.models.passes import BatchSize, logits_of
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.benchmarks.certification.certificates import Certificates
from robustbench_cli.benchmarks.certification.certified_radius import CertifiedRadius
from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel
from robustbench_cli.benchmarks.devices import automatic_batch_size
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses import registry as defenses
from robustbench_cli.defenses.base.surgery.interval_bounds import require_boundable, worst_logits
from robustbench_cli.defenses.ibp import IBP

__all__ = ["BISECTION_STEPS", "Intervals", "certified_radii"]

BISECTION_STEPS = 17
"""Steps of the bisection over [0, 1]. They give the radius to 1/131072 of the pixel scale."""


def certified_radii(
    model: nn.Module,
    images: Tensor,
    *,
    indices: Sequence[int] | None = None,
    device: torch.device | str = "cpu",
    batch_size: int | None = None,
) -> Iterator[CertifiedRadius]:
    """Finds the largest radius that interval bounds certify for each image, by bisection.

    The bounds are computed in double precision for a model that runs in single precision. So they include the rounding
    errors of each layer's sums. The logits must differ by more than two implementations of a convolution can differ.

    Args:
        model: A sequential network; see :func:`~robustbench_cli.defenses.base.surgery.interval_bounds.require_boundable`.
        images: ``(N, C, H, W)`` in [0, 1].
        indices: The images' indices in the data slice; 0 to N - 1 by default.
        device: The device to compute on.
        batch_size: Images per forward pass; chosen for the device by default.

    Yields:
        The radius of each image, in the order of the images.

    Raises:
        UserError: The model has a layer for which there are no interval bounds.
    """
    _require_bounded(model)
    model = copy.deepcopy(model).to(device)
    size = BatchSize(batch_size or automatic_batch_size(torch.device(device), tuple(images.shape[1:])))
    numbers = list(range(len(images))) if indices is None else list(indices)
    with frozen(model), torch.no_grad():
        batches = list(size.slices(len(images)))
        logits = torch.cat([logits_of(model, images[batch].to(device), size) for batch in batches])
        # A difference of two logits must exceed the rounding error.
        labels, tolerances = logits.argmax(1), rounding(logits)
        model.double()
        for batch in batches:
            started = time.perf_counter()
            rows = images[batch].to(device, torch.float64)
            radii = _bisect_in_slices(model, rows, labels[batch], tolerances[batch], size)
            seconds = (time.perf_counter() - started) / len(rows)
            for index, label, radius in zip(numbers[batch], labels[batch].tolist(), radii, strict=True):
                yield CertifiedRadius(index=index, predicted=label, radius=radius, seconds=seconds)


def _bisect_in_slices(
    model: nn.Module, images: Tensor, labels: Tensor, tolerances: Tensor, size: BatchSize
) -> list[float]:
    """The radii of :func:`_bisect`, in slices that fit the memory."""

    def compute() -> Tensor:
        parts = size.slices(len(images))
        return torch.cat([_bisect(model, images[part], labels[part], tolerances[part]) for part in parts])

    radii: list[float] = size.retry_smaller(len(images), compute).tolist()
    return radii


def _bisect(model: nn.Module, images: Tensor, labels: Tensor, tolerance: Tensor) -> Tensor:
    """The largest radii ``(N,)`` at which all other logits provably lie ``tolerance`` below the label's logit."""

    def proven(eps: Tensor) -> Tensor:
        worst = worst_logits(model, images, labels, eps, unit_roundoff=torch.finfo(torch.float32).eps / 2)
        return worst.scatter(1, labels[:, None], -torch.inf).amax(1) < -tolerance

    low, high = torch.zeros(len(images)).to(images), torch.ones(len(images)).to(images)
    for _ in range(BISECTION_STEPS):
        middle = (low + high) / 2
        holds = proven(middle)
        low, high = torch.where(holds, middle, low), torch.where(holds, high, middle)
    return low


def _require_bounded(model: nn.Module) -> None:
    """Checks that interval bounds exist for a model, and names the alternative in the error."""
    try:
        require_boundable(model)
    except UserError as error:
        raise UserError(f"{error}; or give --sigma SIGMA, such as 0.25, which certifies any model") from error


@dataclass(frozen=True)
class Intervals:
    """Certification by interval bounds. It has no parameters and is deterministic."""

    norm: ClassVar[Norm] = "linf"
    record: ClassVar[type[CertifiedRadius]] = CertifiedRadius
    name: ClassVar[str] = "intervals"

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters that are part of the stored identity: none."""
        return {}

    @property
    def passes(self) -> int:
        """Forward passes per image: one for the prediction, and two for the bounds at each radius."""
        return 1 + 2 * BISECTION_STEPS

    def flags(self, defended: DefendedModel) -> list[str]:
        """The names of the :data:`~.procedures.CERTIFICATE_FLAGS` that apply to a model."""
        trained = any(issubclass(defenses.load(spec.name), IBP) for spec in defended.defenses)
        return [] if trained else ["no-bound-training"]

    def require(self, model: nn.Module, images: Tensor) -> None:
        """Checks that a model can be certified.

        Args:
            model: It may be untrained.
            images: Not used.

        Raises:
            UserError: The model has a layer for which there are no interval bounds.
        """
        _require_bounded(model)

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
        """Computes the records of images; see :func:`certified_radii`. The seed is not used."""
        return certified_radii(model, images, indices=indices, device=device, batch_size=batch_size)

    def certificates(self, records: Sequence[CertifiedRadius], *, alpha: float) -> Certificates:
        """The certificates that follow from the records.

        Args:
            records: One for each image.
            alpha: Not used: interval bounds are proofs.
        """
        radius = np.array([record.radius for record in records])
        predicted = np.array([record.predicted for record in records], dtype=np.int64)
        return Certificates(predicted=np.where(radius > 0, predicted, -1), radius=radius)

"""Certificates by interval bounds: radii in linf inside of which no attack changes what a network says."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from robustbench_cli.attacks.base.losses import rounding
from robustbench_cli.attacks.base.models.freezing import frozen
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.benchmarks.certification.certificates import Certificates
from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel
from robustbench_cli.benchmarks.devices import automatic_batch_size
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses import registry as defenses
from robustbench_cli.defenses.base.surgery.interval_bounds import require_boundable, worst_logits
from robustbench_cli.defenses.ibp import IBP

__all__ = ["HALVINGS", "Bounded", "Intervals", "bounded"]

HALVINGS = 17
"""Of the range in which a radius lies, until it is told to 1/131072 of the pixel scale."""


class Bounded(BaseModel):
    """What is certified of one image.

    Attributes:
        place: Of the image in the data slice.
        predicted: The class that the model says.
        radius: In linf, up to which its bounds prove that it says no other; 0 where they prove nothing.
        seconds: Wall time, its share of its batch's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    place: int
    predicted: int
    radius: float
    seconds: float


def bounded(
    model: nn.Module,
    images: Tensor,
    *,
    places: Sequence[int] | None = None,
    device: torch.device | str = "cpu",
    batch_size: int | None = None,
) -> Iterator[Bounded]:
    """Looks for the largest radius at which interval bounds certify each image, by halving the range that it lies in.

    Bounds are computed in double precision, of what the model computes in single precision: they include the rounding
    of every layer's sums, and have to be apart by more than what another way to compute a convolution explains.

    Args:
        model: A sequential network; see :func:`~robustbench_cli.defenses.base.surgery.interval_bounds.require_boundable`.
        images: ``(N, C, H, W)`` in [0, 1].
        places: Of the images, in their order; 0 to N - 1 where not given.
        device: Where to compute.
        batch_size: Images that pass through the model at once; chosen for the device where not given.

    Raises:
        UserError: Intervals cannot be followed through the model.
    """
    _require_bounded(model)
    model = copy.deepcopy(model).to(device)
    size = batch_size or automatic_batch_size(torch.device(device), tuple(images.shape[1:]))
    numbers = torch.arange(len(images)) if places is None else torch.tensor(places)
    with frozen(model), torch.no_grad():
        predictions = [_said(model, batch.to(device)) for batch in images.split(size)]
        model.double()
        for batch, said, of_batch in zip(images.split(size), predictions, numbers.split(size), strict=True):
            started = time.perf_counter()
            radii = _radii(model, batch.to(device, torch.float64), *said).tolist()
            seconds = (time.perf_counter() - started) / len(batch)
            for place, label, radius in zip(of_batch.tolist(), said[0].tolist(), radii, strict=True):
                yield Bounded(place=place, predicted=label, radius=radius, seconds=seconds)


def _said(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """The predictions ``(N,)``, and by how much logits ``(N,)`` have to differ to be told apart."""
    logits = model(images)
    return logits.argmax(1), rounding(logits)


def _radii(model: nn.Module, images: Tensor, labels: Tensor, least: Tensor) -> Tensor:
    """``(N,)``: the largest radii at which all other logits are proven to lie ``least`` below the label's."""

    def proven(eps: Tensor) -> Tensor:
        worst = worst_logits(model, images, labels, eps, unit_roundoff=torch.finfo(torch.float32).eps / 2)
        return worst.scatter(1, labels[:, None], -torch.inf).amax(1) < -least

    certain, doubtful = torch.zeros(len(images)).to(images), torch.ones(len(images)).to(images)
    for _ in range(HALVINGS):
        middle = (certain + doubtful) / 2
        holds = proven(middle)
        certain, doubtful = torch.where(holds, middle, certain), torch.where(holds, doubtful, middle)
    return certain


def _require_bounded(model: nn.Module) -> None:
    """Tells of a model that intervals cannot be followed through what else could certify it."""
    try:
        require_boundable(model)
    except UserError as error:
        raise UserError(f"{error}; or give --sigma SIGMA, such as 0.25, which certifies any model") from error


@dataclass(frozen=True)
class Intervals:
    """Certification by interval bounds, which leave nothing to choose and nothing to chance."""

    norm: ClassVar[Norm] = "linf"
    record: ClassVar[type[Bounded]] = Bounded

    @property
    def words(self) -> dict[str, Any]:
        """What tells it from others of its kind."""
        return {}

    @property
    def passes(self) -> int:
        """Forward passes that an image costs: one of itself, and two for the bounds at each radius."""
        return 1 + 2 * HALVINGS

    def flags(self, defended: DefendedModel) -> list[str]:
        """What speaks against certifying a model so: names of :data:`~.certification.CERTIFICATE_FLAGS`."""
        trained = any(issubclass(defenses.load(each.name), IBP) for each in defended.defenses)
        return [] if trained else ["no-bound-training"]

    def require(self, model: nn.Module, images: Tensor) -> None:
        """Makes sure that a model is of a kind that can be certified; see :func:`bounded`."""
        _require_bounded(model)

    def examined(
        self,
        model: nn.Module,
        images: Tensor,
        *,
        places: Sequence[int],
        seed: int,
        device: torch.device,
        batch_size: int | None,
    ) -> Iterator[Bounded]:
        """The radii of images; see :func:`bounded`."""
        return bounded(model, images, places=places, device=device, batch_size=batch_size)

    def certificates(self, records: Sequence[Bounded], *, alpha: float) -> Certificates:
        """What is certified."""
        radius = np.array([image.radius for image in records])
        predicted = np.array([image.predicted for image in records], dtype=np.int64)
        return Certificates(predicted=np.where(radius > 0, predicted, -1), radius=radius)

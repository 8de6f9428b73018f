"""Certificates of linear classifiers: the exact distance of each image to the nearest decision boundary."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd.functional import jacobian

from robustbench_cli.attacks.base.losses import rounding
from robustbench_cli.attacks.base.models.freezing import frozen
from robustbench_cli.attacks.base.models.passes import BatchSize, logits_of
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.benchmarks.certification.bounds.network import Network
from robustbench_cli.benchmarks.certification.bounds.operations import Box, Exact
from robustbench_cli.benchmarks.certification.by_interval_bounds import Intervals
from robustbench_cli.benchmarks.certification.certificates import Certificates
from robustbench_cli.benchmarks.certification.certified_radius import CertifiedRadius, records_by_batch, reduced
from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel
from robustbench_cli.benchmarks.devices import automatic_batch_size
from robustbench_cli.core.errors import UserError

__all__ = ["BoundaryDistance", "boundary_distance", "is_linear"]


def is_linear(network: Network) -> bool:
    """Whether the logits of a network are an affine function of the image.

    Args:
        network: The operations of a model.
    """
    return all(isinstance(operation, Exact) for operation in network.operations[1:])


def boundary_distance(weights: Tensor, margins: Tensor, images: Tensor, *, norm: Norm) -> Tensor:
    """The smallest size of a perturbation inside the box that takes a linear margin to 0.

    Where no pixel reaches its edge it is the margin over the dual norm of the weights: ``|w x + b| / ||w||_1`` in linf,
    ``/ ||w||_2`` in l2 and ``/ ||w||_inf`` in l1.

    Args:
        weights: ``(M, D)``: by how much the margin falls as a pixel grows.
        margins: ``(M,)``, at least 0.
        images: ``(M, D)`` in [0, 1].
        norm: ``linf``, ``l2`` or ``l1``.

    Returns:
        ``(M,)``; infinite where no image of the box crosses the boundary.

    >>> boundary_distance(torch.tensor([[3.0, -1.0]]), torch.tensor([0.8]), torch.tensor([[0.5, 0.1]]), norm="linf")
    tensor([0.2333])
    """
    size, room = weights.abs(), torch.where(weights > 0, 1 - images, images)
    most = size * room
    if norm == "l1":
        # The pixels with the largest weights move first, each to its edge.
        order = size.argsort(1, descending=True)
        size, room, most = (values.gather(1, order) for values in (size, room, most))
        missing = margins[:, None] - (most.cumsum(1) - most)
        distances = room.cumsum(1) - room + missing / size.clamp_min(torch.finfo(size.dtype).tiny)
        return _first(distances, missing <= most)
    # All pixels move with their slopes until they reach their edges; those that are there no longer count.
    slope = size if norm == "linf" else size.square()
    edge = torch.where(slope > 0, most / slope, torch.inf)
    edges, order = edge.sort(1)
    ordered, slopes = most.gather(1, order), slope.gather(1, order)
    remaining = slopes.flip(1).cumsum(1).flip(1)
    levels = (margins[:, None] - (ordered.cumsum(1) - ordered)) / remaining
    level = _first(levels, (levels <= edges) & (remaining > 0)).masked_fill(margins == 0, 0)
    if norm == "linf":
        return level
    moves = torch.minimum(level[:, None] * size, room).norm(dim=1)
    return torch.where(level.isinf(), torch.inf, moves)


def _first(values: Tensor, valid: Tensor) -> Tensor:
    """The first valid value of each row; infinite where there is none."""
    first = values.gather(1, valid.int().argmax(1, keepdim=True)).squeeze(1)
    return torch.where(valid.any(1), first, torch.inf)


@dataclass(frozen=True, kw_only=True)
class BoundaryDistance:
    """Certification of a linear classifier by the exact distance to its decision boundary. It is deterministic.

    Attributes:
        norm: ``linf``, ``l2`` or ``l1``.

    Raises:
        UserError: The norm is another.
    """

    record: ClassVar[type[CertifiedRadius]] = CertifiedRadius
    name: ClassVar[str] = "distance"
    passes: ClassVar[int] = 1

    norm: Norm = "linf"

    def __post_init__(self) -> None:
        if self.norm not in {"linf", "l2", "l1"}:
            raise UserError(f"the method {self.name} has no certificates in {self.norm}: give linf, l2 or l1")

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters that are part of the stored identity."""
        return {"norm": self.norm}

    def flags(self, defended: DefendedModel) -> list[str]:
        """The names of the :data:`~.procedures.CERTIFICATE_FLAGS` that apply to a model: none."""
        return []

    def require(self, model: nn.Module, images: Tensor) -> None:
        """Checks that a model can be certified.

        Args:
            model: It may be untrained.
            images: ``(N, C, H, W)`` in [0, 1], N >= 1.

        Raises:
            UserError: The model is not linear.
        """
        _linear_network(model, images)

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
            For each image the distance to the nearest boundary.

        Raises:
            UserError: The model is not linear.
        """
        errors = _rounding_errors(_linear_network(model, images[:1])).to(device)
        model = copy.deepcopy(model).to(device)
        size = BatchSize(batch_size or automatic_batch_size(device, tuple(images.shape[1:])))
        weights = _weights(model, images[:1].to(device))
        with frozen(model), torch.no_grad():

            def radii_of(rows: Tensor) -> tuple[Tensor, Tensor]:
                logits = logits_of(model, rows, size)
                return logits.argmax(1), self._radii(weights, errors, logits, rows.flatten(1).double())

            yield from records_by_batch(images, indices, radii_of, device=device, size=size)

    def _radii(self, weights: Tensor, errors: Tensor, logits: Tensor, rows: Tensor) -> Tensor:
        """The radii ``(N,)`` that are proven in spite of the rounding of the logits and of an attack's images.

        Args:
            weights: ``(K, D)``.
            errors: ``(K,)``, bounds of the rounding errors of the logits.
            logits: ``(N, K)``.
            rows: ``(N, D)``.
        """
        labels = logits.argmax(1, keepdim=True)
        margins = (logits.gather(1, labels) - logits - rounding(logits)[:, None]).double()
        # Two logits are rounded, here and at the attack's image.
        margins = (margins - 2 * (errors + errors[labels])).clamp_min(0)
        steps = weights - weights[labels]
        distances = torch.stack(
            [
                boundary_distance(steps[:, other], margins[:, other], rows, norm=self.norm)
                for other in range(len(weights))
            ],
            1,
        )
        nearest = distances.scatter(1, labels, torch.inf).amin(1)
        # An image that no perturbation changes is certified as far as the box reaches.
        return reduced(nearest).clamp_max(rows.shape[1])

    def certificates(self, records: Sequence[CertifiedRadius], *, alpha: float) -> Certificates:
        """The certificates that follow from the records.

        Args:
            records: One for each image.
            alpha: Not used: the distances are exact.
        """
        return Intervals().certificates(records, alpha=alpha)


def _linear_network(model: nn.Module, images: Tensor) -> Network:
    """The operations of a linear model.

    Raises:
        UserError: It is not linear.
    """
    network = Network(model, images)
    if not is_linear(network):
        raise UserError("the method distance is for linear classifiers, and this model is none: give --method auto")
    return network


def _rounding_errors(network: Network) -> Tensor:
    """``(K,)``: by how much the rounding of all layers changes a logit at most, at any image of the box."""
    zeros = torch.zeros(1, *network.shapes[0], dtype=torch.float64)
    values, errors = [Box(zeros, zeros + 1)], [zeros]
    for operation in network.operations[1:]:
        assert operation is not None
        box = operation.box(*(values[number] for number in operation.inputs))
        carried = operation.box(*(Box(-errors[number], errors[number]) for number in operation.inputs))
        own = 0 if box.error is None else box.error
        values.append(box)
        errors.append((carried.high - carried.low) / 2 + own)
    return errors[-1].flatten()


def _weights(model: nn.Module, image: Tensor) -> Tensor:
    """``(K, D)``: the slopes of the logits of a linear model."""
    exact = copy.deepcopy(model).double()
    with frozen(exact):
        slopes: Tensor = jacobian(lambda pixels: exact(pixels)[0], image.double())
    return slopes.flatten(1)

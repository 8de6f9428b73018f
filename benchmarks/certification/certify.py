"""Certifies a model on a data slice, stores the records, and computes certified accuracy from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from robustbench_cli.benchmarks.certification.by_smoothing import Smoothing
from robustbench_cli.benchmarks.certification.certificates import Certificates
from robustbench_cli.benchmarks.certification.procedures import ImageRecord, Procedure, identity_of, procedure_of
from robustbench_cli.benchmarks.certification.records import (
    CertificationFiles,
    CertificationHeader,
    all_files,
)
from robustbench_cli.benchmarks.checkpoints.checkpoint import versions
from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel
from robustbench_cli.benchmarks.datasets.base.slice import Slice
from robustbench_cli.benchmarks.devices import device_name, limit_threads
from robustbench_cli.benchmarks.evaluation.statistics.intervals import mean_interval
from robustbench_cli.benchmarks.store.cell import content_hash
from robustbench_cli.benchmarks.store.store import CERTIFICATION
from robustbench_cli.core.atomic_write import display_path
from robustbench_cli.core.errors import UserError

__all__ = ["CertificationOptions", "CertifiedAccuracy", "CertifiedModel", "certify_model", "stored"]

_CPU = torch.device("cpu")


class CertifiedAccuracy(BaseModel):
    """A row of the table: the certified accuracy at one radius.

    Attributes:
        dataset: The data set, as the user named it.
        model: The model's name.
        checkpoint: The checkpoint's file.
        defense: The label of the defenses.
        norm: The norm of the radius.
        eps: The radius.
        sigma: See :class:`~.by_smoothing.Smoothing`. It is ``None`` without smoothing, like the next four.
        n0: See :class:`~.by_smoothing.Smoothing`.
        samples: See :class:`~.by_smoothing.Smoothing`.
        alpha: See :func:`~.by_smoothing.certificates`.
        seed: The seed of all draws.
        n: The number of images.
        certified_accuracy: Share of the images that are certified to be classified correctly within the radius.
        certified_accuracy_low: Lower end of its 95 % confidence interval over images.
        certified_accuracy_high: Upper end of that interval.
        average_certified_radius: The mean certified radius, counted as 0 for misclassified images and abstentions.
        abstained: Share of the images without a certificate.
        flags: Names of the :data:`~.procedures.CERTIFICATE_FLAGS` that apply, separated by ``;``.
        forwards: Images passed through the model.
        seconds: Wall time.
        device: The device that began the certification.
        cell: The content hash.
        method: The name of the procedure: ``smoothing``, ``distance``, ``intervals``, ``linear`` or ``branch-and-bound``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    model: str
    checkpoint: str
    defense: str
    norm: str
    eps: float
    sigma: float | None = None
    n0: int | None = None
    samples: int | None = None
    alpha: float | None = None
    n: int
    seed: int | None = None
    certified_accuracy: float
    certified_accuracy_low: float
    certified_accuracy_high: float
    average_certified_radius: float
    abstained: float
    flags: str
    forwards: int
    seconds: float
    device: str
    cell: str
    method: str


@dataclass(frozen=True, kw_only=True)
class CertifiedModel:
    """The records of a model on a data slice, as the store holds them.

    Attributes:
        checkpoint: See :attr:`~robustbench_cli.benchmarks.checkpoints.defended_model.DefendedModel.identity`.
        described: The columns of the table that describe the model and its certification.
        procedure: How it was certified.
        labels: ``(N,)`` the true classes.
        images: The records of all N images.
    """

    checkpoint: str
    described: dict[str, Any]
    procedure: Procedure
    labels: NDArray[np.int64]
    images: Sequence[Any]

    def certificates(self, *, alpha: float) -> Certificates:
        """The certificate of each image.

        Args:
            alpha: The chance in (0, 1) that a certificate of smoothing is wrong. Proofs do not use it.

        Raises:
            UserError: alpha is not in (0, 1).
        """
        return self.procedure.certificates(self.images, alpha=alpha)

    def rows(self, radii: Sequence[float], *, alpha: float) -> list[CertifiedAccuracy]:
        """The certified accuracy at each radius.

        Args:
            radii: In the norm of the procedure.
            alpha: As for :meth:`certificates`.

        Raises:
            UserError: alpha is not in (0, 1).
        """
        certificates = self.certificates(alpha=alpha)
        figures = {
            **self.described,
            **({"alpha": alpha, **self.procedure.parameters} if isinstance(self.procedure, Smoothing) else {}),
            "norm": self.procedure.norm,
            "method": self.procedure.name,
            "n": len(self.labels),
            "average_certified_radius": float((certificates.radius * (certificates.predicted == self.labels)).mean()),
            "abstained": float((certificates.predicted < 0).mean()),
            "forwards": len(self.labels) * self.procedure.passes,
            "seconds": sum(record.seconds for record in self.images),
        }
        rows = []
        for eps in radii:
            correct = certificates.certified(self.labels, eps).astype(np.float64)
            low, high = mean_interval(correct)
            interval = {"certified_accuracy_low": low, "certified_accuracy_high": high}
            rows.append(CertifiedAccuracy(eps=eps, certified_accuracy=float(correct.mean()), **(figures | interval)))
        return rows


@dataclass(frozen=True, kw_only=True)
class CertificationOptions:
    """How a certification is run.

    Attributes:
        procedure: How the model is certified.
        seed: The seed of all draws; only smoothing has any.
        device: The device to compute on.
        batch_size: Rows per forward pass; ``None`` to choose it for the device.
    """

    procedure: Procedure
    seed: int = 0
    device: torch.device = _CPU
    batch_size: int | None = None


def certify_model(
    defended: DefendedModel,
    data: Slice,
    options: CertificationOptions,
    *,
    dataset: str,
    store: Path,
    progress: Callable[[int], None] = lambda _: None,
) -> CertifiedModel:
    """Certifies a model on a data slice. Images that the store already has are not computed again.

    Smoothing certifies the vote around the model without the noise of its own ``randomized-smoothing``, where that is
    the last of its defenses. The record of an image is stored as soon as it is computed. The records do not depend on
    alpha, so alpha is not part of their identity.

    Args:
        defended: The model.
        data: The images and their labels.
        options: The procedure, the seed and the device.
        dataset: The data set, as the user named it.
        store: The folder of the store; the files lie in its folder ``certification``.
        progress: Called with the number of images that are done: at the start, and after each image.

    Raises:
        UserError: The model does not fit the data, it cannot be certified, or the store cannot be written.
    """
    defended.require_fit(data, dataset)
    procedure = options.procedure
    identity = {
        "version": 1,
        "checkpoint": defended.identity,
        "data": data.sha256,
        **identity_of(procedure, options.seed),
    }
    files = CertificationFiles(store / CERTIFICATION, content_hash(identity), procedure.record)
    header = CertificationHeader(
        identity=identity,
        described=_describe(defended, options, dataset) | {"cell": content_hash(identity)},
        labels=data.labels.tolist(),
        versions=versions(),
    )
    records = {index: record for index, record in files.records().items() if index < len(data)}
    progress(len(records))
    if not header.is_complete(records):
        files.begin(header)
        for record in _examine_missing(defended, data, options, records):
            files.add(record)
            records[record.index] = record
            progress(len(records))
    return _certified_model(header, header.described | {"device": files.header().described["device"]}, records)


def _describe(defended: DefendedModel, options: CertificationOptions, dataset: str) -> dict[str, Any]:
    """The columns of the table that describe the model and its certification, but for the cell."""
    device = options.device
    return {
        "dataset": dataset,
        "model": defended.model,
        "checkpoint": display_path(defended.path),
        "defense": defended.defense,
        "seed": options.seed if isinstance(options.procedure, Smoothing) else None,
        "flags": ";".join(options.procedure.flags(defended)),
        "device": device_name(device),
    }


def _examine_missing(
    defended: DefendedModel, data: Slice, options: CertificationOptions, records: dict[int, ImageRecord]
) -> Iterator[ImageRecord]:
    """Computes the records of the images that have none yet."""
    missing = [index for index in range(len(data)) if index not in records]
    limit_threads(defended.shape)
    return options.procedure.examine(
        defended.load(),
        data.images[missing],
        indices=missing,
        seed=options.seed,
        device=options.device,
        batch_size=options.batch_size,
    )


def _certified_model(
    header: CertificationHeader, described: dict[str, Any], records: dict[int, ImageRecord]
) -> CertifiedModel:
    """The model of a complete certification."""
    return CertifiedModel(
        checkpoint=header.identity["checkpoint"],
        described=described,
        procedure=procedure_of(header.identity),
        labels=np.array(header.labels, dtype=np.int64),
        images=[records[index] for index in range(len(header.labels))],
    )


def stored(store: Path, *, damaged: Callable[[UserError], None]) -> Iterator[CertifiedModel]:
    """The complete certifications in a store, in the order of their cells.

    Args:
        store: The folder of the store.
        damaged: Called with an error for each file that cannot be read; it is skipped.
    """
    for files, header in all_files(store, damaged):
        records = files.records(damaged=damaged)
        if header.labels and header.is_complete(records):
            yield _certified_model(header, header.described, records)

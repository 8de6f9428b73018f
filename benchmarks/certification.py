"""Certified accuracy: the certificates of a data slice's images, kept in a store, and the rows told from them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from robustbench_cli.attacks.base.errors import UserError
from robustbench_cli.attacks.base.files import ensure_writable, write_whole
from robustbench_cli.benchmarks.certificates import Certificates
from robustbench_cli.benchmarks.checkpoint import versions
from robustbench_cli.benchmarks.datasets.base.slice import Slice
from robustbench_cli.benchmarks.devices import limit_threads
from robustbench_cli.benchmarks.intervals import Bounded, Intervals
from robustbench_cli.benchmarks.smoothing import Sampled, Smoothing
from robustbench_cli.benchmarks.statistics import mean_interval
from robustbench_cli.benchmarks.subject import Subject

__all__ = ["FLAGS", "CertifiedAccuracy", "CertifiedModel", "Procedure", "certified", "stored"]

FLAGS = {
    "no-noise-training": "the model was not trained with noise on its images, so that little can be certified: train it with "
    "--defense randomized-smoothing",
    "other-noise": "the model was trained with noise of another standard deviation than sigma",
    "no-bound-training": "the model was not trained for bounds by intervals, so that little can be certified: train it with "
    "--defense ibp",
}
"""What a row may have against it, in words."""


Procedure = Smoothing | Intervals
"""How a model is certified."""

_Record = Sampled | Bounded


class CertifiedAccuracy(BaseModel):
    """A row of the table: how much of a model's accuracy is certified within a radius.

    Attributes:
        dataset: As the user named it.
        model: The model's name.
        checkpoint: Its file.
        defense: The label of its defenses.
        norm: Of the radius.
        eps: The radius.
        sigma: See :class:`~.smoothing.Smoothing`; like the next four, ``None`` where it was certified by intervals.
        n0: As there.
        samples: As there.
        alpha: See :func:`~.smoothing.certificates`.
        seed: Of all draws.
        n: Test images.
        certified_accuracy: Share of images that are certified to be right within the radius.
        certified_accuracy_low: Lower end of its 95 % interval over images.
        certified_accuracy_high: Upper end.
        average_certified_radius: The mean over all images of the radius, 0 where the prediction is wrong or none.
        abstained: Share of images of which nothing is certified.
        flags: Names in :data:`FLAGS`, ``;`` between them.
        forwards: Images passed through the model.
        seconds: Wall time of all passes, those of an interrupted command included.
        device: Where the first of them ran.
        cell: The content hash of what was sampled.
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


@dataclass(frozen=True, kw_only=True)
class CertifiedModel:
    """The certificates of a model on a data slice, as the store holds them.

    Attributes:
        checkpoint: See :attr:`.subject.Subject.identity`.
        described: What it is, in the words of the table.
        procedure: How it was certified.
        labels: ``(N,)`` the true classes.
        images: What was found of all N images.
    """

    checkpoint: str
    described: dict[str, Any]
    procedure: Procedure
    labels: NDArray[np.int64]
    images: Sequence[Any]

    def certificates(self, *, alpha: float) -> Certificates:
        """What is certified of each image.

        Args:
            alpha: The chance in (0, 1) that a certificate of smoothing may be wrong; one by intervals never is.

        Raises:
            UserError: Alpha is not inside (0, 1).
        """
        return self.procedure.certificates(self.images, alpha=alpha)

    def rows(self, radii: Sequence[float], *, alpha: float) -> list[CertifiedAccuracy]:
        """Certified accuracy at each radius.

        Raises:
            UserError: Alpha is not inside (0, 1).
        """
        each = self.certificates(alpha=alpha)
        figures = {
            **self.described,
            **self.procedure.words,
            **({"alpha": alpha} if isinstance(self.procedure, Smoothing) else {}),
            "norm": self.procedure.norm,
            "n": len(self.labels),
            "average_certified_radius": float((each.radius * (each.predicted == self.labels)).mean()),
            "abstained": float((each.predicted < 0).mean()),
            "forwards": len(self.labels) * self.procedure.passes,
            "seconds": sum(image.seconds for image in self.images),
        }
        rows = []
        for eps in radii:
            right = each.certified(self.labels, eps).astype(np.float64)
            low, high = mean_interval(right)
            ends = {"certified_accuracy_low": low, "certified_accuracy_high": high}
            rows.append(CertifiedAccuracy(eps=eps, certified_accuracy=float(right.mean()), **(figures | ends)))
        return rows


def certified(
    subject: Subject,
    data: Slice,
    procedure: Procedure,
    *,
    dataset: str,
    seed: int,
    store: Path,
    device: torch.device,
    batch_size: int | None,
    progress: Callable[[int], None] = lambda _: None,
) -> CertifiedModel:
    """Certifies a model on a data slice, as far as the store does not hold it.

    What smoothing certifies is the vote around the model without the noise of its own ``randomized-smoothing``, if that
    is the last of its defenses. What is found of an image is in the store as soon as it is found. Since draws say what
    is certified at any alpha, it is no part of what they are stored by.

    Args:
        subject: The model.
        data: The images and their labels.
        procedure: How.
        dataset: As the user named it.
        seed: Of all draws; of no account for intervals.
        store: The folder of the store; results of this kind lie in ``certification`` in it.
        device: Where to compute.
        batch_size: Rows that pass through the model at once; chosen for the device where not given.
        progress: Called with the number of images done: at the start, and after each.

    Raises:
        UserError: The model does not fit the data, it is of a kind that cannot be certified, or the store cannot be
            written.
    """
    subject.require_fit(data, dataset)
    identity = {"version": 1, "checkpoint": subject.identity, "data": data.sha256, **_identity(procedure, seed)}
    cell = hashlib.sha256(json.dumps(identity, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:20]
    kept = _Kept(store / "certification", cell, procedure.record)
    images = {place: image for place, image in kept.images().items() if place < len(data)}
    missing = [place for place in range(len(data)) if place not in images]
    progress(len(images))
    described = {
        "dataset": dataset,
        "model": subject.model,
        "checkpoint": str(subject.path),
        "defense": subject.defense,
        "seed": seed if isinstance(procedure, Smoothing) else None,
        "flags": ";".join(procedure.flags(subject)),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "cell": cell,
    }
    if missing:
        kept.begin(_Said(identity=identity, described=described, labels=data.labels.tolist(), versions=versions()))
        limit_threads(subject.shape)
        rest = procedure.examined(
            subject.load(),
            data.images[missing],
            places=missing,
            seed=seed,
            device=device,
            batch_size=batch_size,
        )
        for image in rest:
            kept.add(image)
            images[image.place] = image
            progress(len(images))
    return CertifiedModel(
        checkpoint=subject.identity,
        described=described | {"device": kept.said().described["device"]},
        procedure=procedure,
        labels=np.asarray(data.labels.numpy()),
        images=[images[place] for place in range(len(data))],
    )


def stored(store: Path, *, damaged: Callable[[UserError], None]) -> Iterator[CertifiedModel]:
    """What a store holds whole, by the content hash.

    Args:
        store: The folder of the store.
        damaged: Called with what is to be said of each file that cannot be read, and is passed by.
    """
    for path in sorted((store / "certification").glob("*.json")):
        try:
            said = _said(path)
        except UserError as error:
            damaged(error)
            continue
        try:
            procedure = _procedure(said.identity)
            checkpoint, _ = said.identity["checkpoint"], said.described["dataset"]
        except (TypeError, KeyError, ValueError, AttributeError):
            damaged(UserError(f"{path} is of no certificate of this version: remove it and {_images_of(path)}"))
            continue
        kept = _Kept(path.parent, path.stem, procedure.record)
        images = kept.images()
        if said.labels and images.keys() >= set(range(len(said.labels))):
            yield CertifiedModel(
                checkpoint=checkpoint,
                described=said.described,
                procedure=procedure,
                labels=np.array(said.labels),
                images=[images[place] for place in range(len(said.labels))],
            )


def _identity(procedure: Procedure, seed: int) -> dict[str, Any]:
    """What of a procedure its results follow from."""
    if isinstance(procedure, Smoothing):
        return {"smoothing": procedure.words, "seed": seed}
    return {"intervals": procedure.words}


def _procedure(identity: dict[str, Any]) -> Procedure:
    """The inverse of :func:`_identity`."""
    return Smoothing(**identity["smoothing"]) if "smoothing" in identity else Intervals()


class _Said(BaseModel):
    """What a cell's images were certified by, and what of.

    Attributes:
        identity: What they follow from, which the cell is the hash of.
        described: See :class:`CertifiedModel`; as it was when the first of them were made.
        labels: Of the images.
        versions: Of what computed the first of them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    identity: dict[str, Any]
    described: dict[str, Any]
    labels: list[int]
    versions: dict[str, str]


class _Kept:
    """What was found of a cell's images in a store: ``<cell>.json`` says what it is, ``<cell>.images.jsonl`` holds it.

    The latter is a line an image, added when the image is done, with the start of its own sha256 before it. A line that
    is not whole, as where a process was killed, is as if it were not there; one that is there twice, as where two
    processes were at the same cell, says the same twice.

    Args:
        folder: Is made when something is stored.
        cell: The content hash.
        record: What is kept of an image.
    """

    def __init__(self, folder: Path, cell: str, record: type[_Record]) -> None:
        self._path = folder / f"{cell}.json"
        self._images = _images_of(self._path)
        self._record = record

    def begin(self, said: _Said) -> None:
        """Says what the images are, unless that is said; makes sure that they can be written."""
        ensure_writable(self._path.parent)
        if not self._path.exists():
            write_whole(self._path, f"{said.model_dump_json(indent=1)}\n".encode())
        if self._images.exists() and not self._images.read_bytes().endswith(b"\n"):
            self._append(b"\n")

    def said(self) -> _Said:
        """What the images are; see :func:`_said`."""
        return _said(self._path)

    def images(self) -> dict[int, _Record]:
        """What is there, by place."""
        if not self._images.exists():
            return {}
        found = (self._read(line) for line in self._images.read_bytes().split(b"\n"))
        return {image.place: image for image in found if image is not None}

    def add(self, image: _Record) -> None:
        """Adds an image."""
        body = image.model_dump_json().encode()
        self._append(b"%s %s\n" % (_seal(body), body))

    def _append(self, content: bytes) -> None:
        # Opened anew: whoever else adds to the file writes behind it too.
        with self._images.open("ab") as file:
            file.write(content)

    def _read(self, line: bytes) -> _Record | None:
        seal, _, body = line.partition(b" ")
        if seal != _seal(body):
            return None
        try:
            return self._record.model_validate_json(body)
        except ValidationError:
            return None


def _said(path: Path) -> _Said:
    """What the images of a cell are.

    Raises:
        UserError: The file is missing, or does not say it.
    """
    try:
        return _Said.model_validate_json(path.read_bytes())
    except (OSError, ValueError):
        raise UserError(
            f"{path} is missing or damaged: remove it and {_images_of(path)} to compute them again"
        ) from None


def _images_of(path: Path) -> Path:
    """The file of a cell's images, beside the one that says what they are."""
    return path.with_suffix(".images.jsonl")


def _seal(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest()[:16].encode()

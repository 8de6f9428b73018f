"""Certified accuracy: the certificates of a data slice's images, kept in a store, and the rows told from them."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from robustbench_cli.benchmarks.certification.by_interval_bounds import Bounded, Intervals
from robustbench_cli.benchmarks.certification.by_smoothing import Sampled, Smoothing
from robustbench_cli.benchmarks.certification.certificates import Certificates
from robustbench_cli.benchmarks.checkpoints.checkpoint import versions
from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel
from robustbench_cli.benchmarks.datasets.base.slice import Slice
from robustbench_cli.benchmarks.devices import limit_threads
from robustbench_cli.benchmarks.evaluation.statistics import mean_interval
from robustbench_cli.benchmarks.store.store import CERTIFICATION, encoded, read_record, stale_temporary_files
from robustbench_cli.core.atomic_write import display_path, ensure_writable, write_atomically
from robustbench_cli.core.errors import UserError

__all__ = [
    "CERTIFICATE_FLAGS",
    "CertifiedAccuracy",
    "CertifiedModel",
    "Procedure",
    "certified",
    "counted",
    "leftovers",
    "stored",
    "take",
]

_IMAGES = ".images.jsonl"
"""How the name of the file ends that holds what was found of a cell's images."""

CERTIFICATE_FLAGS = {
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
        flags: Names in :data:`CERTIFICATE_FLAGS`, ``;`` between them.
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
        checkpoint: See :attr:`.subject.DefendedModel.identity`.
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
    defended: DefendedModel,
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
        defended: The model.
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
    defended.require_fit(data, dataset)
    identity = {"version": 1, "checkpoint": defended.identity, "data": data.sha256, **_identity(procedure, seed)}
    cell = _cell(identity)
    kept = _Kept(store / CERTIFICATION, cell, procedure.record)
    images = {place: image for place, image in kept.images().items() if place < len(data)}
    missing = [place for place in range(len(data)) if place not in images]
    progress(len(images))
    described = {
        "dataset": dataset,
        "model": defended.model,
        "checkpoint": display_path(defended.path),
        "defense": defended.defense,
        "seed": seed if isinstance(procedure, Smoothing) else None,
        "flags": ";".join(procedure.flags(defended)),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "cell": cell,
    }
    if missing:
        kept.begin(_Said(identity=identity, described=described, labels=data.labels.tolist(), versions=versions()))
        limit_threads(defended.shape)
        rest = procedure.examined(
            defended.load(),
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
        checkpoint=defended.identity,
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
    for kept, said in _all_kept(store, damaged):
        procedure, checkpoint = _procedure(said.identity), said.identity["checkpoint"]
        images = kept.images(damaged=damaged)
        if said.labels and images.keys() >= set(range(len(said.labels))):
            yield CertifiedModel(
                checkpoint=checkpoint,
                described=said.described,
                procedure=procedure,
                labels=np.array(said.labels),
                images=[images[place] for place in range(len(said.labels))],
            )


def counted(store: Path, *, damaged: Callable[[UserError], None]) -> tuple[int, int]:
    """How many certifications a store holds that are done, and how many that were interrupted.

    Args:
        store: The folder of the store.
        damaged: Called with what is to be said of each file that is not as it was stored; one such counts as neither.
    """
    done = interrupted = 0
    for kept, said in _all_kept(store, damaged):
        wrong: list[UserError] = []
        places = kept.images(damaged=wrong.append)
        for error in wrong:
            damaged(error)
        if not wrong:
            whole = places.keys() >= set(range(len(said.labels)))
            done, interrupted = done + whole, interrupted + (not whole)
    return done, interrupted


def take(store: Path, other: Path, *, damaged: Callable[[UserError], None]) -> int:
    """Copies the certificates that another store has and this one has not; its own stay as they are.

    Args:
        store: The folder of the store.
        other: The other's, which stays as it is.
        damaged: Called with what is to be said of each file that is not as it was stored; what of it is whole is copied.

    Returns:
        How many certifications are new, or have become longer.

    Raises:
        UserError: This store cannot be written, or what it has of a certification is damaged.
    """
    copied = 0
    for theirs, said in _all_kept(other, damaged):
        own = theirs.in_store(store)
        images = {place: image for place, image in theirs.images(damaged=damaged).items() if place not in own.images()}
        if images or not own.begun:
            own.begin(said)
            for image in images.values():
                own.add(image)
            copied += 1
    return copied


def leftovers(store: Path, *, older_than: float) -> list[Path]:
    """Files in a store that no certification needs: half-written ones, and images of which it is not said what they are.

    Args:
        store: The folder of the store.
        older_than: Seconds; what is younger may be in the making.
    """
    folder = store / CERTIFICATION
    alone = [
        path
        for path in sorted(folder.glob(f"*{_IMAGES}"))
        if not path.with_name(f"{path.name.removesuffix(_IMAGES)}.json").exists()
        and time.time() - path.stat().st_mtime >= older_than
    ]
    return stale_temporary_files(folder, older_than=older_than) + alone


def _all_kept(store: Path, damaged: Callable[[UserError], None]) -> Iterator[tuple[_Kept, _Said]]:
    """All certifications of a store, by the content hash, with what they are."""
    for path in sorted((store / CERTIFICATION).glob("*.json")):
        try:
            said = _said(path)
            procedure = _procedure(said.identity)
            _ = said.identity["checkpoint"], said.described["dataset"]
        except UserError as error:
            damaged(error)
        except (KeyError, TypeError, ValueError, AttributeError):
            damaged(UserError(f"{path} was stored by another version of advdef: {_way_out(path)}"))
        else:
            yield _Kept(path.parent, path.stem, procedure.record), said


def _cell(identity: dict[str, Any]) -> str:
    """The content hash of what a certification's results follow from."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:20]


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
        if not self.begun:
            write_atomically(self._path, encoded(said))
        if self._images.exists() and not self._images.read_bytes().endswith(b"\n"):
            self._append(b"\n")

    @property
    def begun(self) -> bool:
        """Whether it is said what the images are."""
        return self._path.exists()

    def in_store(self, store: Path) -> _Kept:
        """The images of the same cell in another store."""
        return _Kept(store / CERTIFICATION, self._path.stem, self._record)

    def said(self) -> _Said:
        """What the images are; see :func:`_said`."""
        return _said(self._path)

    def images(self, *, damaged: Callable[[UserError], None] = lambda _: None) -> dict[int, _Record]:
        """What is there, by place.

        Args:
            damaged: Called with what is to be said where the images are not all there, and what is there is not as it
                was stored. Behind a line that a killed process has left, the same images stand once more.
        """
        try:
            *lines, rest = self._images.read_bytes().split(b"\n")
        except FileNotFoundError:
            return {}
        read = [self._read(line) for line in lines]
        found = {image.place: image for image in [*read, self._read(rest)] if image is not None}
        whole = self.begun and found.keys() >= set(range(len(self.said().labels)))
        lost = sum(image is None and line != b"" for line, image in zip(lines, read, strict=True))
        if not whole and (lost or not found):
            what = f"{lost} of its lines are damaged" if lost else "it is empty"
            damaged(UserError(f"{self._images}: {what}: the same 'advdef certify' computes these images again"))
        return found

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
        UserError: The file is missing, or is not as it was stored.
    """
    said = read_record(path, _Said, name="certification", hint=_way_out(path))
    if _cell(said.identity) != path.stem:
        raise UserError(f"{path} holds the cell {_cell(said.identity)}: remove it, or give it back its name")
    return said


def _way_out(path: Path) -> str:
    return f"remove it and {_images_of(path)} to compute them again"


def _images_of(path: Path) -> Path:
    """The file of a cell's images, beside the one that says what they are."""
    return path.with_suffix(_IMAGES)


def _seal(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest()[:16].encode()

"""The stored results of an audit of a model: one immutable file per check."""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.benchmarks.evaluation.checks import FAILED
from robustbench_cli.benchmarks.evaluation.checks.base.finding import BUDGETS, Budget, Finding
from robustbench_cli.benchmarks.evaluation.statistics.paired import ScoredDraws
from robustbench_cli.benchmarks.store.cell import Cell, content_hash
from robustbench_cli.benchmarks.store.record_folder import RecordFolder
from robustbench_cli.benchmarks.store.store import AUDITS

__all__ = [
    "RECORDS",
    "AuditTarget",
    "CheckRecord",
    "StoredDraws",
    "latest",
    "read",
    "records_of_cells",
]


class AuditTarget(BaseModel):
    """What is audited.

    Attributes:
        dataset: The data set, as the user named it.
        data: The sha256 of the images and labels.
        n: The number of images.
        model: The model's name.
        checkpoint: The identity of the model.
        path: The checkpoint's path as the user wrote it.
        defense: The label of the defenses.
        norm: The norm.
        eps: The radius.
        eps_text: The radius as the user wrote it.
        seed: The seed of everything that is random.
        budget: See :data:`~.finding.Budget`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    data: str
    n: int
    model: str
    checkpoint: str
    path: str
    defense: str
    norm: Norm
    eps: float
    eps_text: str
    seed: int
    budget: Budget


class StoredDraws(BaseModel):
    """What an attack of an audit left, packed for a file.

    Attributes:
        attack: The attack, in a few words.
        draws: R, the number of draws.
        images: N, the number of images.
        shared: Whether all images of a pass share one draw.
        right: Base64 of R x N bits: whether the image is classified correctly in the draw.
        clean_accuracy: In [0, 1]; ``None`` in files of earlier versions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    attack: str
    draws: Annotated[int, Field(ge=1)]
    images: Annotated[int, Field(ge=1)]
    shared: bool
    right: str
    clean_accuracy: Annotated[float, Field(ge=0, le=1)] | None = None

    @model_validator(mode="after")
    def _check_size(self) -> Self:
        if len(base64.b64decode(self.right, validate=True)) != -(-self.draws * self.images // 8):
            raise ValueError(f"right does not have the bits of {self.draws} draws of {self.images} images")
        return self

    @classmethod
    def of(cls, attack: str, scored: ScoredDraws, *, clean_accuracy: float | None = None) -> StoredDraws:
        """Packs the outcomes of an attack.

        Args:
            attack: The attack, in a few words.
            scored: Whether the images are classified correctly.
            clean_accuracy: Of the same images without the attack.

        >>> scored = ScoredDraws(right=np.array([[True, False, True]]))
        >>> StoredDraws.of("PGD", scored).scored().right
        array([[ True, False,  True]])
        """
        draws, images = scored.right.shape
        bits = base64.b64encode(np.packbits(scored.right).tobytes()).decode()
        return cls(
            attack=attack, draws=draws, images=images, shared=scored.shared, right=bits, clean_accuracy=clean_accuracy
        )

    def scored(self) -> ScoredDraws:
        """Unpacks the outcomes."""
        packed = np.frombuffer(base64.b64decode(self.right), dtype=np.uint8)
        bits = np.unpackbits(packed, count=self.draws * self.images).astype(bool)
        return ScoredDraws(right=bits.reshape(self.draws, self.images), shared=self.shared)


class CheckRecord(BaseModel):
    """What one check found in a model.

    Attributes:
        target: What was audited.
        check: The name of the check.
        finding: What it found; ``None`` if nothing speaks against the model.
        left_out: Why it did not run; empty if it ran.
        outcomes: What it stores for comparisons with rows; see
            :meth:`~robustbench_cli.benchmarks.evaluation.checks.base.check.Check.outcomes_for_rows`.
        seconds: Wall time.
        device: The device's name.
        versions: The versions of the software that ran it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: AuditTarget
    check: Annotated[str, Field(pattern=r"^[^;\s]+$")]
    finding: Finding | None = None
    left_out: str = ""
    outcomes: StoredDraws | None = None
    seconds: float = 0.0
    device: str
    versions: dict[str, str]

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        if self.finding is not None and self.finding.check not in {self.check, FAILED}:
            raise ValueError(f"the finding is of the check {self.finding.check}, not of {self.check}")
        return self

    @cached_property
    def id(self) -> str:
        """The content hash of what was audited and of the check's name; see :func:`record_id`."""
        return record_id(self.target, self.check)


def record_id(target: AuditTarget, check: str) -> str:
    """The content hash of a record. Names and paths that do not change the result are not part of it.

    The name of the data set is: it joins an audit with rows of other numbers of images.

    Args:
        target: What is audited.
        check: The name of the check.
    """
    identity = target.model_dump(
        mode="json", include={"dataset", "data", "checkpoint", "norm", "eps", "seed", "budget"}
    )
    return content_hash({**identity, "check": check, "version": 1})


RECORDS = RecordFolder(
    folder=AUDITS,
    kind=CheckRecord,
    cell_of=lambda record: record.id,
    noun="result of a check",
    redo="run the check again",
)
"""The records in any store."""


def read(store: Path, target: AuditTarget, check: str) -> CheckRecord | None:
    """The stored record of a check that ran; ``None`` if there is none.

    Args:
        store: The folder of the store.
        target: What is audited.
        check: The name of the check.

    Raises:
        UserError: The file is damaged.
    """
    path = RECORDS.file(store, record_id(target, check))
    return RECORDS.read(path) if path.exists() else None


def records_of_cells(records: Iterable[CheckRecord]) -> Callable[[Cell], list[CheckRecord]]:
    """A function from a cell to the records of audits of its model, on its data set and in its norm.

    The data set has the same name, or the same images under another name. A model is audited on images without a corruption,
    so a corrupted cell has no records.

    Args:
        records: The records.
    """
    by_data: dict[Hashable, dict[str, CheckRecord]] = defaultdict(dict)
    for record in records:
        target = record.target
        for data in (("name", target.dataset), ("sha256", target.data)):
            by_data[target.checkpoint, target.norm, data][record.id] = record

    def find(cell: Cell) -> list[CheckRecord]:
        if cell.corruption is not None:
            return []
        names = ("name", cell.dataset), ("sha256", cell.data)
        same_name, same_data = (by_data.get((cell.checkpoint, cell.norm, data), {}) for data in names)
        return list((same_name | same_data).values())

    return find


def latest(records: Sequence[CheckRecord]) -> list[CheckRecord]:
    """For each check and radius the record that counts.

    That is a finding, unless a run of the check with at least its budget and its images, and more of one of them, found
    nothing. Another seed or fewer images do not clear a model. Of several such records the one of the largest budget, and of
    these the one with the most images, counts.

    Args:
        records: The records of one model.
    """
    by_check: dict[tuple[str, float], list[CheckRecord]] = defaultdict(list)
    for record in records:
        by_check[record.check, record.target.eps].append(record)
    chosen = []
    for of_check in by_check.values():
        ran = [record for record in of_check if not record.left_out]
        findings = [
            record for record in ran if record.finding is not None and not any(_exceeds(other, record) for other in ran)
        ]
        chosen.append(max(findings or ran or of_check, key=lambda record: (*_size(record), record.id)))
    return chosen


def _exceeds(record: CheckRecord, other: CheckRecord) -> bool:
    """Whether a record is of no smaller budget and of no fewer images than another, and of more of one of them."""
    (budget, images), (others_budget, others_images) = _size(record), _size(other)
    return budget >= others_budget and images >= others_images and (budget, images) != (others_budget, others_images)


def _size(record: CheckRecord) -> tuple[int, int]:
    """The rank of a record's budget, and the number of its images."""
    return BUDGETS.index(record.target.budget), record.target.n

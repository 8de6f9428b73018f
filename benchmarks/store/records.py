"""The records of a store: what each of its JSON files holds, and how it is written and read."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from robustbench_cli.attacks.base.models.precision import Precision
from robustbench_cli.benchmarks.checkpoints.size import ModelSize
from robustbench_cli.benchmarks.store.cell import Cell
from robustbench_cli.core.errors import UserError
from robustbench_cli.core.frozen_model import share_field_names
from robustbench_cli.core.regular_file import read_bounded

__all__ = [
    "Failure",
    "Origin",
    "Request",
    "RequestedCell",
    "RequestedIds",
    "Result",
    "encoded",
    "read_bytes",
    "read_record",
    "sha256",
]

_MOST_BYTES = 2**30

_Count = Annotated[int, Field(ge=0, lt=2**63)]

_ACCURACIES = tuple(f"{kind}_accuracy{end}" for kind in ("clean", "robust") for end in ("", "_low", "_high"))


def _checked_summary(summary: dict[str, float | None]) -> dict[str, float | None]:
    """The figures of a row, whose accuracies and success rate must be in [0, 1], and whose intervals must not be empty."""
    shares = {name: summary.get(name) for name in (*_ACCURACIES, "robust_accuracy_vote", "robust_accuracy_every_draw")}
    if (success := summary.get("attack_success_rate")) is not None:
        shares["attack_success_rate"] = success
    for name, value in shares.items():
        if value is None or not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}, which is no share")
    for kind in ("clean_accuracy", "robust_accuracy"):
        low, high = (shares[f"{kind}_{end}"] for end in ("low", "high"))
        if low is not None and high is not None and low > high:
            raise ValueError(f"{kind}_low is {low}, above {kind}_high, {high}")
    return summary


@lru_cache(maxsize=256)
def _dictionary(*items: tuple[str, str]) -> dict[str, str]:
    return dict(items)


def _shared_versions(versions: dict[str, str]) -> dict[str, str]:
    """An equal dictionary, the same for all results of one installation."""
    return _dictionary(*versions.items())


class Origin(BaseModel):
    """How a command trained a model of the user's cache, as far as its cells do not say it.

    Attributes:
        recipe: The parameters of the recipe that are not the defaults, and the seed; empty where nothing was trained.
        base: The checkpoint that the model starts from, as the user wrote it; empty without one.
        base_defenses: The number of defenses in this checkpoint.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: dict[str, JsonValue] = {}
    base: str = ""
    base_defenses: int = 0

    def named_checkpoint(self, checkpoint: str) -> str:
        """The file that the user knows: the one that a defense was put around without training, or the given one.

        Args:
            checkpoint: The path of the model's own checkpoint, which may lie in the cache.
        """
        return checkpoint if self.recipe or not self.base else self.base


class Result(BaseModel):
    """A finished cell.

    Attributes:
        cell: The cell.
        eps: The radius as the user wrote it; empty where there is none.
        checkpoint: The path of the checkpoint as the user wrote it.
        summary: The figures of the row, by column; see :func:`~robustbench_cli.benchmarks.evaluation.outcomes.summarize`.
        flags: The names of the checks that speak against the row.
        forwards: Images passed forward through the model.
        backwards: Images passed backward to the input.
        seconds: Wall time.
        device: The device's name.
        versions: The versions of the software that computed it.
        outcomes_sha256: Of the ``.npz`` file with the outcomes of every image.
        mean: Mean of the normalization inside the model; ``None`` where it has none.
        std: Standard deviation of that normalization.
        size: The size of the model; ``None`` in results of earlier versions.
        precision: The precision in which the gradients were computed; ``None`` in results of earlier versions.
        origin: How the command trained a model of the user's cache.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cell: Cell
    eps: str
    checkpoint: str
    summary: Annotated[dict[str, float | None], AfterValidator(_checked_summary)]
    flags: tuple[str, ...]
    forwards: _Count
    backwards: _Count
    seconds: float
    device: str
    versions: Annotated[dict[str, str], AfterValidator(_shared_versions)]
    outcomes_sha256: str
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    size: ModelSize | None = None
    precision: Precision | None = None
    origin: Origin = Origin()

    @model_validator(mode="after")
    def _share_field_names(self) -> Self:
        share_field_names(self)
        return self

    @property
    def was_skipped(self) -> bool:
        """Whether the attack did not run because the cell's condition did not hold."""
        return self.cell.only_if is not None and self.forwards == self.backwards == 0


class Failure(BaseModel):
    """A cell that failed.

    Attributes:
        cell: The cell.
        eps: The radius as the user wrote it; empty where there is none.
        error: The reason, in one line.
        traceback: The traceback of the error.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cell: Cell
    eps: str
    error: str
    traceback: str = ""


class RequestedCell(BaseModel):
    """A cell that a command requested.

    Attributes:
        cell: The cell.
        eps: The radius as the user wrote it; empty where there is none.
        checkpoint: The path of the checkpoint as the user wrote it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cell: Cell
    eps: str
    checkpoint: str


class RequestedIds(BaseModel):
    """The identities of all cells that one command requested, read without the cells.

    Attributes:
        ids: The identities; none in files of earlier versions.
    """

    model_config = ConfigDict(frozen=True)

    ids: tuple[str, ...] = ()


class Request(RequestedIds):
    """All cells that one command requested."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    cells: tuple[RequestedCell, ...] = Field(alias="asked")


Record = TypeVar("Record", bound=BaseModel)


def encoded(record: BaseModel, *, without_defaults: bool = False) -> bytes:
    """The content of a record's file: JSON whose first line is the sha256 of the other lines.

    Args:
        record: The record.
        without_defaults: Whether fields at their defaults are left out.
    """
    text = record.model_dump_json(indent=1, exclude_defaults=without_defaults, by_alias=True)
    body = f"{text}\n".encode().removeprefix(b"{\n")
    return _first_line(body) + b"\n" + body


def read_record(path: Path, kind: type[Record], *, name: str, hint: str) -> Record:
    """Reads a record from a file that :func:`encoded` made.

    Args:
        path: The file.
        kind: The class of the record.
        name: How a message calls the record.
        hint: The end of the error message, which tells the user what to do if the file cannot be used.

    Raises:
        UserError: The file is missing or damaged, or has another record.
    """
    try:
        first, _, body = read_bytes(path).partition(b"\n")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}): {hint}") from None
    if first != _first_line(body):
        raise UserError(f"{path} is damaged, its content is not what was stored: {hint}")
    try:
        return kind.model_validate_json(b"{" + body)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise UserError(f"{path} is not a {name} of this version of advdef ({reason}): {hint}") from None


def read_bytes(path: Path) -> bytes:
    """The content of a file of a store, which never changes in place.

    Raises:
        OSError: The file cannot be read, is no regular file, or is larger than any that a store has.
    """
    return read_bounded(path, _MOST_BYTES)


def _first_line(body: bytes) -> bytes:
    return b'{"sha256": "%s",' % sha256(body).encode()


def sha256(content: bytes) -> str:
    """The sha256 of a file's content, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()

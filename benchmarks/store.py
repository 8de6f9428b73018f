"""The store: one immutable result a cell, in a folder that several processes and machines may share."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from robustbench_cli.attacks.base.errors import UserError
from robustbench_cli.benchmarks.cell import Cell
from robustbench_cli.attacks.base.files import write_whole

if TYPE_CHECKING:
    from robustbench_cli.benchmarks.outcomes import Outcomes

__all__ = ["Failure", "Result", "Store"]

Content = TypeVar("Content", bound=BaseModel)


class Result(BaseModel):
    """A finished cell.

    Attributes:
        cell: What was run.
        eps: The radius as it was written; empty where there is none.
        checkpoint: The checkpoint's file as it was named.
        summary: The figures of the row, by column; see :func:`~robustbench_cli.benchmarks.outcomes.summarise`.
        flags: Audit checks that speak against the row.
        forwards: Images passed through the model.
        backwards: Images passed back to the input.
        seconds: Wall time.
        device: The device's name.
        versions: Versions of what computed it.
        outcomes_sha256: Of the ``.npz`` beside it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cell: Cell
    eps: str
    checkpoint: str
    summary: dict[str, float | None]
    flags: tuple[str, ...]
    forwards: int
    backwards: int
    seconds: float
    device: str
    versions: dict[str, str]
    outcomes_sha256: str


class Failure(BaseModel):
    """A cell that could not be finished.

    Attributes:
        cell: What was to be run.
        error: Why, in one line.
        traceback: Where in the code.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cell: Cell
    error: str
    traceback: str = ""


class Store:
    """Results in ``DIR/cells``: ``<id>.json``, and ``<id>.npz`` with the outcomes of every image, written first.

    A failure is a file of another name (``<id>.failed.json``), so that a cell is done if, and only if, its ``.json`` is
    there. Nothing is ever changed in place.

    Args:
        path: The folder; it is made when something is stored.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def _cells(self) -> Path:
        return self.path / "cells"

    def _file(self, cell_id: str, ending: str) -> Path:
        return self._cells / f"{cell_id}{ending}"

    def ensure_writable(self) -> None:
        """Fails now rather than after hours of computation.

        Raises:
            UserError: The folder cannot be made or written.
        """
        probe = self._cells / ".writable"
        write_whole(probe, b"")
        probe.unlink(missing_ok=True)

    def __contains__(self, cell: Cell) -> bool:
        return self._file(cell.id, ".json").is_file()

    def publish(self, result: Result, outcomes: bytes) -> None:
        """Stores a result with its outcomes; what an earlier try left as a failure goes."""
        cell_id = result.cell.id
        write_whole(self._file(cell_id, ".npz"), outcomes)
        write_whole(self._file(cell_id, ".json"), _json(result))
        self._file(cell_id, ".failed.json").unlink(missing_ok=True)

    def publish_failure(self, failure: Failure) -> None:
        """Stores that a cell failed; it is tried again when it is asked for again."""
        write_whole(self._file(failure.cell.id, ".failed.json"), _json(failure))

    def result(self, cell_id: str) -> Result:
        """The result of a finished cell.

        Raises:
            UserError: The file is missing or is not a result.
        """
        return _read(self._file(cell_id, ".json"), Result)

    def outcomes(self, cell_id: str) -> Outcomes:
        """The outcomes of every image of a finished cell.

        Raises:
            UserError: The file is missing or is not what the result names.
        """
        from robustbench_cli.benchmarks.outcomes import Outcomes

        path = self._file(cell_id, ".npz")
        try:
            return Outcomes.from_bytes(path.read_bytes())
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise UserError(f"{path} cannot be read ({error}): remove {cell_id}.json and run the cell again") from None

    def results(self) -> Iterator[Result]:
        """All finished cells, by identity.

        Raises:
            UserError: The folder is no store, or a file in it is not a result.
        """
        self._require()
        for path in sorted(self._cells.glob("*.json")):
            if not path.name.endswith(".failed.json"):
                yield _read(path, Result)

    def failures(self) -> Iterator[Failure]:
        """All cells that failed and have not been finished since."""
        self._require()
        for path in sorted(self._cells.glob("*.failed.json")):
            yield _read(path, Failure)

    def _require(self) -> None:
        if not self._cells.is_dir():
            raise UserError(f"no store at {self.path}: run 'advdef attack --store {self.path}' first, or name another")


def _json(content: BaseModel) -> bytes:
    return (content.model_dump_json(indent=1) + "\n").encode()


def _read(path: Path, kind: type[Content]) -> Content:
    try:
        return kind.model_validate(json.loads(path.read_bytes()))
    except (OSError, ValueError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise UserError(f"{path} is not a {kind.__name__.lower()} of advdef ({reason}): remove it to run the cell again") from None

"""The store: one immutable result a cell, in a folder that several processes and machines may share."""

from __future__ import annotations

import hashlib
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from robustbench_cli.benchmarks.store.cell import Cell
from robustbench_cli.core.atomic_write import ensure_writable, is_temporary, write_atomically
from robustbench_cli.core.errors import UserError

if TYPE_CHECKING:
    from robustbench_cli.benchmarks.evaluation.outcomes import Outcomes

__all__ = [
    "CERTIFICATION",
    "PARTIAL_RESULTS",
    "REPROGRAMMING",
    "SEARCHES",
    "Failure",
    "RequestedCell",
    "Result",
    "Store",
    "half_written",
    "sealed",
    "unsealed",
]

PARTIAL_RESULTS = "pieces"
"""The folder inside a store of what has been found of cells that are not done yet; see :mod:`.pieces`."""

SEARCHES = "searches"
"""The folder inside a store, itself a store, of what minimal-norm attacks found at any distance.

That is no cell that anybody asked for, and so no row of a table, before it is read at a radius, or at none.
"""

CERTIFICATION = "certification"
"""The folder inside a store of certificates; see :mod:`.certification`."""

REPROGRAMMING = "reprogramming"
"""The folder inside a store of results of adversarial reprogramming; see :mod:`.reprogramming`."""

_CELLS, _ASKED = "cells", "asked"


_ACCURACIES = tuple(f"{kind}_accuracy{end}" for kind in ("clean", "robust") for end in ("", "_low", "_high"))


def _whole_summary(summary: dict[str, float | None]) -> dict[str, float | None]:
    """The figures of a row, each of whose accuracies is a share."""
    for name in (*_ACCURACIES, "robust_accuracy_vote", "robust_accuracy_every_draw"):
        value = summary.get(name)
        if value is None or not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}, which is no share")
    return summary


class Result(BaseModel):
    """A finished cell.

    Attributes:
        cell: What was run.
        eps: The radius as it was written; empty where there is none.
        checkpoint: The checkpoint's file as it was named.
        summary: The figures of the row, by column; see :func:`~robustbench_cli.benchmarks.evaluation.outcomes.summarize`.
        flags: Audit checks that speak against the row.
        forwards: Images passed through the model.
        backwards: Images passed back to the input.
        seconds: Wall time.
        device: The device's name.
        versions: Versions of what computed it.
        outcomes_sha256: Of the ``.npz`` file with the outcomes of every image.
        mean: Of the normalisation inside the model; ``None`` where it has none.
        std: Of that normalisation.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cell: Cell
    eps: str
    checkpoint: str
    summary: Annotated[dict[str, float | None], AfterValidator(_whole_summary)]
    flags: tuple[str, ...]
    forwards: int
    backwards: int
    seconds: float
    device: str
    versions: dict[str, str]
    outcomes_sha256: str
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @property
    def was_skipped(self) -> bool:
        """Whether the cell's condition did not hold, so that its attack was not run."""
        return self.cell.only_if is not None and self.forwards == self.backwards == 0


class Failure(BaseModel):
    """A cell that could not be finished.

    Attributes:
        cell: What was to be run.
        eps: The radius as it was written; empty where there is none.
        error: Why, in one line.
        traceback: Where in the code.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cell: Cell
    eps: str
    error: str
    traceback: str = ""


class RequestedCell(BaseModel):
    """A cell that a command was to compute.

    Attributes:
        cell: What was to be run.
        eps: The radius as it was written; empty where there is none.
        checkpoint: The checkpoint's file as it was named.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cell: Cell
    eps: str
    checkpoint: str


class _Request(BaseModel):
    """All cells that one command asked for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    asked: tuple[RequestedCell, ...]


Record = TypeVar("Record", bound=BaseModel)
CellRecord = TypeVar("CellRecord", Result, Failure)


def _raise(error: UserError) -> None:
    raise error


class Store:
    """Results in ``DIR/cells``: ``<id>.json``, and first the outcomes of every image in ``<id>.<sha256>.npz``.

    A failure is a file of another name (``<id>.failed.json``), so that a cell is done if, and only if, its ``.json`` is
    there. Nothing is ever changed in place, and a result names its outcomes by their content: whoever else computes the
    same cell at the same time, and wherever one is killed, the outcomes that a result was made of are there before it
    is. A result whose place another one took leaves its outcomes, which :meth:`leftovers` names. Every file carries the
    sha256 of its content, and a result is read only where its outcomes are whole too.

    ``DIR/asked`` holds what commands asked for, a file each that is named by its content, so that the cells of one that
    was interrupted are known to be missing.

    Args:
        path: The folder; it is made when something is stored.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._cells = path / _CELLS
        self._requests = path / _ASKED

    def _result_file(self, cell_id: str) -> Path:
        return self._cells / f"{cell_id}.json"

    def _failure_file(self, cell_id: str) -> Path:
        return self._cells / f"{cell_id}.failed.json"

    def _outcomes_file(self, cell_id: str, result: Result) -> Path:
        return self._cells / f"{cell_id}.{result.outcomes_sha256[:12]}.npz"

    def ensure_writable(self) -> None:
        """Fails now rather than after hours of computation.

        Raises:
            UserError: The folder cannot be made or written.
        """
        ensure_writable(self._cells)

    def __contains__(self, cell: Cell) -> bool:
        # Whatever stands there: it is to be read, or complained of, before anything is computed.
        return self._result_file(cell.id).exists()

    def has_failed(self, cell: Cell) -> bool:
        """Whether a cell failed, and has not been finished since."""
        return self._failure_file(cell.id).exists() and cell not in self

    def mark(self, cell_id: str) -> str | None:
        """What tells a cell's result from any other of it, also where it is damaged; ``None`` where there is none."""
        try:
            return _sha256(self._result_file(cell_id).read_bytes())
        except OSError:
            return None

    def publish(self, result: Result, outcomes: bytes, *, instead_of: str | None = None) -> None:
        """Stores a result with its outcomes, unless the cell is there already; an earlier failure of it goes.

        Args:
            result: What was computed.
            outcomes: The ``.npz`` file with the outcomes of every image.
            instead_of: The :meth:`mark` of a result of the cell whose place it takes, in one step.

        Raises:
            UserError: The folder cannot be written.
        """
        if self.mark(result.cell.id) in {None, instead_of}:
            write_atomically(self._outcomes_file(result.cell.id, result), outcomes)
            write_atomically(self._result_file(result.cell.id), sealed(result))
        self._failure_file(result.cell.id).unlink(missing_ok=True)

    def publish_failure(self, failure: Failure) -> None:
        """Stores that a cell failed; it is tried again when it is asked for again.

        Raises:
            UserError: The folder cannot be written.
        """
        write_atomically(self._failure_file(failure.cell.id), sealed(failure))

    def ask(self, cells: Iterable[RequestedCell]) -> None:
        """Remembers which cells are asked for, before the first of them is computed.

        Raises:
            UserError: The folder cannot be written.
        """
        asked = {each.cell.id: each for each in cells}
        if asked:
            content = sealed(_Request(asked=tuple(asked.values())), without_defaults=True)
            path = self._requests / f"{_sha256(content)[:20]}.json"
            if not path.exists():
                write_atomically(path, content)

    def asked(self, *, damaged: Callable[[UserError], None] = _raise) -> dict[str, RequestedCell]:
        """All cells that were ever asked for and not forgotten since, by identity.

        Args:
            damaged: As for :meth:`results`.

        Raises:
            UserError: The folder is no store.
        """
        return {each.cell.id: each for _, request in self._all_requests(damaged) for each in request.asked}

    def missing(self, *, damaged: Callable[[UserError], None] = _raise) -> dict[str, RequestedCell]:
        """The cells that were asked for, and neither have a result nor have failed, by identity.

        Args:
            damaged: As for :meth:`results`.

        Raises:
            UserError: The folder is no store.
        """
        there = {path.name.partition(".")[0] for path in self._files("*.json")}
        return {cell_id: each for cell_id, each in self.asked(damaged=damaged).items() if cell_id not in there}

    def forget_unfinished(self) -> None:
        """Forgets the cells that failed, and that the :meth:`missing` ones were asked for.

        Raises:
            UserError: The folder is no store, or cannot be written.
        """
        for failure in self.failures(damaged=lambda _: None):
            self._failure_file(failure.cell.id).unlink(missing_ok=True)
        missing = self.missing(damaged=lambda _: None)
        for path, request in self._all_requests(lambda _: None):
            left = [each for each in request.asked if each.cell.id not in missing]
            if len(left) < len(request.asked):
                self.ask(left)
                path.unlink(missing_ok=True)

    def _all_requests(self, damaged: Callable[[UserError], None]) -> Iterator[tuple[Path, _Request]]:
        self._require_store()
        for path in sorted(self._requests.glob("*.json")):
            try:
                request = unsealed(path, _Request, word="request", way_out=f"remove {path}, and give the command again")
            except UserError as error:
                # Whoever forgets cells at this moment removes it.
                if path.exists():
                    damaged(error)
            else:
                yield path, request

    def result(self, cell_id: str) -> Result:
        """The result of a finished cell.

        Raises:
            UserError: The file is missing, is not that result, or is not as it was stored; or its outcomes are not.
        """
        return self._read_result(self._result_file(cell_id))[0]

    def outcomes(self, cell_id: str) -> Outcomes:
        """The outcomes of every image of a finished cell.

        Raises:
            UserError: The file is missing or is not what the result names.
        """
        from robustbench_cli.benchmarks.evaluation.outcomes import Outcomes

        path = self._result_file(cell_id)
        result, content = self._read_result(path)
        try:
            return Outcomes.from_bytes(content)
        except (ValueError, KeyError, zipfile.BadZipFile) as error:
            raise UserError(
                f"{self._outcomes_file(cell_id, result)} was stored by another version of advdef ({error}): {_again(path)}"
            ) from None

    def _read_result(self, path: Path) -> tuple[Result, bytes]:
        """A result and the content of its outcomes, both as they were stored."""
        result = _read(path, Result)
        file = self._outcomes_file(path.stem, result)
        try:
            content = file.read_bytes()
        except OSError as error:
            raise UserError(f"{file} cannot be read ({error.strerror}): {_again(path)}") from None
        if _sha256(content) != result.outcomes_sha256:
            raise UserError(f"{file} is damaged, its content is not what was stored: {_again(path)}")
        return result, content

    def results(self, *, damaged: Callable[[UserError], None] = _raise) -> Iterator[Result]:
        """All finished cells, by identity.

        Args:
            damaged: Called with what is wrong with a file that is not a result, or not as it was stored, in the place
                of the result; raises it where not given.

        Raises:
            UserError: The folder is no store.
        """
        for path in self._files("*.json"):
            if not path.name.endswith(".failed.json"):
                try:
                    result = self._read_result(path)[0]
                except UserError as error:
                    damaged(error)
                else:
                    yield result

    def failures(self, *, damaged: Callable[[UserError], None] = _raise) -> Iterator[Failure]:
        """All cells that failed and have not been finished since.

        Args:
            damaged: As for :meth:`results`.

        Raises:
            UserError: The folder is no store.
        """
        for path in self._files("*.failed.json"):
            try:
                failure = _read(path, Failure)
            except UserError as error:
                # Whoever finishes the cell at this moment removes it.
                if path.exists():
                    damaged(error)
            else:
                if failure.cell not in self:
                    yield failure

    def take(self, other: Store, *, damaged: Callable[[UserError], None] = _raise) -> int:
        """Copies what another store has and this one has not: results with their outcomes, failures, what was asked.

        Args:
            other: It stays as it is.
            damaged: As for :meth:`results`.

        Returns:
            How many results were copied.

        Raises:
            UserError: This store cannot be written, or the other one is none.
        """
        copied = 0
        self.ask(other.asked(damaged=damaged).values())
        for result in other.results(damaged=damaged):
            if result.cell not in self:
                self.publish(result, other._outcomes_file(result.cell.id, result).read_bytes())
                copied += 1
        for failure in other.failures(damaged=damaged):
            if failure.cell not in self:
                self.publish_failure(failure)
        return copied

    def leftovers(self, *, older_than: float, at_work: Callable[[str], str | None] = lambda _: None) -> list[Path]:
        """Files that no result needs: what kills left half-written, outcomes without a result, mended failures.

        Args:
            older_than: Seconds; what is younger may be in the making.
            at_work: Who is at a cell, whose files may be in the making however old a clock makes them.

        Raises:
            UserError: The folder is no store.
        """
        names = {path.name for path in self._files("*.json")}
        found = []
        for path in sorted(self._cells.glob("*")):
            cell_id = path.name.removeprefix(".").partition(".")[0]
            whole = f"{cell_id}.json" in names
            needed = path.name.endswith(".json") and not (whole and path.name.endswith(".failed.json"))
            if path.suffix == ".npz" and whole:
                # Of a result that cannot be read, nobody knows which outcomes are its own.
                with suppress(UserError):
                    result = _read(self._result_file(cell_id), Result)
                    needed = path == self._outcomes_file(cell_id, result)
                    whole = False
                needed = needed or whole
            # What another process has given its name, or removed, since the folder was listed is none.
            with suppress(FileNotFoundError):
                if not needed and time.time() - path.stat().st_mtime >= older_than and at_work(cell_id) is None:
                    found.append(path)
        batch_results = sorted((self.path / PARTIAL_RESULTS).glob("*/*"))
        found += [path for path in batch_results if f"{path.parent.name}.json" in names]
        for folder in (self._requests, *sorted((self.path / PARTIAL_RESULTS).glob("*"))):
            found += [path for path in half_written(folder, older_than=older_than) if path not in found]
        return found + self._contained_requests()

    def _contained_requests(self) -> list[Path]:
        """The requests whose cells are all in another one, as those of a part of a suite are in the whole."""
        cells = {path: {each.cell.id for each in request.asked} for path, request in self._all_requests(lambda _: None)}
        found: list[Path] = []
        for path, own in sorted(cells.items(), key=lambda each: (len(each[1]), each[0])):
            if any(own <= others for other, others in cells.items() if other != path and other not in found):
                found.append(path)
        return found

    def _files(self, pattern: str) -> list[Path]:
        self._require_store()
        return sorted(self._cells.glob(pattern))

    @property
    def exists(self) -> bool:
        """Whether anything has been stored in the folder, of whatever kind."""
        kinds = (_CELLS, _ASKED, PARTIAL_RESULTS, SEARCHES, CERTIFICATION, REPROGRAMMING)
        return any((self.path / kind).is_dir() for kind in kinds)

    def _require_store(self) -> None:
        if not self.exists:
            raise UserError(f"no store at {self.path}: run 'advdef attack --store {self.path}' first, or name another")


def half_written(folder: Path, *, older_than: float) -> list[Path]:
    """What kills left of files that were being written in a folder.

    Args:
        folder: Any.
        older_than: Seconds; what is younger may be in the making.
    """
    found = []
    for path in sorted(folder.glob(".*")):
        # What another process has given its name, or removed, since the folder was listed is none.
        with suppress(FileNotFoundError):
            if is_temporary(path) and time.time() - path.stat().st_mtime >= older_than:
                found.append(path)
    return found


def sealed(record: BaseModel, *, without_defaults: bool = False) -> bytes:
    """The content of a file: JSON whose first line holds the sha256 of the lines after it.

    Args:
        record: What is to be stored.
        without_defaults: Whether the fields are left out that are as they are where nothing is said of them.
    """
    text = record.model_dump_json(indent=1, exclude_defaults=without_defaults)
    body = f"{text}\n".encode().removeprefix(b"{\n")
    return _seal(body) + b"\n" + body


def unsealed(path: Path, kind: type[Record], *, word: str = "result", way_out: str | None = None) -> Record:
    """What a file holds that :func:`sealed` made.

    Args:
        path: The file.
        kind: What it is to hold.
        word: What that is called.
        way_out: What to do where it is not that: the end of the message.

    Raises:
        UserError: The file is missing, is not that, or is not as it was stored.
    """
    way_out = way_out or _again(path)
    try:
        first, _, body = path.read_bytes().partition(b"\n")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): {way_out}") from None
    if first != _seal(body):
        raise UserError(f"{path} is damaged, its content is not what was stored: {way_out}")
    try:
        return kind.model_validate_json(b"{" + body)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise UserError(f"{path} is not a {word} of this version of advdef ({reason}): {way_out}") from None


def _seal(body: bytes) -> bytes:
    return b'{"sha256": "%s",' % _sha256(body).encode()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _again(path: Path) -> str:
    return f"remove {path} to run the cell again"


def _read(path: Path, kind: type[CellRecord]) -> CellRecord:
    record = unsealed(path, kind, word=kind.__name__.lower())
    if record.cell.id != path.name.partition(".")[0]:
        raise UserError(f"{path} holds the cell {record.cell.id}: remove it, or give it back its name")
    return record

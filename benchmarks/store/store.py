"""The store: one immutable result per cell, in a folder that several processes and machines may share."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from robustbench_cli.benchmarks.store.cell import Cell
from robustbench_cli.benchmarks.store.records import (
    Failure,
    RequestedCell,
    Result,
    encoded,
    read_bytes,
    read_record,
    sha256,
)
from robustbench_cli.benchmarks.store.requests import Requests
from robustbench_cli.core.atomic_write import ensure_writable, write_all_atomically, write_atomically
from robustbench_cli.core.errors import UserError

if TYPE_CHECKING:
    from robustbench_cli.benchmarks.evaluation.outcomes import Outcomes

__all__ = [
    "AUDITS",
    "CERTIFICATION",
    "PARTIAL_RESULTS",
    "REPROGRAMMING",
    "SEARCHES",
    "Store",
    "raise_error",
]

PARTIAL_RESULTS = "pieces"
"""The folder in a store with the partial results of unfinished cells; see :mod:`~.evaluation.partial_results`."""

SEARCHES = "searches"
"""The folder in a store, itself a store, with the results of minimal-norm attacks at any distance.

Nobody requested such a cell, so it is no row of a table. The requested cells read it at their radius.
"""

CERTIFICATION = "certification"
"""The folder in a store with certificates; see :mod:`~.certification.certify`."""

REPROGRAMMING = "reprogramming"
"""The folder in a store with results of adversarial reprogramming; see :mod:`~.reprogramming.run`."""

AUDITS = "audits"
"""The folder in a store with what the checks of an audit found; see :mod:`~.audit.records`."""

_CELLS, _REQUESTS = "cells", "asked"

CellRecord = TypeVar("CellRecord", Result, Failure)


def raise_error(error: UserError) -> None:
    """What to do about a damaged file, unless the caller says something else."""
    raise error


class Store:
    """Results in ``DIR/cells``: ``<id>.json``, and the outcomes of every image in ``<id>.<sha256>.npz``.

    A failure is a file of another name (``<id>.failed.json``), so a cell is done if and only if its ``.json`` exists. No
    file ever changes in place. The outcomes are written first, and the result names them by their hash. So a result always
    has its outcomes, also when a process is killed or two processes compute the same cell. Where one result replaces
    another, the outcomes of the replaced one stay; :func:`~.leftovers.leftovers` lists them. Every file carries the sha256 of its
    content, and a result is read only if its outcomes are intact too.

    Attributes:
        path: The folder; the first write makes it.
        cells: ``DIR/cells``.
        requests: The requests in ``DIR/asked``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cells = path / _CELLS
        self.requests = Requests(path / _REQUESTS)

    def result_file(self, cell_id: str) -> Path:
        """The file of a finished cell's result."""
        return self.cells / f"{cell_id}.json"

    def _failure_file(self, cell_id: str) -> Path:
        return self.cells / f"{cell_id}.failed.json"

    def outcomes_file(self, result: Result) -> Path:
        """The file of the outcomes of a result."""
        return self.cells / f"{result.cell.id}.{result.outcomes_sha256[:12]}.npz"

    def ensure_writable(self) -> None:
        """Fails now rather than after hours of computation.

        Raises:
            UserError: The folder cannot be made or written.
        """
        ensure_writable(self.cells)

    def __contains__(self, cell: Cell) -> bool:
        # A damaged file counts too: its error must come before anything is computed.
        return self.result_file(cell.id).exists()

    def has_failed(self, cell: Cell) -> bool:
        """Whether a cell failed, and has not been finished since."""
        return self._failure_file(cell.id).exists() and cell not in self

    def result_hash(self, cell_id: str) -> str | None:
        """The sha256 of a result's file, damaged or not; ``None`` where there is none."""
        try:
            return sha256(read_bytes(self.result_file(cell_id)))
        except OSError:
            return None

    def publish(self, result: Result, outcomes: bytes, *, replacing: str | None = None) -> None:
        """Stores a result with its outcomes, unless the cell has a result; an earlier failure is removed.

        Args:
            result: The result.
            outcomes: The ``.npz`` file with the outcomes of every image.
            replacing: The :meth:`result_hash` of the earlier result that it replaces, in one step.

        Raises:
            UserError: The folder cannot be written.
        """
        if self.result_hash(result.cell.id) in {None, replacing}:
            write_atomically(self.outcomes_file(result), outcomes)
            write_atomically(self.result_file(result.cell.id), encoded(result))
        self._failure_file(result.cell.id).unlink(missing_ok=True)

    def publish_all(self, batch: Sequence[tuple[Result, bytes]]) -> None:
        """Stores results, all of cells without a result, and waits for the disk once.

        Args:
            batch: Results with the files of their outcomes, as for :meth:`publish`.

        Raises:
            UserError: The folder cannot be written.
        """
        outcomes = {self.outcomes_file(result).name: content for result, content in batch}
        results = {self.result_file(result.cell.id).name: encoded(result) for result, _ in batch}
        write_all_atomically(self.cells, outcomes | results)

    def publish_failure(self, failure: Failure) -> None:
        """Stores that a cell failed; the next request runs the cell again.

        Raises:
            UserError: The folder cannot be written.
        """
        write_atomically(self._failure_file(failure.cell.id), encoded(failure))

    def remove_replaced_failures(self) -> None:
        """Removes the failures of cells that have a result."""
        # One look at the folder takes less time than one removal per result.
        for failed in self.cells.glob("*.failed.json"):
            if self.result_file(failed.name.partition(".")[0]).exists():
                failed.unlink(missing_ok=True)

    def request(self, cells: Iterable[RequestedCell]) -> None:
        """Stores which cells are requested, before the first of them is computed.

        Raises:
            UserError: The folder cannot be written.
        """
        self.requests.add(cells)

    def requested(self, *, damaged: Callable[[UserError], None] = raise_error) -> dict[str, RequestedCell]:
        """All cells that were ever requested, by identity, except forgotten ones.

        Args:
            damaged: As for :meth:`results`.

        Raises:
            UserError: The folder is no store.
        """
        self.require_exists()
        return {cell.cell.id: cell for _, request in self.requests.stored(damaged=damaged) for cell in request.cells}

    def missing(self, *, damaged: Callable[[UserError], None] = raise_error) -> dict[str, RequestedCell]:
        """The requested cells that have neither a result nor a failure, by identity.

        Args:
            damaged: As for :meth:`results`.

        Raises:
            UserError: The folder is no store.
        """
        stored = {path.name.partition(".")[0] for path in self._files("*.json")}
        requests = self.requests.stored(damaged=damaged, ignored=stored)
        requested = {cell.cell.id: cell for _, request in requests for cell in request.cells}
        return {cell_id: cell for cell_id, cell in requested.items() if cell_id not in stored}

    def forget_unfinished(self) -> None:
        """Removes failures, and removes the :meth:`missing` cells from their requests.

        Raises:
            UserError: The folder is no store, or cannot be written.
        """
        for failure in self.failures(damaged=lambda _: None):
            self._failure_file(failure.cell.id).unlink(missing_ok=True)
        self.requests.remove(self.missing(damaged=lambda _: None))

    def result(self, cell_id: str) -> Result:
        """The result of a finished cell.

        Raises:
            UserError: The file of the result or of its outcomes is missing or damaged, or is of another cell.
        """
        result = self.unverified_result(cell_id)
        self.outcomes_content(result)
        return result

    def unverified_result(self, cell_id: str) -> Result:
        """The result of a finished cell, whose outcomes may be missing or damaged.

        Raises:
            UserError: The file is missing or damaged, or is of another cell.
        """
        return _read_cell_record(self.result_file(cell_id), Result)

    def outcomes(self, cell_id: str) -> Outcomes:
        """The outcomes of every image of a finished cell.

        Raises:
            UserError: The file is missing, damaged, or not the one that the result names.
        """
        return self.outcomes_of(self.unverified_result(cell_id))

    def outcomes_of(self, result: Result) -> Outcomes:
        """The outcomes of every image of a result that was read from this store.

        Args:
            result: The result, whose file is not read again.

        Raises:
            UserError: The file is missing, damaged, or not the one that the result names.
        """
        return self.parsed(result, self.outcomes_content(result))

    def parsed(self, result: Result, content: bytes) -> Outcomes:
        """The outcomes in the :meth:`outcomes_content` of a result.

        Raises:
            UserError: They are of another version.
        """
        from robustbench_cli.benchmarks.evaluation.outcomes import Outcomes

        try:
            return Outcomes.from_bytes(content)
        except (ValueError, KeyError, zipfile.BadZipFile) as error:
            raise UserError(
                f"{self.outcomes_file(result)} was stored by another version of advdef ({error}): "
                f"{_repeat_hint(self.result_file(result.cell.id))}"
            ) from None

    def outcomes_content(self, result: Result) -> bytes:
        """The content of the file with the outcomes of a result that was read from this store.

        Raises:
            UserError: The file is missing or damaged.
        """
        file = self.outcomes_file(result)
        try:
            content = read_bytes(file)
        except OSError as error:
            reason = f"cannot be read ({error.strerror or error})"
        else:
            if sha256(content) == result.outcomes_sha256:
                return content
            reason = "is damaged, its content is not what was stored"
        raise UserError(f"{file} {reason}: {_repeat_hint(self.result_file(result.cell.id))}")

    def results(self, *, damaged: Callable[[UserError], None] = raise_error) -> Iterator[Result]:
        """All finished cells, by identity.

        Args:
            damaged: Called with the error of each file that is no result or is damaged; by default it is raised.

        Raises:
            UserError: The folder is no store.
        """
        for result, _ in self.with_outcomes_content(damaged=damaged):
            yield result

    def unverified(self, *, damaged: Callable[[UserError], None]) -> Iterator[Result]:
        """All finished cells, by identity, whose outcomes may be missing or damaged: :func:`~.together.read_together` verifies them.

        Args:
            damaged: As for :meth:`results`.

        Raises:
            UserError: The folder is no store.
        """
        for path in self._files("*.json"):
            if not path.name.endswith(".failed.json"):
                try:
                    result = _read_cell_record(path, Result)
                except UserError as error:
                    damaged(error)
                else:
                    yield result

    def with_outcomes_content(self, *, damaged: Callable[[UserError], None]) -> Iterator[tuple[Result, bytes]]:
        """All finished cells, by identity, with their :meth:`outcomes_content`; each file is read once.

        Args:
            damaged: As for :meth:`results`.

        Raises:
            UserError: The folder is no store.
        """
        for result in self.unverified(damaged=damaged):
            try:
                content = self.outcomes_content(result)
            except UserError as error:
                damaged(error)
            else:
                yield result, content

    def failures(self, *, damaged: Callable[[UserError], None] = raise_error) -> Iterator[Failure]:
        """All cells that failed and have not been finished since.

        Args:
            damaged: As for :meth:`results`.

        Raises:
            UserError: The folder is no store.
        """
        for path in self._files("*.failed.json"):
            try:
                failure = _read_cell_record(path, Failure)
            except UserError as error:
                # Another process may just have finished the cell and removed the failure.
                if path.exists():
                    damaged(error)
            else:
                if failure.cell not in self:
                    yield failure

    def _files(self, pattern: str) -> list[Path]:
        self.require_exists()
        # Paths take long to compare.
        return sorted(self.cells.glob(pattern), key=str)

    @property
    def exists(self) -> bool:
        """Whether the folder has anything that a store can have."""
        kinds = (_CELLS, _REQUESTS, PARTIAL_RESULTS, SEARCHES, CERTIFICATION, REPROGRAMMING, AUDITS)
        return any((self.path / kind).is_dir() for kind in kinds)

    def require_exists(self) -> None:
        """Refuses a folder that is no store.

        Raises:
            UserError: There is none.
        """
        if not self.exists:
            raise UserError(f"no store at {self.path}: run 'advdef attack --store {self.path}' first, or name another")


def _repeat_hint(path: Path) -> str:
    return f"remove {path} to run the cell again"


def _read_cell_record(path: Path, kind: type[CellRecord]) -> CellRecord:
    record = read_record(path, kind, name=kind.__name__.lower(), hint=_repeat_hint(path))
    cell_id = path.name.partition(".")[0]
    if record.cell.id != cell_id:
        # Earlier versions called the default precision, which is no part of a cell's hash, float32.
        cell = record.cell.model_copy(update={"precision": "tf32"})
        if (record.cell.precision, cell.id) == ("float32", cell_id):
            return record.model_copy(update={"cell": cell})
        raise UserError(f"{path} has the cell {record.cell.id}: remove it, or restore its name")
    return record

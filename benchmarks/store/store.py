"""The store: one immutable result per cell, in a folder that several processes and machines may share."""

from __future__ import annotations

import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from robustbench_cli.benchmarks.store.cell import Cell
from robustbench_cli.benchmarks.store.records import (
    Failure,
    Request,
    RequestedCell,
    RequestedIds,
    Result,
    encoded,
    read_bytes,
    read_record,
    sha256,
)
from robustbench_cli.core.atomic_write import (
    ensure_writable,
    stale_temporary_files,
    write_all_atomically,
    write_atomically,
)
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

_COPIED_AT_ONCE, _COPIED_BYTES = 64, 2**26
"""How many results, and about how many bytes, are copied before the disk is waited for."""

CellRecord = TypeVar("CellRecord", Result, Failure)


def raise_error(error: UserError) -> None:
    """What to do about a damaged file, unless the caller says something else."""
    raise error


class Store:
    """Results in ``DIR/cells``: ``<id>.json``, and the outcomes of every image in ``<id>.<sha256>.npz``.

    A failure is a file of another name (``<id>.failed.json``), so a cell is done if and only if its ``.json`` exists. No
    file ever changes in place. The outcomes are written first, and the result names them by their hash. So a result always
    has its outcomes, also when a process is killed or two processes compute the same cell. Where one result replaces
    another, the outcomes of the replaced one stay; :meth:`leftovers` lists them. Every file carries the sha256 of its
    content, and a result is read only if its outcomes are intact too.

    ``DIR/asked`` has one file per request, named by its hash, so that the missing cells of an interrupted command are
    known.

    Args:
        path: The folder; the first write makes it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._cells = path / _CELLS
        self._requests = path / _REQUESTS

    def result_file(self, cell_id: str) -> Path:
        """The file of a finished cell's result."""
        return self._cells / f"{cell_id}.json"

    def _failure_file(self, cell_id: str) -> Path:
        return self._cells / f"{cell_id}.failed.json"

    def _outcomes_file(self, result: Result) -> Path:
        return self._cells / f"{result.cell.id}.{result.outcomes_sha256[:12]}.npz"

    def ensure_writable(self) -> None:
        """Fails now rather than after hours of computation.

        Raises:
            UserError: The folder cannot be made or written.
        """
        ensure_writable(self._cells)

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
            write_atomically(self._outcomes_file(result), outcomes)
            write_atomically(self.result_file(result.cell.id), encoded(result))
        self._failure_file(result.cell.id).unlink(missing_ok=True)

    def _publish_all(self, batch: Sequence[tuple[Result, bytes]]) -> None:
        """Stores results with their outcomes, all of cells without a result."""
        outcomes = {self._outcomes_file(result).name: content for result, content in batch}
        results = {self.result_file(result.cell.id).name: encoded(result) for result, _ in batch}
        write_all_atomically(self._cells, outcomes | results)

    def publish_failure(self, failure: Failure) -> None:
        """Stores that a cell failed; the next request runs the cell again.

        Raises:
            UserError: The folder cannot be written.
        """
        write_atomically(self._failure_file(failure.cell.id), encoded(failure))

    def request(self, cells: Iterable[RequestedCell]) -> None:
        """Stores which cells are requested, before the first of them is computed.

        Raises:
            UserError: The folder cannot be written.
        """
        by_id = {requested.cell.id: requested for requested in cells}
        if by_id:
            content = encoded(Request(ids=tuple(by_id), cells=tuple(by_id.values())), without_defaults=True)
            path = self._requests / f"{sha256(content)[:20]}.json"
            if not path.exists():
                write_atomically(path, content)

    def requested(self, *, damaged: Callable[[UserError], None] = raise_error) -> dict[str, RequestedCell]:
        """All cells that were ever requested, by identity, except forgotten ones.

        Args:
            damaged: As for :meth:`results`.

        Raises:
            UserError: The folder is no store.
        """
        return {cell.cell.id: cell for _, request in self._all_requests(damaged) for cell in request.cells}

    def missing(self, *, damaged: Callable[[UserError], None] = raise_error) -> dict[str, RequestedCell]:
        """The requested cells that have neither a result nor a failure, by identity.

        Args:
            damaged: As for :meth:`results`.

        Raises:
            UserError: The folder is no store.
        """
        stored = {path.name.partition(".")[0] for path in self._files("*.json")}
        requests = self._all_requests(damaged, beyond=stored)
        requested = {cell.cell.id: cell for _, request in requests for cell in request.cells}
        return {cell_id: cell for cell_id, cell in requested.items() if cell_id not in stored}

    def forget_unfinished(self) -> None:
        """Removes failures, and removes the :meth:`missing` cells from their requests.

        Raises:
            UserError: The folder is no store, or cannot be written.
        """
        for failure in self.failures(damaged=lambda _: None):
            self._failure_file(failure.cell.id).unlink(missing_ok=True)
        missing = self.missing(damaged=lambda _: None)
        for path, request in self._all_requests(lambda _: None):
            remaining = [requested for requested in request.cells if requested.cell.id not in missing]
            if len(remaining) < len(request.cells):
                self.request(remaining)
                path.unlink(missing_ok=True)

    def _all_requests(
        self, damaged: Callable[[UserError], None], *, beyond: set[str] | None = None
    ) -> Iterator[tuple[Path, Request]]:
        """The requests with their files; those of cells that are all in ``beyond``, by identity, may be left out."""
        self._require_store()
        for path in sorted(self._requests.glob("*.json")):
            read = partial(read_record, path, name="request", hint=f"remove {path}, and repeat the command")
            try:
                if beyond and (ids := read(RequestedIds).ids) and beyond.issuperset(ids):
                    continue
                request = read(Request)
            except UserError as error:
                # Another process may just have removed it.
                if path.exists():
                    damaged(error)
            else:
                yield path, request

    def result(self, cell_id: str) -> Result:
        """The result of a finished cell.

        Raises:
            UserError: The file of the result or of its outcomes is missing or damaged, or is of another cell.
        """
        result = _read_cell_record(self.result_file(cell_id), Result)
        self.outcomes_content(result)
        return result

    def outcomes(self, cell_id: str) -> Outcomes:
        """The outcomes of every image of a finished cell.

        Raises:
            UserError: The file is missing, damaged, or not the one that the result names.
        """
        return self.outcomes_of(_read_cell_record(self.result_file(cell_id), Result))

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
                f"{self._outcomes_file(result)} was stored by another version of advdef ({error}): "
                f"{_repeat_hint(self.result_file(result.cell.id))}"
            ) from None

    def outcomes_content(self, result: Result) -> bytes:
        """The content of the file with the outcomes of a result that was read from this store.

        Raises:
            UserError: The file is missing or damaged.
        """
        file = self._outcomes_file(result)
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

    def merge(self, other: Store, *, damaged: Callable[[UserError], None] = raise_error) -> int:
        """Copies from another store what is missing here: results with their outcomes, failures and requests.

        Args:
            other: It stays as it is.
            damaged: As for :meth:`results`.

        Returns:
            The number of results that were copied.

        Raises:
            UserError: This store cannot be written, or the other folder is no store.
        """
        copied = 0
        for path, _ in other._all_requests(damaged):
            if not (copy := self._requests / path.name).exists():
                write_atomically(copy, read_bytes(path))
        batch: list[tuple[Result, bytes]] = []
        for result, outcomes in other.with_outcomes_content(damaged=damaged):
            if result.cell not in self:
                batch.append((result, outcomes))
                copied += 1
            if len(batch) == _COPIED_AT_ONCE or sum(len(content) for _, content in batch) > _COPIED_BYTES:
                self._publish_all(batch)
                batch.clear()
        self._publish_all(batch)
        # One look at the folder takes less time than one removal per result.
        for failed in self._cells.glob("*.failed.json"):
            if self.result_file(failed.name.partition(".")[0]).exists():
                failed.unlink(missing_ok=True)
        for failure in other.failures(damaged=damaged):
            if failure.cell not in self:
                self.publish_failure(failure)
        return copied

    def leftovers(self, *, older_than: float, holder: Callable[[str], str | None] = lambda _: None) -> list[Path]:
        """Files that no result needs: incomplete files of killed processes, outcomes without a result, old failures.

        Args:
            older_than: Seconds; another process may still be writing younger files.
            holder: Which process holds a cell; the files of a held cell stay, however old they are.

        Raises:
            UserError: The folder is no store.
        """
        names = {path.name for path in self._files("*.json")}
        unneeded = []
        for path in sorted(self._cells.glob("*")):
            cell_id = path.name.removeprefix(".").partition(".")[0]
            # Another process may have renamed or removed the file since the folder was listed.
            with suppress(FileNotFoundError):
                is_old = time.time() - path.stat().st_mtime >= older_than
                if not self._is_needed(path, cell_id, names) and is_old and holder(cell_id) is None:
                    unneeded.append(path)
        partial_results = sorted((self.path / PARTIAL_RESULTS).glob("*/*"))
        unneeded += [path for path in partial_results if f"{path.parent.name}.json" in names]
        for folder in (self._requests, *sorted((self.path / PARTIAL_RESULTS).glob("*"))):
            temporary = stale_temporary_files(folder, older_than=older_than)
            unneeded += [path for path in temporary if path not in unneeded]
        return unneeded + self._contained_requests()

    def _is_needed(self, path: Path, cell_id: str, names: set[str]) -> bool:
        """Whether a file of the cells' folder is a result, its outcomes, or a failure that no result has replaced."""
        is_done = f"{cell_id}.json" in names
        if path.suffix == ".npz" and is_done:
            try:
                result = _read_cell_record(self.result_file(cell_id), Result)
            except UserError:
                # A result that cannot be read does not tell which outcomes are its own.
                return True
            return path == self._outcomes_file(result)
        return path.name.endswith(".json") and not (is_done and path.name.endswith(".failed.json"))

    def _contained_requests(self) -> list[Path]:
        """The requests whose cells are all in another request, as for a part of a suite and the whole suite."""
        requests = {
            path: {requested.cell.id for requested in request.cells}
            for path, request in self._all_requests(lambda _: None)
        }
        contained: list[Path] = []
        for path, cells in sorted(requests.items(), key=lambda item: (len(item[1]), item[0])):
            larger = [other for other in requests if other != path and other not in contained]
            if any(cells <= requests[other] for other in larger):
                contained.append(path)
        return contained

    def _files(self, pattern: str) -> list[Path]:
        self._require_store()
        # Paths take long to compare.
        return sorted(self._cells.glob(pattern), key=str)

    @property
    def exists(self) -> bool:
        """Whether the folder has anything that a store can have."""
        kinds = (_CELLS, _REQUESTS, PARTIAL_RESULTS, SEARCHES, CERTIFICATION, REPROGRAMMING, AUDITS)
        return any((self.path / kind).is_dir() for kind in kinds)

    def _require_store(self) -> None:
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

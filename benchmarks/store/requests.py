"""The requests of a store: which cells commands asked for, so that an interrupted one is known to be incomplete."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from robustbench_cli.benchmarks.store.records import (
    Request,
    RequestedCell,
    RequestedIds,
    encoded,
    read_bytes,
    read_record,
    sha256,
)
from robustbench_cli.core.atomic_write import write_atomically
from robustbench_cli.core.errors import UserError

__all__ = ["Requests"]


@dataclass(frozen=True)
class Requests:
    """A folder with one file for each request, which is named by its hash.

    Attributes:
        folder: The folder; the first request makes it.
    """

    folder: Path

    def add(self, cells: Iterable[RequestedCell]) -> None:
        """Stores which cells are requested.

        Args:
            cells: The cells; nothing is stored where there are none.

        Raises:
            UserError: The folder cannot be written.
        """
        by_id = {requested.cell.id: requested for requested in cells}
        if by_id:
            content = encoded(Request(ids=tuple(by_id), cells=tuple(by_id.values())), without_defaults=True)
            self._write(f"{sha256(content)[:20]}.json", content)

    def stored(
        self, *, damaged: Callable[[UserError], None], ignored: Collection[str] = ()
    ) -> Iterator[tuple[Path, Request]]:
        """The requests with their files.

        Args:
            damaged: Called with the error of each file that is no request or is damaged.
            ignored: Identities of cells. A request for these alone is left out, unless its file is of an earlier version.
        """
        identities = frozenset(ignored)
        for path in sorted(self.folder.glob("*.json")):
            read = partial(read_record, path, name="request", hint=f"remove {path}, and repeat the command")
            try:
                if identities and (ids := read(RequestedIds).ids) and identities.issuperset(ids):
                    continue
                request = read(Request)
            except UserError as error:
                # Another process may just have removed it.
                if path.exists():
                    damaged(error)
            else:
                yield path, request

    def remove(self, cells: Collection[str]) -> None:
        """Removes cells from all requests.

        Args:
            cells: Their identities.

        Raises:
            UserError: The folder cannot be written.
        """
        for path, request in self.stored(damaged=lambda _: None):
            remaining = [requested for requested in request.cells if requested.cell.id not in cells]
            if len(remaining) < len(request.cells):
                self.add(remaining)
                path.unlink(missing_ok=True)

    def take(self, other: Requests, *, damaged: Callable[[UserError], None]) -> None:
        """Copies the requests that another store has and this one lacks.

        Args:
            other: The other store's.
            damaged: As for :meth:`stored`.

        Raises:
            UserError: The folder cannot be written.
        """
        for path, _ in other.stored(damaged=damaged):
            self._write(path.name, read_bytes(path))

    def contained(self) -> list[Path]:
        """The requests whose cells are all in another request, as for a part of a suite and the whole suite."""
        requests = {
            path: {requested.cell.id for requested in request.cells}
            for path, request in self.stored(damaged=lambda _: None)
        }
        contained: list[Path] = []
        for path, cells in sorted(requests.items(), key=lambda item: (len(item[1]), item[0])):
            larger = [other for other in requests if other != path and other not in contained]
            if any(cells <= requests[other] for other in larger):
                contained.append(path)
        return contained

    def _write(self, name: str, content: bytes) -> None:
        path = self.folder / name
        if not path.exists():
            write_atomically(path, content)

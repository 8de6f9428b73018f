"""A folder in a store with one immutable file for each record."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel

from robustbench_cli.benchmarks.store.records import encoded, read_record
from robustbench_cli.core.atomic_write import stale_temporary_files, write_atomically
from robustbench_cli.core.errors import UserError

__all__ = ["RecordFolder"]

Record = TypeVar("Record", bound=BaseModel)


@dataclass(frozen=True, kw_only=True)
class RecordFolder(Generic[Record]):
    """The records of one kind in any store.

    Attributes:
        folder: The name of the folder.
        kind: The class of the records.
        cell_of: The content hash of a record, which names its file.
        noun: How a message calls a record.
        redo: What a user does once a damaged file is removed.
    """

    folder: str
    kind: type[Record]
    cell_of: Callable[[Record], str]
    noun: str
    redo: str

    def file(self, store: Path, cell: str) -> Path:
        """The file of a record.

        Args:
            store: The folder of the store.
            cell: The content hash.
        """
        return store / self.folder / f"{cell}.json"

    def read(self, path: Path) -> Record:
        """Reads a record.

        Raises:
            UserError: The file is missing or damaged, or its name is not its content hash.
        """
        record = read_record(path, self.kind, name=self.noun, hint=f"remove {path} to {self.redo}")
        if self.cell_of(record) != path.stem:
            raise UserError(f"{path} has the cell {self.cell_of(record)}: remove it, or restore its name")
        return record

    def write(self, store: Path, record: Record) -> None:
        """Stores a record.

        Args:
            store: The folder of the store.
            record: The record.

        Raises:
            UserError: The store cannot be written.
        """
        write_atomically(self.file(store, self.cell_of(record)), encoded(record))

    def stored(self, store: Path, *, damaged: Callable[[UserError], None]) -> Iterator[Record]:
        """The records in a store, in the order of their names.

        Args:
            store: The folder of the store.
            damaged: Called with the error of each file that cannot be read; it is skipped.
        """
        for path in sorted((store / self.folder).glob("*.json")):
            try:
                record = self.read(path)
            except UserError as error:
                damaged(error)
            else:
                yield record

    def take(self, store: Path, other: Path, *, damaged: Callable[[UserError], None]) -> int:
        """Copies the records that another store has and this one lacks. Nothing is overwritten.

        Args:
            store: The folder of this store.
            other: The folder of the other store.
            damaged: As for :meth:`stored`.

        Returns:
            The number of records that were copied.

        Raises:
            UserError: This store cannot be written.
        """
        copied = 0
        for record in self.stored(other, damaged=damaged):
            if not self.file(store, self.cell_of(record)).exists():
                self.write(store, record)
                copied += 1
        return copied

    def leftovers(self, store: Path, *, older_than: float) -> list[Path]:
        """Half-written files that a killed process left.

        Args:
            store: The folder of the store.
            older_than: Age in seconds. A younger file may still be in use.
        """
        return stale_temporary_files(store / self.folder, older_than=older_than)

"""The stored files of certifications: a header, and a record for each image that is done."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from robustbench_cli.benchmarks.certification.procedures import ImageRecord, procedure_of
from robustbench_cli.benchmarks.store.cell import content_hash
from robustbench_cli.benchmarks.store.records import encoded, read_record
from robustbench_cli.benchmarks.store.store import CERTIFICATION
from robustbench_cli.core.atomic_write import ensure_writable, stale_temporary_files, write_atomically
from robustbench_cli.core.errors import UserError

__all__ = ["CertificationFiles", "CertificationHeader", "all_files", "counted", "leftovers", "take"]

_RECORDS = ".images.jsonl"
"""The ending of the file with the records of the images."""


class CertificationHeader(BaseModel):
    """What a stored certification is: the model, the data and the procedure.

    Attributes:
        identity: Everything that the records depend on. The cell is its hash.
        described: The columns of the table that describe the model; see :class:`~.certify.CertifiedModel`. They are
            those of the run that began the certification.
        labels: The true classes of all images.
        versions: The versions of the libraries that computed the first record.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    identity: dict[str, Any]
    described: dict[str, Any]
    labels: list[int]
    versions: dict[str, str]

    def is_complete(self, records: dict[int, ImageRecord]) -> bool:
        """Whether there is a record, by index, for every image."""
        return records.keys() >= set(range(len(self.labels)))


class CertificationFiles:
    """The two files of a certification: ``<cell>.json`` with the header and ``<cell>.images.jsonl`` with the records.

    A process adds a line for each image when the image is done. The line begins with the first characters of its
    sha256. A broken line, left by a killed process, counts as missing. A line may occur twice, where two processes
    certified the same image; both are equal.

    Args:
        folder: The folder of the files. It is created when something is stored.
        cell: The hash of the identity.
        record: The type of the records.
    """

    def __init__(self, folder: Path, cell: str, record: type[ImageRecord]) -> None:
        self._path = folder / f"{cell}.json"
        self._records = _records_file(self._path)
        self._record = record

    @property
    def exist(self) -> bool:
        """Whether the header is stored."""
        return self._path.exists()

    def in_store(self, store: Path) -> CertificationFiles:
        """The files of the same certification in another store."""
        return CertificationFiles(store / CERTIFICATION, self._path.stem, self._record)

    def begin(self, header: CertificationHeader) -> None:
        """Stores the header, unless it is there, and prepares the file of records for another line.

        Raises:
            UserError: The folder cannot be written.
        """
        ensure_writable(self._path.parent)
        if not self.exist:
            write_atomically(self._path, encoded(header))
        if self._records.exists() and not self._records.read_bytes().endswith(b"\n"):
            self._append(b"\n")

    def header(self) -> CertificationHeader:
        """Reads the header.

        Raises:
            UserError: The file is missing or damaged.
        """
        return _read_header(self._path)

    def records(self, *, damaged: Callable[[UserError], None] = lambda _: None) -> dict[int, ImageRecord]:
        """Reads the records, by the index of the image.

        Args:
            damaged: Called with an error where records are missing and the file has damaged lines or is empty. Damaged
                lines do no harm once all images have a record: a later process has added the lost ones again.
        """
        try:
            *lines, rest = self._records.read_bytes().split(b"\n")
        except FileNotFoundError:
            return {}
        parsed = [self._parse(line) for line in lines]
        records = {record.index: record for record in [*parsed, self._parse(rest)] if record is not None}
        complete = self.exist and self.header().is_complete(records)
        lost = sum(record is None and line != b"" for line, record in zip(lines, parsed, strict=True))
        if not complete and (lost or not records):
            problem = f"{lost} of its lines are damaged" if lost else "it is empty"
            damaged(UserError(f"{self._records}: {problem}: the same 'advdef certify' computes these images again"))
        return records

    def add(self, record: ImageRecord) -> None:
        """Appends the record of an image."""
        body = record.model_dump_json(by_alias=True).encode()
        self._append(b"%s %s\n" % (_checksum(body), body))

    def _append(self, content: bytes) -> None:
        # The file is opened for each line, so that several processes can append to it.
        with self._records.open("ab") as file:
            file.write(content)

    def _parse(self, line: bytes) -> ImageRecord | None:
        """The record in a line; ``None`` where the line is damaged."""
        checksum, _, body = line.partition(b" ")
        if checksum != _checksum(body):
            return None
        try:
            return self._record.model_validate_json(body)
        except ValidationError:
            return None


def all_files(
    store: Path, damaged: Callable[[UserError], None]
) -> Iterator[tuple[CertificationFiles, CertificationHeader]]:
    """All certifications in a store with their headers, in the order of their cells.

    Args:
        store: The folder of the store.
        damaged: Called with an error for each header that cannot be read; it is skipped.
    """
    for path in sorted((store / CERTIFICATION).glob("*.json")):
        try:
            header = _read_header(path)
            procedure = procedure_of(header.identity)
            _ = header.identity["checkpoint"], header.described["dataset"]
        except UserError as error:
            damaged(error)
        except (KeyError, TypeError, ValueError, AttributeError):
            damaged(UserError(f"{path} was stored by another version of advdef: {_remedy(path)}"))
        else:
            yield CertificationFiles(path.parent, path.stem, procedure.record), header


def counted(store: Path, *, damaged: Callable[[UserError], None]) -> tuple[int, int]:
    """Counts the certifications in a store.

    Args:
        store: The folder of the store.
        damaged: Called with an error for each damaged file. A damaged certification is not counted.

    Returns:
        The numbers of complete and of interrupted certifications.
    """
    complete = interrupted = 0
    for files, header in all_files(store, damaged):
        errors: list[UserError] = []
        records = files.records(damaged=errors.append)
        for error in errors:
            damaged(error)
        if not errors:
            is_complete = header.is_complete(records)
            complete, interrupted = complete + is_complete, interrupted + (not is_complete)
    return complete, interrupted


def take(store: Path, other: Path, *, damaged: Callable[[UserError], None]) -> int:
    """Copies the records that another store has and this one lacks. Nothing is overwritten.

    Args:
        store: The folder of this store.
        other: The folder of the other store.
        damaged: Called with an error for each damaged file of the other store; its intact records are copied.

    Returns:
        The number of certifications that are new or have gained records.

    Raises:
        UserError: This store cannot be written, or its own files of a certification are damaged.
    """
    copied = 0
    for source, header in all_files(other, damaged):
        target = source.in_store(store)
        existing = target.records()
        records = [record for index, record in source.records(damaged=damaged).items() if index not in existing]
        if records or not target.exist:
            target.begin(header)
            for record in records:
                target.add(record)
            copied += 1
    return copied


def leftovers(store: Path, *, older_than: float) -> list[Path]:
    """Files that no certification needs: half-written files, and records without a header.

    Args:
        store: The folder of the store.
        older_than: Age in seconds. A younger file may still be in use.
    """
    folder = store / CERTIFICATION
    headless = [
        path
        for path in sorted(folder.glob(f"*{_RECORDS}"))
        if not path.with_name(f"{path.name.removesuffix(_RECORDS)}.json").exists()
        and time.time() - path.stat().st_mtime >= older_than
    ]
    return stale_temporary_files(folder, older_than=older_than) + headless


def _read_header(path: Path) -> CertificationHeader:
    """Reads a header.

    Raises:
        UserError: The file is missing or damaged.
    """
    header = read_record(path, CertificationHeader, name="certification", hint=_remedy(path))
    cell = content_hash(header.identity)
    if cell != path.stem:
        raise UserError(f"{path} has the cell {cell}: remove it, or restore its name")
    return header


def _remedy(path: Path) -> str:
    return f"remove it and {_records_file(path)} to compute them again"


def _records_file(path: Path) -> Path:
    """The file with the records that belong to a header."""
    return path.with_suffix(_RECORDS)


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest()[:16].encode()

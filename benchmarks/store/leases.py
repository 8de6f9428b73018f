"""Leases: processes and machines that share a folder do not compute the same cell or training at the same time."""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from robustbench_cli.core.errors import UserError

try:
    import fcntl
except ImportError:
    # Windows has no such module. A lease only saves work, so it needs no lock there.
    fcntl = None  # type: ignore[assignment]

__all__ = ["Leases"]

_PART = "@"
"""Stands between the name and the part in the name of a file."""

_observed: dict[Path, tuple[tuple[bytes, int], float]] = {}
"""Leases of other processes: their content and modification time, and when this process saw them first (monotonic)."""


class Leases:
    """Leases of what is computed, a cell, a part of one or a training: one file each in ``DIR/claims``.

    The holder renews the modification time of the file while it lives. Different processes may hold different parts; nobody
    holds the whole while a part is held, or a part while the whole is held.

    A lease only saves work. Two processes can hold the same lease if a file system loses a file; both then compute the same
    result, and the store takes one of them. A lease expires when its process on this machine has ended, or when it was
    not renewed for ``expires_after`` seconds. The second rule compares no clocks of different machines: the waiting process
    measures the time since it saw the last renewal.

    Args:
        store: The folder of the store.
        renewed_every: Seconds between two renewals.
        expires_after: Seconds without a renewal after which a lease expires.
    """

    def __init__(self, store: Path, *, renewed_every: float = 10.0, expires_after: float = 90.0) -> None:
        self._folder = store / "claims"
        self._renewed_every = renewed_every
        self._expires_after = expires_after

    @contextmanager
    def hold(self, name: str, part: str | None = None) -> Iterator[bool]:
        """Takes the lease of what is computed for the body of a ``with``.

        Args:
            name: The cell's id or the training's key.
            part: The part of it; ``None`` for the whole.

        Yields:
            Whether this process has the lease; ``False`` if another living process has it.

        Raises:
            UserError: The store cannot be written.
        """
        path = self._folder / (name if part is None else f"{name}{_PART}{part}")
        content = json.dumps({**_machine(), "process": os.getpid(), "token": secrets.token_hex(8)}).encode()
        if not self._acquire(path, content, name=name):
            yield False
            return
        ended = threading.Event()
        renewal = threading.Thread(target=self._renew, args=(path, ended), daemon=True)
        renewal.start()
        try:
            yield True
        finally:
            ended.set()
            renewal.join()
            self._release(path, content)

    def holder(self, name: str) -> str | None:
        """The process that holds the lease of what is computed or of a part of it, as text; ``None`` where there is none.

        Args:
            name: The cell's id or the training's key.
        """
        for path in (self._folder / name, *self._parts(name)):
            holder = self._holder_of(path)
            if holder is not None:
                return holder
        return None

    def _holder_of(self, path: Path) -> str | None:
        """The process that holds the lease in a file, as text; ``None`` where there is none."""
        content = _read(path)
        if content is None or _process_has_ended(content):
            return None
        # This call does not wait, so it compares times of the file system. A process without write access cannot, and
        # then the lease counts as valid.
        with suppress(OSError):
            if self._age(path) > self._expires_after:
                return None
        try:
            record = json.loads(content)
            return f"process {record['process']} on {record['host']}"
        except (ValueError, KeyError, TypeError):
            return "a process"

    def _parts(self, name: str) -> list[Path]:
        """The files of the leases of parts."""
        if not self._folder.is_dir():
            return []
        return sorted(path for path in self._folder.iterdir() if path.name.startswith(f"{name}{_PART}"))

    def _acquire(self, path: Path, content: bytes, *, name: str) -> bool:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with self._locked():
                whole = self._folder / name
                for rival in (whole, *self._parts(name)) if path == whole else (whole, path):
                    current = _read(rival)
                    if current is not None and not self._has_expired(rival, current):
                        return False
                    rival.unlink(missing_ok=True)
                return _create(path, content)
        except OSError as error:
            raise UserError(
                f"cannot write in {self._folder}: {error.strerror}; name a store that can be written"
            ) from None

    def _release(self, path: Path, content: bytes) -> None:
        with suppress(OSError), self._locked():
            # If this process was suspended for too long, another one may have taken the lease.
            if _read(path) == content:
                path.unlink()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Lets one process at a time look and take, where the system and the file system have locks."""
        with (self._folder / ".lock").open("a") as file:
            if fcntl is not None:
                with suppress(OSError):
                    fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _has_expired(self, path: Path, content: bytes) -> bool:
        if _process_has_ended(content):
            return True
        try:
            state = content, path.stat().st_mtime_ns
        except FileNotFoundError:
            return True
        previous, since = _observed.get(path, (None, 0.0))
        if state != previous:
            _observed[path] = state, time.monotonic()
            return False
        return time.monotonic() - since > self._expires_after

    def _age(self, path: Path) -> float:
        """Seconds since a lease was renewed, by the file system's own clock."""
        probe = self._folder / f".{secrets.token_hex(8)}"
        try:
            probe.touch()
            return probe.stat().st_mtime - path.stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)

    def _renew(self, path: Path, ended: threading.Event) -> None:
        while not ended.wait(self._renewed_every):
            try:
                os.utime(path)
            except OSError:
                # Work without a lease is still right.
                continue


def _create(path: Path, content: bytes) -> bool:
    """Creates the file of a lease; ``False`` if another process was faster."""
    try:
        with path.open("xb") as file:
            file.write(content)
    except FileExistsError:
        return False
    except OSError:
        # A full disk leaves an empty file, which names no process and which everybody would wait for.
        path.unlink(missing_ok=True)
        raise
    return True


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


@cache
def _machine() -> dict[str, str]:
    """The name of this machine, and on Linux its boot and its process namespace: process ids are unique in these."""
    machine = {"host": socket.gethostname()}
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        machine["system"] = f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    return machine


def _process_has_ended(content: bytes) -> bool:
    """Whether the process of a lease ran on this machine and has ended."""
    if os.name == "nt":
        # There, os.kill sends a signal 0 to the process.
        return False
    try:
        record = json.loads(content)
        if any(record[key] != value for key, value in _machine().items()):
            return False
        os.kill(int(record["process"]), 0)
    except (ValueError, KeyError, TypeError):
        return False
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False

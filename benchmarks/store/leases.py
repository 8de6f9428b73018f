"""Who computes what in a store at this moment, so that processes and machines that share it do nothing twice."""

from __future__ import annotations

import fcntl
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

__all__ = ["Leases"]

_watched: dict[Path, tuple[tuple[bytes, int], float]] = {}
"""The claims of others that this process wanted: what was there with which time, and since when by its own clock."""


class Leases:
    """Claims of cells: a file each in ``DIR/claims``, whose time its holder renews for as long as it lives.

    A claim saves work and nothing else: where two hold the same one, on a file system that lost a file, both compute
    the same result and the store keeps one of them. A claim is lost whose process on this machine is gone, or that was
    not renewed while somebody who wanted it looked on for long enough: that takes no clock that machines would have to
    share, nor one that nobody sets.

    Args:
        store: The folder of the store.
        renewed_every: Seconds between two renewals.
        lost_after: Seconds without a renewal after which a claim counts as lost.
    """

    def __init__(self, store: Path, *, renewed_every: float = 10.0, lost_after: float = 90.0) -> None:
        self._folder = store / "claims"
        self._renewed_every = renewed_every
        self._lost_after = lost_after

    @contextmanager
    def hold(self, cell_id: str) -> Iterator[bool]:
        """Claims a cell for the body of a ``with``, and says whether it is ours: if not, a living process has it.

        Raises:
            UserError: The store cannot be written.
        """
        path = self._folder / cell_id
        own = json.dumps({**_here(), "process": os.getpid(), "token": secrets.token_hex(8)}).encode()
        if not self._take(path, own):
            yield False
            return
        ended = threading.Event()
        renewing = threading.Thread(target=self._renew, args=(path, ended), daemon=True)
        renewing.start()
        try:
            yield True
        finally:
            ended.set()
            renewing.join()
            self._give_back(path, own)

    def holder(self, cell_id: str) -> str | None:
        """Which process has a cell at this moment, in words; ``None`` where none has.

        Nobody looks on for long here, so it is told by the file system's clock whether a claim has been renewed of
        late.
        """
        path = self._folder / cell_id
        claim = _read(path)
        if claim is None or _process_is_gone(claim):
            return None
        # Who may not write here cannot ask the file system for its time; the claim is there.
        with suppress(OSError):
            if self._age(path) > self._lost_after:
                return None
        try:
            who = json.loads(claim)
            return f"process {who['process']} on {who['host']}"
        except (ValueError, KeyError, TypeError):
            return "a process"

    def _take(self, path: Path, own: bytes) -> bool:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with self._alone():
                claim = _read(path)
                if claim is not None and not self._is_lost(path, claim):
                    return False
                try:
                    path.write_bytes(own)
                except OSError:
                    # A full disk leaves a file without a word of whose it is, which everybody would wait for.
                    path.unlink(missing_ok=True)
                    raise
                return True
        except OSError as error:
            raise UserError(
                f"cannot write in {self._folder}: {error.strerror}; name a store that can be written"
            ) from None

    def _give_back(self, path: Path, own: bytes) -> None:
        with suppress(OSError), self._alone():
            # One that was taken over, because this process stood still for too long, is another's now.
            if _read(path) == own:
                path.unlink()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keeps others from looking and taking at the same time, on file systems that know locks."""
        with (self._folder / ".lock").open("a") as file:
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _is_lost(self, path: Path, claim: bytes) -> bool:
        if _process_is_gone(claim):
            return True
        try:
            seen = claim, path.stat().st_mtime_ns
        except FileNotFoundError:
            return True
        before, since = _watched.get(path, (None, 0.0))
        if seen != before:
            _watched[path] = seen, time.monotonic()
            return False
        return time.monotonic() - since > self._lost_after

    def _age(self, path: Path) -> float:
        """Seconds since a claim was renewed, by the file system's own clock."""
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
                # Without its claim the work is done all the same.
                continue


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


@cache
def _here() -> dict[str, str]:
    """Which machine this is; of one that names its boot and its containers, nothing from before or outside them."""
    here = {"host": socket.gethostname()}
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        here["system"] = f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    return here


def _process_is_gone(claim: bytes) -> bool:
    """Whether a claim's process was one of this machine and has ended."""
    try:
        who = json.loads(claim)
        if any(who[key] != value for key, value in _here().items()):
            return False
        os.kill(int(who["process"]), 0)
    except (ValueError, KeyError, TypeError):
        return False
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False

"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import secrets
import tempfile
from pathlib import Path

from robustbench_cli.attacks.base.errors import UserError

__all__ = ["ensure_writable", "write_whole"]


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file so that a reader sees the old one, or none, or the whole new one; also after a crash.

    The content goes to a temporary file in the same folder, is flushed to the disk, and takes the name in one step.

    Raises:
        UserError: The place cannot be written.
    """
    temporary = path.parent / f".{path.name}.{secrets.token_hex(8)}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; name a place that can be written") from None


def ensure_writable(folder: Path) -> None:
    """Makes a folder and tries whether it can be written, to fail now rather than after hours of computation.

    Raises:
        UserError: It cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"cannot write in {folder}: {error.strerror}; name a place that can be written") from None

"""The names of files of weights, known without torch."""

from __future__ import annotations

from pathlib import Path

from robustbench_cli.core.errors import UserError, did_you_mean

__all__ = ["SUFFIXES", "require_existing"]

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".skops")
"""The endings of files of weights."""


def require_existing(path: Path) -> None:
    """Refuses the path of a file of weights that does not exist.

    Args:
        path: The path of a file or of a folder.

    Raises:
        UserError: Nothing is there; the message names a file that was probably meant.
    """
    if not path.exists():
        near = [file.name for file in path.parent.glob("*") if file.suffix in SUFFIXES]
        hint = did_you_mean(path.name, near) if near else "its folder has no file of weights"
        raise UserError(f"no checkpoint {path}: {hint}")

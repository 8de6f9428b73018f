"""The names of the built-in suites, known without torch."""

from __future__ import annotations

from pathlib import Path

from robustbench_cli.core.errors import UserError, did_you_mean

__all__ = ["BUILTIN", "is_file_name", "require_known", "suite_names"]

BUILTIN = Path(__file__).parent / "builtin"
"""The folder of the built-in suites."""


def suite_names() -> list[str]:
    """The names of the built-in suites, sorted."""
    return sorted(path.stem for path in BUILTIN.glob("*.yaml"))


def is_file_name(name: str) -> bool:
    """Whether a name is that of a file, and not of a built-in suite.

    Args:
        name: As the user wrote it.

    >>> is_file_name("standard"), is_file_name("mine.yaml")
    (False, True)
    """
    return name.endswith((".yaml", ".yml"))


def require_known(name: str) -> None:
    """Refuses a name that is neither that of a file nor of a built-in suite.

    Args:
        name: As the user wrote it.

    Raises:
        UserError: There is no such suite.
    """
    if not is_file_name(name) and name not in suite_names():
        known = did_you_mean(name, suite_names(), kind="suite")
        raise UserError(f"unknown suite '{name}': {known} (or give the path of a .yaml file)")

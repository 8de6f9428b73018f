"""The checks, one file each; a file named ``zero_gradient.py`` is the flag ``zero-gradient`` of a row.

A new check is one file: a class that derives from :class:`~.base.check.Check`, named in the file's ``__all__``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from robustbench_cli.core.registry import Registry

if TYPE_CHECKING:
    from robustbench_cli.benchmarks.evaluation.checks.base.check import Check, FinishedEvaluation

__all__ = ["load_checks", "raised_flags", "registry", "row_flags"]

_logger = logging.getLogger(__name__)

registry = Registry(kind="check", package=__name__, base=f"{__name__}.base.check:Check")

_FAILED = "check-failed"


def load_checks() -> list[Check]:
    """All checks, in the order of their flags in a row."""
    checks: list[Check] = [registry.load(name)(name) for name in registry.names()]
    return sorted(checks, key=lambda check: (check.position, check.name))


def raised_flags(moment: Callable[[Check], bool]) -> set[str]:
    """The names of the checks that raise their flag at one moment.

    No check may lose a result: an error of a check becomes the flag ``check-failed``.

    Args:
        moment: Runs one method of a check.
    """
    flags = set()
    for check in load_checks():
        try:
            if moment(check):
                flags.add(check.name)
        except Exception:
            _logger.warning("the check %s failed", check.name, exc_info=True)
            flags.add(_FAILED)
    return flags


def row_flags(evaluation: FinishedEvaluation) -> tuple[str, ...]:
    """The flags of a row, in their order.

    Args:
        evaluation: The evaluation after all of its batches.
    """
    flags = raised_flags(lambda check: check.applies(evaluation))
    return tuple(check.name for check in load_checks() if check.name in flags)

"""The checks, one file each; a file named ``zero_gradient.py`` is the flag ``zero-gradient`` of a row.

A new check is one file: a class that derives from :class:`~.base.check.Check`, named in the file's ``__all__``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from robustbench_cli.core.class_source import source_of
from robustbench_cli.core.errors import one_line
from robustbench_cli.core.registry import Registry

if TYPE_CHECKING:
    from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
    from robustbench_cli.benchmarks.evaluation.checks.base.finding import Finding
    from robustbench_cli.benchmarks.evaluation.checks.base.moments import FinishedEvaluation

__all__ = [
    "FAILED",
    "IN_EVALUATION",
    "finding_or_failure",
    "load_checks",
    "load_checks_at",
    "raised_flags",
    "registry",
    "row_flags",
]

_logger = logging.getLogger(__name__)

registry = Registry(kind="check", package=__name__, base=f"{__name__}.base.check:Check")

IN_EVALUATION = ("raised_by_batch", "raised_by_models", "applies")
"""The methods of a check that run in every evaluation."""

FAILED = "check-failed"
"""The check whose finding is that another check ended with an error."""


def load_checks() -> list[Check]:
    """All checks, in the order of their flags in a row."""
    return _loaded(registry.names())


def load_checks_at(*moments: str) -> list[Check]:
    """The checks that look at one of some moments, in the order of their flags in a row.

    A file of the project that does not contain the name of such a method is not imported, so that the checks of stored
    rows load without torch.

    Args:
        *moments: Names of methods of :class:`~.base.check.Check`.
    """
    from robustbench_cli.benchmarks.evaluation.checks.base.check import Check

    checks = _loaded([name for name in registry.names() if _may_look(name, moments)])
    return [
        check
        for check in checks
        if any(getattr(type(check), moment) is not getattr(Check, moment) for moment in moments)
    ]


def _loaded(names: list[str]) -> list[Check]:
    checks: list[Check] = [registry.load(name)(name) for name in names]
    return sorted(checks, key=lambda check: (check.position, check.name))


def _may_look(name: str, moments: tuple[str, ...]) -> bool:
    """Whether the source of a check names one of some methods, or is not at hand."""
    module = registry.module_of(name)
    source = None if module is None else source_of(module)
    return source is None or any(moment.encode() in source for moment in moments)


def finding_or_failure(check: Check, look: Callable[[], Finding | None]) -> Finding | None:
    """What a check finds. No check may lose an audit: its error becomes a finding of ``check-failed``.

    Args:
        check: The check.
        look: Calls the method of the check.

    Raises:
        UndecidedError: The check cannot decide.
    """
    # Every command imports this module, for the names of checks, and most start without pydantic.
    from robustbench_cli.benchmarks.evaluation.checks.base.finding import UndecidedError

    try:
        return look()
    except UndecidedError:
        raise
    except Exception as error:
        _logger.warning("the check %s failed", check.name, exc_info=True)
        return registry.load(FAILED)(FAILED).finding(f"{check.name} failed: {one_line(error)}")  # type: ignore[no-any-return]


def raised_flags(moment: Callable[[Check], bool]) -> set[str]:
    """The names of the checks that raise their flag at one moment.

    No check may lose a result: an error of a check becomes the flag ``check-failed``. A check that needs a gradient raises
    nothing where there is none: that is the flag ``no-gradients``.

    Args:
        moment: Runs one method of a check.
    """
    # Every command imports this module, and most start without torch.
    from robustbench_cli.attacks.base.models.passes import NoGradientError

    flags = set()
    for check in load_checks():
        try:
            if moment(check):
                flags.add(check.name)
        except NoGradientError:
            continue
        except Exception:
            _logger.warning("the check %s failed", check.name, exc_info=True)
            flags.add(FAILED)
    return flags


def row_flags(evaluation: FinishedEvaluation) -> tuple[str, ...]:
    """The flags of a row, in their order.

    Args:
        evaluation: The evaluation after all of its batches.
    """
    flags = raised_flags(lambda check: check.applies(evaluation))
    return tuple(check.name for check in load_checks() if check.name in flags)

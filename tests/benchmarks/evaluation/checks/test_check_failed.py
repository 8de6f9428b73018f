from __future__ import annotations

from robustbench_cli.attacks.base.models.passes import NoGradientError
from robustbench_cli.benchmarks.evaluation.checks import load_checks, raised_flags
from robustbench_cli.benchmarks.evaluation.checks.base.check import Check


def test_an_error_of_any_check_raises_this_flag() -> None:
    """The others keep theirs."""

    def moment(check: Check) -> bool:
        if check.name == "unstable":
            raise ZeroDivisionError
        return check.name == "unchanged"

    assert raised_flags(moment) == {"check-failed", "unchanged"}


def test_a_check_without_its_gradient_has_not_failed() -> None:
    """The flag ``no-gradients`` says why it finds nothing."""

    def moment(check: Check) -> bool:
        if check.name == "wrong-gradient":
            raise NoGradientError
        return check.name == "no-gradients"

    assert raised_flags(moment) == {"no-gradients"}


def test_it_is_the_last_flag_of_a_row() -> None:
    """Checks of other packages come before it."""
    assert load_checks()[-1].name == "check-failed"

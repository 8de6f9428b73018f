from __future__ import annotations

from pathlib import Path

import pytest

from robustbench_cli.core.own_code import failure_in_own_code
from robustbench_cli.core.registry import Registry

CODE = """\
def Mine(value):
    return helper(value)

def helper(value):
    return 1 / value

class Other:
    def call(self):
        raise KeyError('a')
"""


def caught(call: object, *arguments: object) -> BaseException:
    with pytest.raises(ArithmeticError if arguments else LookupError) as error:
        call(*arguments)  # type: ignore[operator]
    return error.value


def test_an_error_in_own_code_names_its_line(tmp_path: Path) -> None:
    """The innermost line of the file counts; of several objects in it, the one whose method fails is named, else the file."""
    (tmp_path / "own.py").write_text(CODE)
    registry = Registry("toy", "robustbench_cli.attacks")
    mine = registry.load(f"{tmp_path}/own.py:Mine")
    expected = " fails in helper (own.py, line 5): ZeroDivisionError: division by zero"
    assert failure_in_own_code(caught(mine, 0)) == f"toy {tmp_path}/own.py:Mine{expected}"
    other = registry.load(f"{tmp_path}/own.py:Other")
    assert failure_in_own_code(caught(mine, 0)) == f"own.py{expected}"
    assert failure_in_own_code(caught(other().call)) == (
        f"toy {tmp_path}/own.py:Other fails in call (own.py, line 9): KeyError: 'a'"
    )


def test_the_caller_is_named_before_the_model_that_it_calls(tmp_path: Path) -> None:
    """A defense that gives the model a wrong input fails in the model's file."""
    (tmp_path / "model.py").write_text("def Net(value):\n    return 1 / value\n")
    (tmp_path / "wrap.py").write_text("def Wrap(model):\n    return model(0)\n")
    registry = Registry("toy", "robustbench_cli.attacks")
    net, wrap = (registry.load(f"{tmp_path}/{name}") for name in ("model.py:Net", "wrap.py:Wrap"))
    assert failure_in_own_code(caught(wrap, net)) == (
        f"toy {tmp_path}/wrap.py:Wrap fails in Wrap (wrap.py, line 2): ZeroDivisionError: division by zero"
    )


def test_an_error_elsewhere_is_not_the_users(tmp_path: Path) -> None:
    """It has no frame in a file that the user named; an error that was never raised has no frame at all."""
    (tmp_path / "own.py").write_text(CODE)
    Registry("toy", "robustbench_cli.attacks").load(f"{tmp_path}/own.py:Mine")
    with pytest.raises(ZeroDivisionError) as error:
        _ = 1 / 0
    assert failure_in_own_code(error.value) is None
    assert failure_in_own_code(ValueError("a")) is None

"""advdef: measures how much robustness a defense against adversarial examples really provides.

This module has the names of :mod:`robustbench_cli`. A name is imported when it is first used.

>>> import advdef
>>> advdef.load_dataset("digits").shape
(1, 8, 8)
>>> advdef.PGD(steps=20).steps
20
"""

import sys
from typing import TYPE_CHECKING, Any

import robustbench_cli

if TYPE_CHECKING:
    from robustbench_cli import *  # noqa: F403

__version__ = robustbench_cli.__version__


def __getattr__(name: str) -> Any:
    return getattr(robustbench_cli, name)


def __dir__() -> list[str]:
    return dir(robustbench_cli)


if __name__ == "__main__":
    from robustbench_cli.cli.main import main

    sys.exit(main())

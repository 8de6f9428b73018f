"""The examples in the docstrings of the public functions work as shown."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

from .test_size import sources

ROOT = Path(__file__).parents[1]


def modules() -> list[str]:
    """All modules with examples."""
    paths = [Path("advdef.py"), *(path.relative_to(ROOT) for path in sources())]
    names = [".".join(path.with_suffix("").parts) for path in paths if ">>> " in (ROOT / path).read_text()]
    return [name if name.startswith(("robustbench_cli", "advdef")) else f"robustbench_cli.{name}" for name in names]


@pytest.mark.parametrize("name", modules())
def test_the_examples_of_a_module_work(name: str) -> None:
    """There are examples, and each gives what it shows."""
    results = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert results.attempted > 0
    assert results.failed == 0

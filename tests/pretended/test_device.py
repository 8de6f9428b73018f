"""The pretended device keeps the rules of a real one."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SCENARIOS = [
    node.name
    for node in ast.parse(Path(__file__).with_name("scenarios.py").read_text(encoding="utf-8")).body
    if isinstance(node, ast.FunctionDef)
]


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario(name: str, passed: Callable[[str, str], dict[str, Any]]) -> None:
    """See the function in scenarios.py."""
    passed("scenarios", name)

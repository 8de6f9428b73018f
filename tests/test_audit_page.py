"""The page of audits names checks that exist."""

from __future__ import annotations

import re
from pathlib import Path

from robustbench_cli.benchmarks.evaluation import checks

PAGE = Path(__file__).parents[1] / "docs/audit.md"


def test_the_checks_of_the_page_exist() -> None:
    """In the table of the moments at which checks look."""
    table = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    named = {name for line in table for name in re.findall(r"`([a-z]+(?:-[a-z]+)+)`", line)}
    assert len(named) > 10
    assert named <= {*checks.registry.names()}

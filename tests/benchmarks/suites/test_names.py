from __future__ import annotations

import pytest

from robustbench_cli.benchmarks.suites.names import require_known, suite_names
from robustbench_cli.core.errors import UserError


def test_a_name_is_that_of_a_suite_or_of_a_file() -> None:
    """Whether the file exists shows when it is read."""
    for name in (*suite_names(), "mine.yaml", "folder/mine.yml"):
        require_known(name)
    with pytest.raises(UserError, match=r"^unknown suite 'standrd': did you mean 'standard'\? \(or give the path"):
        require_known("standrd")

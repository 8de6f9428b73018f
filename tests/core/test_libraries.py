from __future__ import annotations

import pytest

from robustbench_cli.core.errors import UserError
from robustbench_cli.core.libraries import require_library


def test_a_missing_library_has_a_line_with_its_extra() -> None:
    """A library that is installed is imported."""
    assert require_library("json", extra="x", needed_by="y").loads("1") == 1
    with pytest.raises(UserError, match=r"zoo:net needs no_such_library: install it with pip install 'advdef\[zoo\]'"):
        require_library("no_such_library", extra="zoo", needed_by="zoo:net")

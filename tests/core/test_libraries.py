from __future__ import annotations

import sys
from pathlib import Path

import pytest

from robustbench_cli.core.errors import UserError
from robustbench_cli.core.libraries import require_library


def test_a_missing_library_has_a_line_with_its_extra() -> None:
    """A library that is installed is imported."""
    assert require_library("json", extra="x", needed_by="y").loads("1") == 1
    with pytest.raises(UserError, match=r"zoo:net needs no_such_library: install it with pip install 'advdef\[zoo\]'"):
        require_library("no_such_library", extra="zoo", needed_by="zoo:net")
    with pytest.raises(UserError, match=r"zoo:net needs no_such_library: install it with make zoo$"):
        require_library("no_such_library.part", install="make zoo", needed_by="zoo:net")


def test_a_library_that_cannot_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line says what is missing: a library that it needs."""
    (tmp_path / "half_installed.py").write_text("import no_such_requirement")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match=r"net needs half_installed, which cannot be imported: .*no_such_requirement"):
        require_library("half_installed", extra="zoo", needed_by="net")


def test_a_library_of_before_setuptools_81(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RobustBench is one; the line has the command."""
    (tmp_path / "older_library.py").write_text("import pkg_resources")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "pkg_resources", None)
    with pytest.raises(UserError, match=r"pkg_resources.*: install it with pip install 'setuptools<81'$"):
        require_library("older_library", extra="zoo", needed_by="net")

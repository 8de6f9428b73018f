from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

import pytest

from robustbench_cli import __version__


def is_installed(distribution: str) -> bool:
    """Whether a module of a distribution can be imported."""
    return distribution in {name for names in packages_distributions().values() for name in names}


def test_a_bug_report_has_what_it_needs(advdef: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions, devices, folders and the settings of the environment are in both formats."""
    monkeypatch.setenv("ADVDEF_DEVICE", "cpu")
    ended = advdef("env", "--format", "json")
    assert (ended.code, ended.err) == (0, "")
    told = json.loads(ended.out)
    assert told["advdef"] == __version__ == version("advdef")
    assert told["python"] == platform.python_version()
    assert told["libraries"]["torch"] == version("torch")
    assert "not installed" not in told["libraries"].values()
    assert told["optional libraries"]["timm"] == version("timm")
    absent = {name for name, found in told["optional libraries"].items() if found == "not installed"}
    assert absent == {name for name in told["optional libraries"] if not is_installed(name)}
    assert told["devices"][0] == "cpu"
    assert told["cache folder"] == str(Path(os.environ["XDG_CACHE_HOME"]) / "advdef")
    assert told["environment"]["ADVDEF_DEVICE"] == "cpu"
    page = dict(line.split(maxsplit=1) for line in advdef("env").out.splitlines())
    assert page["torch"] == version("torch")
    assert page["ADVDEF_DEVICE"] == "cpu"

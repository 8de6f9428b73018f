from __future__ import annotations

import pytest

from robustbench_cli.benchmarks.suites.config import SuiteConfig
from robustbench_cli.cli import console
from robustbench_cli.cli.notices import warn_of_small_datasets


def test_a_small_data_set_gives_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line for each data set that has fewer images than the user wants."""
    warnings: list[str] = []
    monkeypatch.setattr(console, "warn", warnings.append)
    config = SuiteConfig.from_options(n=(600, 700))
    warn_of_small_datasets(config, {"digits": 500, "mnist": 700})
    assert warnings == ["--n 700: digits has 500 test images, and all of them are used"]
    warn_of_small_datasets(SuiteConfig.from_options(), {"digits": 500})
    assert len(warnings) == 1

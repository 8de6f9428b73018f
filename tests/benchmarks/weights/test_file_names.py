from __future__ import annotations

from pathlib import Path

import pytest

from robustbench_cli.benchmarks.weights.file_names import require_existing
from robustbench_cli.core.errors import UserError


def test_a_path_that_leads_nowhere_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    """Only files of weights are suggested; a folder may hold weights."""
    (tmp_path / "trades.safetensors").touch()
    (tmp_path / "trade.csv").touch()
    require_existing(tmp_path)
    require_existing(tmp_path / "trades.safetensors")
    with pytest.raises(UserError, match=r"no checkpoint .*/trade\.safetensors: did you mean 'trades\.safetensors'\?$"):
        require_existing(tmp_path / "trade.safetensors")

from __future__ import annotations

import subprocess
import sys
from typing import get_args

from PIL import Image

from robustbench_cli.benchmarks.datasets.base.choices import Interpolation


def test_the_filters_are_pillows() -> None:
    """By their names there."""
    assert {name.upper() for name in get_args(Interpolation)} <= set(Image.Resampling.__members__)


def test_the_command_line_has_them_without_numpy() -> None:
    """``--help`` answers at once."""
    code = "import sys, robustbench_cli.cli.model_args; sys.exit('numpy' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

from __future__ import annotations

import os
import subprocess

from robustbench_cli.core.cores import usable_cores


def test_the_cores_are_those_of_nproc() -> None:
    """Coreutils counts the same cores for a child of this process, unless a variable of OpenMP limits it."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OMP_")}
    counted = subprocess.run(["nproc"], capture_output=True, check=True, text=True, env=environment).stdout
    assert usable_cores() == int(counted)

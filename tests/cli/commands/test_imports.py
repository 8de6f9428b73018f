from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.parametrize(
    ("command", "heavy"),
    [
        (("attack", "--checkpoint", "model.safetensors", "--n", "20", "--attack", "fgsm"), {"torch", "pandas"}),
        (("report",), {"pandas"}),
        (("report", "--format", "csv"), {"pandas"}),
        (("store", "verify"), set()),
        (("audit",), set()),
        (("list", "attacks"), set()),
        (("show", "attack", "pgd"), {"torch"}),
    ],
)
def test_a_command_on_stored_results_imports_little(
    advdef: Callable[..., Any], here: Path, checkpoint: Path, command: tuple[str, ...], heavy: set[str]
) -> None:
    """Of the libraries that take long to import, only those that the command needs."""
    assert advdef("attack", "--checkpoint", checkpoint.name, "--n", "20", "--attack", "fgsm", "-q").code == 0
    program = (
        "import sys; from robustbench_cli.cli.main import main; assert main(sys.argv[1:]) == 0; "
        "known = {'torch', 'torchvision', 'scipy', 'sklearn', 'pandas', 'PIL', 'ray'}; "
        "print(*sorted(known & {*sys.modules}), file=sys.stderr)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, *command], cwd=here, capture_output=True, text=True, check=True
    )
    assert {*ended.stderr.splitlines()[-1].split()} == heavy

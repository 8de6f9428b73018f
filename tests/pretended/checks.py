"""Runs the checks of a module on pretended devices in a process of its own: ``python -m`` this module, with the other's name."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path

__all__ = ["failures_of", "names_of"]

ROOT = Path(__file__).parents[2]


def names_of(module: Mapping[str, object]) -> list[str]:
    """The names of a module's checks: functions of a function that returns the number of launches so far."""
    return [name for name in module if name.startswith("check_")]


def failures_of(file: str) -> dict[str, str | None]:
    """The traceback of each check of a module's file that failed, and ``None`` for the others."""
    module = ".".join(Path(file).relative_to(ROOT).with_suffix("").parts)
    command = [sys.executable, "-m", "tests.pretended.checks", module]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert run.returncode == 0, run.stderr
    failures: dict[str, str | None] = json.loads(run.stdout.splitlines()[-1])
    return failures


def main(name: str) -> None:
    """Runs the checks of a module, each on a device of its own, and prints their failures."""
    from tests.pretended.device import pretended

    module = importlib.import_module(name)
    failures: dict[str, str | None] = {}
    for check in names_of(vars(module)):
        try:
            with pretended(ROOT) as cuda:
                getattr(module, check)(lambda cuda=cuda: sum(cuda.launches.values()))
            failures[check] = None
        except Exception:  # noqa: BLE001 - pytest reports it
            failures[check] = traceback.format_exc()
    print(json.dumps(failures))


if __name__ == "__main__":
    main(sys.argv[1])

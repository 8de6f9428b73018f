"""Prints the way of a command from the shell to PGD's loop: the functions on the stack, and all that were entered before.

Run ``python docs/trace.py`` in a checkout; it needs nothing but the embedded data. It trains a model for one epoch in an empty
cache, then runs the same command again with the trained model and an empty store, and traces that run: what counts is the way
of a command that has everything it needs. Other arguments of ``advdef`` may follow the script's name. The command is the
``main`` of the first module of ``MODULES`` that exists, so that older checkouts can be traced too; ``ADVDEF_TRACE_MODULE``
names another.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

COMMAND = ("attack", "--defense", "hrs", "--attack", "pgd", "--epochs", "1")
MODULES = ("robustbench_cli.cli.main", "robustbench_cli.main")
LOOP = ("attacks/pgd.py", "PGD.run")
FOLDERS = ("attacks", "benchmarks", "defenses", "robustbench_cli")


@dataclass
class Trace:
    """The way to PGD's loop.

    Attributes:
        stack: ``file:function`` of the project's frames when the loop is first entered, outermost first.
        functions: ``file:function`` of all that were entered before, in order.
    """

    stack: list[str] = field(default_factory=list)
    functions: dict[str, None] = field(default_factory=dict)

    @property
    def files(self) -> set[str]:
        """The files of these functions."""
        return {name.partition(":")[0] for name in self.functions}


def trace(run: Callable[[], object], root: Path) -> Trace:
    """Runs a command and records the project's functions that are entered until PGD's loop is.

    Args:
        run: Runs the command.
        root: The folder of the checkout.

    Raises:
        RuntimeError: PGD's loop was never entered.
    """
    result = Trace()
    names: dict[CodeType, str | None] = {}

    def name_of(code: CodeType) -> str | None:
        """Names a function of the project, and nothing else: no module's body, class body or comprehension."""
        if code not in names:
            path = Path(code.co_filename)
            path = path.resolve() if path.is_absolute() else path
            inside = path.is_relative_to(root) and path.relative_to(root).parts[0] in FOLDERS
            is_function = bool(code.co_flags & 0x2) and not code.co_name.startswith("<")
            names[code] = f"{path.relative_to(root).as_posix()}:{code.co_qualname}" if inside and is_function else None
        return names[code]

    def profile(frame: FrameType, event: str, _: Any) -> None:
        if event != "call" or result.stack or (name := name_of(frame.f_code)) is None:
            return
        if name == ":".join(LOOP):
            below: FrameType | None = frame
            while below is not None:
                if (entered := name_of(below.f_code)) is not None:
                    result.stack.insert(0, entered)
                below = below.f_back
        else:
            result.functions.setdefault(name)

    sys.setprofile(profile)
    try:
        run()
    finally:
        sys.setprofile(None)
    if not result.stack:
        raise RuntimeError(f"{':'.join(LOOP)} was never entered")
    return result


def trace_command(*arguments: str) -> Trace:
    """Traces ``advdef`` with these arguments, after a run that trains what it needs.

    Args:
        arguments: Those of the command line; ``COMMAND`` where there are none.

    Raises:
        RuntimeError: The command failed, or never entered PGD's loop.
    """
    arguments = arguments or COMMAND
    import robustbench_cli

    root = Path(robustbench_cli.__file__).resolve().parents[1]
    # By files: an installed version may offer modules that this checkout lacks.
    exists = (name for name in MODULES if (root / name.replace(".", "/")).with_suffix(".py").is_file())
    entry = importlib.import_module(os.environ.get("ADVDEF_TRACE_MODULE") or next(exists))

    def run(store: str) -> None:
        errors = io.StringIO()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
            code = entry.main([*arguments, "--n", "20", "--store", store])
        if code:
            raise RuntimeError(f"advdef {' '.join(arguments)} ended with {code}: {errors.getvalue()}")

    before = os.environ.get("XDG_CACHE_HOME")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
        try:
            run(f"{folder}/first")
            return trace(lambda: run(f"{folder}/second"), root)
        finally:
            if before is None:
                del os.environ["XDG_CACHE_HOME"]
            else:
                os.environ["XDG_CACHE_HOME"] = before


def main() -> None:
    """Prints the stack at the loop and how many functions and files were entered before it."""
    result = trace_command(*sys.argv[1:])
    lines = [f"{depth:3}  {name}" for depth, name in enumerate(result.stack, start=1)]
    lines.append(f"{len(result.stack) - 1} frames before the loop")
    lines.append(f"{len(result.functions)} functions in {len(result.files)} files entered before it")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

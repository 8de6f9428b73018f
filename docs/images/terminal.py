"""Draws terminal.svg: the table of `advdef demo`, in the colors of a terminal.

Run ``python docs/images/terminal.py``: it runs the demo, about a minute. With the name of a file it draws what this file holds,
the demo's output with its color codes.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

COMMAND = ("demo",)
WIDTH = 132


def main() -> None:
    """Writes terminal.svg beside this file."""
    output = Path(sys.argv[1]).read_text(encoding="utf-8") if len(sys.argv) > 1 else run_demo()
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text.assemble(("$ advdef demo\n", "bold")))
    console.print(Text.from_ansi(output.rstrip()))
    svg = console.export_svg(title="advdef demo", unique_id="advdef")
    # What rich pads lines with adds nothing to the picture.
    lines = [line.rstrip() for line in svg.splitlines()]
    Path(__file__).with_suffix(".svg").write_text("\n".join(lines) + "\n", encoding="utf-8")


def run_demo() -> str:
    """What `advdef demo` prints on a terminal of ``WIDTH`` columns."""
    environment = os.environ | {"FORCE_COLOR": "1", "COLUMNS": str(WIDTH), "TERM": "xterm-256color"}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "advdef", *COMMAND, "--store", folder]
        done = subprocess.run(  # noqa: S603 - our own command
            command, env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
    return done.stdout


if __name__ == "__main__":
    main()

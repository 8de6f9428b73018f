"""The table of launches and synchronizations: read by tests, and rewritten by ``python -m tests.pretended.launches``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml

__all__ = ["KINDS", "TABLE", "excess", "read_table"]

TABLE = Path(__file__).with_suffix(".yaml")

KINDS = ("launches", "kernels", "synchronizations")
"""What a row holds: launches by the host, where a CUDA graph is one; kernels, those in graphs included; waits of the host."""

PARTS = {"steps": "a step of an attack", "forward": "a forward pass of a defended model"}

Table = dict[str, dict[str, dict[str, float]]]

_HEADER = """\
# The most launches and kernels, and synchronizations, that a step of an attack and a forward pass of a defended model may make
# on a GPU, as the pretended device counts them. `python -m tests.pretended.launches` puts in today's numbers; it refuses to
# raise one unless --raise says so.
"""


def read_table() -> Table:
    """The table by part of measure.py, case and kind."""
    table: Table = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    return table


def excess(figures: dict[str, Any], limits: dict[str, float]) -> list[str]:
    """What is above its limit, with the lines of code to look at.

    Args:
        figures: Of one case, from measure.py.
        limits: Its row of the table.
    """
    lines = [
        f"{kind}: {figures[kind]:g}, above the {limits[kind]:g} of launches.yaml"
        for kind in KINDS
        if figures[kind] > limits[kind]
    ]
    if lines:
        lines += [f"{count:8.2f} launches at {line}" for count, line in figures["most"]]
        lines += [f"{count:8.2f} synchronizations at {line}" for count, line in figures["waits"]]
    return lines


def main() -> int:
    """Measures all, and writes the table unless a number is higher than before."""
    from tests.pretended.measure import measure

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--raise", dest="may_raise", action="store_true", help="write numbers higher than before too")
    may_raise = parser.parse_args().may_raise
    before: Table = read_table() if TABLE.exists() else {}
    table: Table = {}
    higher = 0
    for part, rows in measure(PARTS).items():
        for name, figures in rows.items():
            if "error" in figures:
                print(f"{name} failed:\n{figures['error']}")
                return 1
            row = {kind: figures[kind] for kind in KINDS}
            old = before.get(part, {}).get(name, row)
            if row != old:
                print(
                    f"{name}: "
                    + ", ".join(f"{kind} {old[kind]:g} -> {row[kind]:g}" for kind in KINDS if row[kind] != old[kind])
                )
            higher += any(row[kind] > old[kind] for kind in KINDS)
            table.setdefault(part, {})[name] = row
    if higher and not may_raise:
        print(f"{higher} rows are higher than before: nothing is written; give --raise to accept them")
        return 1
    TABLE.write_text(
        _HEADER + yaml.safe_dump(table, default_flow_style=None, sort_keys=False, width=120), encoding="utf-8"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Writes the tables of ``advdef report --leaderboard`` from an installed RobustBench.

Run ``pip install --no-deps robustbench`` and then ``python -m robustbench_cli.benchmarks.comparison.leaderboards 2025-04``, with
the month of the release. The facts are in the description of the package: the models of its zoo with their best known robust
accuracy, which is AutoAttack's or that of a stronger external evaluation.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from importlib.metadata import metadata
from typing import Any

import yaml

from robustbench_cli.benchmarks.reports.leaderboard import FOLDER, Leaderboard
from robustbench_cli.core.atomic_write import write_atomically

__all__ = ["parse"]

_DATASETS = {"CIFAR-10": ("cifar10", 10_000), "CIFAR-100": ("cifar100", 10_000), "ImageNet": ("imagenet", 5_000)}
"""The data set of each section, and the number of images on which RobustBench evaluates."""

_THREAT = re.compile(r"(Linf|L2), eps=([\d./]+)")
_CORRUPTIONS = re.compile(r"(Common )?Corruptions\b")
_ROW = re.compile(r"\|\s*<sub>\*\*\d+")
_LINK = re.compile(r"\[(.*)\]\((.*)\)")


def main() -> None:
    """Writes one YAML file for each leaderboard."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("date", help="the month of the release, as in 2025-04")
    date = parser.parse_args().date
    package = metadata("robustbench")
    text = package.get("Description") or str(package.get_payload())  # type: ignore[attr-defined]
    for board in parse(text, source=f"RobustBench {package['Version']}", date=date):
        content = yaml.safe_dump(
            board.model_dump(exclude={"name"}, exclude_none=True), sort_keys=False, allow_unicode=True, width=120
        )
        write_atomically(FOLDER / f"{board.name}.yaml", content.encode())
        print(f"{board.name}: {len(board.entries)} models")


def parse(description: str, *, source: str, date: str) -> Iterator[Leaderboard]:
    """The leaderboards in the description of RobustBench: those with a norm and a radius, and those of corruptions.

    Args:
        description: The text, in Markdown: a section for each data set, a subsection for each threat model, a table in each.
        source: Where the figures are from.
        date: Their date.
    """
    for section in re.split(r"^### ", description, flags=re.MULTILINE)[1:]:
        heading, _, rest = section.partition("\n")
        if heading.strip() not in _DATASETS:
            continue
        dataset, n = _DATASETS[heading.strip()]
        for part in re.split(r"^#### ", rest, flags=re.MULTILINE)[1:]:
            threat, _, table = part.partition("\n")
            match = _THREAT.match(threat)
            norm = match[1].lower() if match else None
            if match or _CORRUPTIONS.match(threat):
                yield Leaderboard.model_validate(
                    {
                        "name": f"{dataset}-{norm or 'corruptions'}",
                        "source": source,
                        "date": date,
                        "dataset": dataset if match else f"{dataset}-c",
                        "norm": norm,
                        "eps": match and match[2],
                        "n": n,
                        "subset": dataset == "imagenet",
                        "entries": [_entry(line) for line in table.splitlines() if _ROW.match(line)],
                    }
                )


def _entry(line: str) -> dict[str, Any]:
    """One row: rank, name, paper with its link, clean and robust accuracy in percent, architecture, venue."""
    plain = re.sub(r"\s*<br\s*/?>\s*", " ", line)
    cells = [re.sub(r"</?su[bp]>|\*", "", cell).strip() for cell in plain.strip("| ").split("|")]
    _, model, paper, clean, robust, architecture, venue = cells
    link = _LINK.fullmatch(paper)
    if link is None:
        raise ValueError(f"no link in {paper}")
    return {
        "model": model,
        "paper": link[1].strip(),
        "link": link[2],
        "venue": venue,
        "architecture": architecture,
        "clean": float(clean.rstrip("%")),
        "robust": float(robust.rstrip("%")),
    }


if __name__ == "__main__":
    main()

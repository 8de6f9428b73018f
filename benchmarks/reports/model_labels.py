"""The names of models in charts and audits: the shortest that distinguish them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["distinct_labels", "model_labels"]

_COLUMNS = ("model", "mean", "std", "seed", "accounting", "repeats", "checkpoint", "checkpoint_sha256")
"""The columns that a label adds to the defense, one after another, where they differ."""

_TEXTS: Mapping[str, Callable[[Any], str]] = {
    "model": str,
    "accounting": str,
    "checkpoint": lambda path: Path(path).name,
    "checkpoint_sha256": lambda identity: str(identity)[:8],
}
"""How a label has a column; others have their name before the value."""


def model_labels(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The shortest name of each row's model that distinguishes it from the models of the other rows.

    Args:
        rows: Rows as plain data.

    Returns:
        The defense, with the architecture, the seed, the file and so on where two models of this name differ in them.
    """
    return distinct_labels([row["defense"] for row in rows], rows, _COLUMNS)


def distinct_labels(labels: Sequence[str], rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[str]:
    """Adds to equal labels what distinguishes their models.

    Args:
        labels: A label for each row.
        rows: Rows as plain data.
        columns: The columns that are added one after another, where rows of one label differ in them.

    >>> rows = [{"checkpoint": "runs/a.safetensors"}, {"checkpoint": "runs/b.safetensors"}, {"checkpoint": "c.pt"}]
    >>> distinct_labels(["none", "none", "hrs"], rows, ["checkpoint"])
    ['none, a.safetensors', 'none, b.safetensors', 'hrs']
    """
    labels = list(labels)
    for name in columns:
        values: dict[str, set[Any]] = {}
        for label, row in zip(labels, rows, strict=True):
            values.setdefault(label, set()).add(row[name])
        labels = [
            # A model without a normalization has an empty text.
            f"{label}, {_TEXTS.get(name, f'{name} {{}}'.format)(row[name]) if row[name] != '' else f'no {name}'}"
            if len(values[label]) > 1 and row[name] is not None
            else label
            for label, row in zip(labels, rows, strict=True)
        ]
    return labels

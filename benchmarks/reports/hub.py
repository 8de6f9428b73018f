"""Results for a model's page on the Hugging Face Hub: ``model-index`` in its model card, and files in ``.eval_results/``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from robustbench_cli.benchmarks.reports.columns import Record
from robustbench_cli.benchmarks.reports.readable import records
from robustbench_cli.core.errors import UserError
from robustbench_cli.core.escaping import escaped_for_terminal

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["eval_results", "model_index"]

_ON_HUB = {
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
    "fashion-mnist": "zalando-datasets/fashion_mnist",
    "imagenet": "ILSVRC/imagenet-1k",
    "mnist": "ylecun/mnist",
    "svhn": "ufldl-stanford/svhn",
}
"""The names on the Hub of this project's data sets."""

_METRICS = {
    "clean_accuracy": ("accuracy", "Clean accuracy"),
    "robust_accuracy": ("robust_accuracy", "Robust accuracy"),
    "attack_success_rate": ("attack_success_rate", "Attack success rate"),
}
"""The type and the name of the metric in each column."""

_CLEAN = ("n", "repeats", "seed")
"""The columns that say how an accuracy without an attack was measured."""

_ATTACKED = ("attack", "norm", "eps", "targeted", "eot", *_CLEAN, "flags", "cell")
"""The columns that say how any other metric was measured."""


def model_index(table: pd.DataFrame) -> str:
    """The metadata ``model-index`` of a model card, as YAML.

    See `the specification <https://github.com/huggingface/hub-docs/blob/main/modelcard.md?plain=1>`_. A metric has its protocol,
    its interval and its flags as arguments.

    Args:
        table: The rows of one model.

    Raises:
        UserError: There is no row, or there are several models.
    """
    rows = _rows_of_one_model(table, "model-index")
    by_data: dict[tuple[Any, ...], list[Record]] = {}
    for row in rows:
        by_data.setdefault((row["dataset"], row["corruption"], row["severity"]), []).append(row)
    first = rows[0]
    name = first["model"] if first["defense"] == "none" else f"{first['model']} with {first['defense']}"
    results = [
        {
            "task": {"type": "image-classification", "name": "Image Classification"},
            "dataset": _dataset(of_data[0]),
            "metrics": _metrics(of_data),
        }
        for of_data in by_data.values()
    ]
    return _yaml({"model-index": [{"name": _line(name), "results": results}]})


def eval_results(table: pd.DataFrame) -> str:
    """A file of the folder ``.eval_results/`` of a model's repository, as YAML.

    See `its documentation <https://huggingface.co/docs/hub/eval-results>`_. A leaderboard takes one value for each task, so
    there is one entry for each threat model: that of the lowest robust accuracy.

    Args:
        table: The rows of one model.

    Raises:
        UserError: There is no row under attack, there are several models, or a data set is not on the Hub.
    """
    strongest: dict[tuple[Any, ...], Record] = {}
    for row in _rows_of_one_model(table, "eval-results"):
        if row["robust_accuracy"] is None or row["attack"] == "none":
            continue
        key = tuple(row[name] for name in ("dataset", "corruption", "severity", "norm", "eps", "targeted", "seed"))
        if key not in strongest or row["robust_accuracy"] < strongest[key]["robust_accuracy"]:
            strongest[key] = row
    if not strongest:
        raise UserError("eval-results are robust accuracies, and no row has one: run 'advdef attack' first")
    return _yaml([_entry(row) for row in strongest.values()])


def _entry(row: Record) -> dict[str, Any]:
    dataset = str(row["dataset"])
    name, revision = _on_hub(dataset)
    if name is None:
        known = ", ".join(sorted(_ON_HUB))
        raise UserError(
            f"eval-results belong to a data set of the Hub, and {_line(dataset)} is none: use {known} or hf:OWNER/NAME, or "
            "the format model-index"
        )
    words = ("robust-accuracy", row["norm"], row["eps"] or "any", row["corruption"], row["severity"])
    task = re.sub(r"[^a-z0-9.-]+", "-", " ".join(str(word) for word in words if word is not None).lower())
    of_revision = {} if revision is None else {"revision": _line(revision)}
    return {
        "dataset": {"id": _line(name), "task_id": task, **of_revision},
        "value": _rounded(row["robust_accuracy"]),
        "notes": "; ".join(f"{key}: {value}" for key, value in _protocol(row, "robust_accuracy").items()),
    }


def _rows_of_one_model(table: pd.DataFrame, name: str) -> list[Record]:
    rows: list[Record] = list(records(table))
    if not rows:
        raise UserError(f"{name} is about results, and there is no row: run 'advdef attack' first")
    models = {(row["model"], row["defense"], row["checkpoint"], row["checkpoint_sha256"]) for row in rows}
    if len(models) > 1:
        defenses = sorted({_line(row["defense"]) for row in rows})
        hint = f"defense={defenses[0]}" if len(defenses) > 1 else "checkpoint=FILE"
        raise UserError(
            f"{name} is about one model, and these rows are of {len(models)}: choose one with --where {hint}"
        )
    return rows


def _on_hub(dataset: str) -> tuple[str | None, str | None]:
    """The name of a data set on the Hub and its revision; ``None`` where it has none."""
    kind, _, argument = dataset.partition(":")
    if kind != "hf":
        return _ON_HUB.get(kind), None
    name, _, revision = argument.partition("?")[0].partition("@")
    return (name if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not name.startswith(".") else None), revision or None


def _dataset(row: Record) -> dict[str, Any]:
    dataset = str(row["dataset"])
    name, revision = _on_hub(dataset)
    described = {"name": _line(dataset), "type": _line(name or dataset)}
    if row["corruption"] is not None:
        severity = "" if row["severity"] is None else f", severity {row['severity']}"
        described["config"] = _line(f"{row['corruption']}{severity}")
    # The Hub has no labels of the test images of ImageNet.
    described["split"] = "validation" if dataset.partition(":")[0] == "imagenet" else "test"
    return described if revision is None else {**described, "revision": _line(revision)}


def _metrics(rows: Sequence[Record]) -> list[dict[str, Any]]:
    """The metrics of one data set. The rows of several attacks have the same accuracy without one."""
    found = []
    for row in rows:
        threat = _line(f"{row['attack']}, {row['norm']} {row['eps'] or 'any distance'}")
        for column, (kind, name) in _METRICS.items():
            is_clean = column == "clean_accuracy"
            if row[column] is None or (row["attack"] == "none" and not is_clean):
                continue
            metric = {
                "type": kind,
                "name": name if is_clean else f"{name} ({threat})",
                "value": _rounded(row[column]),
                "args": _protocol(row, column),
            }
            if metric not in found:
                found.append(metric)
    return found


def _protocol(row: Record, column: str) -> Mapping[str, Any]:
    """How a figure was measured, and its 95 % confidence interval."""
    names = _CLEAN if column == "clean_accuracy" else _ATTACKED
    protocol = {name: row[name] for name in names if row[name] not in {None, ""}}
    ends = {f"95% {end}": row.get(f"{column}_{end}") for end in ("low", "high")}
    found = {**protocol, **{name: _rounded(value) for name, value in ends.items() if value is not None}}
    return {name: _line(value) if isinstance(value, str) else value for name, value in found.items()}


def _rounded(value: float) -> float:
    """A number to 12 digits, as in the other formats."""
    return float(f"{value:.12g}")


def _line(text: Any) -> str:
    return escaped_for_terminal(str(text))


def _yaml(content: Mapping[str, Any] | Sequence[Any]) -> str:
    import yaml

    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=10**6)

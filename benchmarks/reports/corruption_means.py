"""The mean over corruptions: a row for each model and attack, and the mean corruption error against a baseline."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from robustbench_cli.benchmarks.corruptions import BENCHMARK, SEVERITIES
from robustbench_cli.core.errors import UserError, one_line

__all__ = [
    "ALEXNET",
    "MEAN",
    "Baseline",
    "read_corruption_baseline",
    "typed",
    "with_corruption_errors",
    "with_corruption_means",
]

MEAN = "mean"
"""The corruption of a row that is the mean over the whole benchmark. Over a part of it, the row says how much."""

ALEXNET: Mapping[str, float] = {
    "gaussian-noise": 0.886428,
    "shot-noise": 0.894468,
    "impulse-noise": 0.922640,
    "defocus-blur": 0.819880,
    "glass-blur": 0.826268,
    "motion-blur": 0.785948,
    "zoom-blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic-transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg-compression": 0.606500,
}
"""AlexNet's error on ImageNet-C, the mean over the severities (github.com/hendrycks/robustness; rounded in the paper's table)."""

Baseline = Mapping[tuple[str, int | None], float]
"""Errors by corruption and severity; the severity is ``None`` for the mean over all five."""

_IMAGENET = ("imagenet", "imagenet-c", "imagefolder")
"""The data sets whose images may be ImageNet's."""

_MEANS = (
    *(f"{kind}_accuracy{end}" for kind in ("clean", "robust") for end in ("", "_low", "_high")),
    *("robust_accuracy_vote", "robust_accuracy_every_draw", "attack_success_rate"),
)
_SUMS = ("forwards", "backwards", "seconds")

_KEY = ("checkpoint_sha256", "defense", "attack", "norm", "eps_value", "targeted", "eot", "n", "repeats", "seed")
"""What the rows that one mean combines have in common, besides the data set and the model."""


def with_corruption_means(table: pd.DataFrame) -> pd.DataFrame:
    """Adds a row for the mean over the corruptions of each model and attack, after the last of its rows.

    A mean is over the 15 corruptions of the benchmark, other ones are left out. Each corruption counts as much as any other,
    and its severities count equally. The ends of a confidence interval are means of ends: the same images and draws are
    behind all rows, so their errors may add up. Without a baseline, ``mce`` is the mean error.

    Args:
        table: The rows of cells and of per-image worst cases.
    """
    rows = table[table["corruption"].isin(BENCHMARK)]
    means: dict[tuple[int, int], dict[str, Any]] = {}
    for _, members in rows.groupby(["dataset", "model", *_KEY], dropna=False, sort=False):
        if len(members) > 1:
            # Behind all rows of its model, so that what a terminal shows last is the result.
            of_model = table[table["checkpoint_sha256"] == members["checkpoint_sha256"].iloc[0]]
            means[int(of_model.index[-1]), len(means)] = _mean(members)
    if not means:
        return table
    records: dict[tuple[int, int], Any] = dict(means)
    records |= {(index, -1): record for index, record in enumerate(table.to_dict(orient="records"))}
    ordered = [records[position] for position in sorted(records)]
    return typed(pd.DataFrame.from_records(ordered, columns=list(table.columns)))


def typed(table: pd.DataFrame) -> pd.DataFrame:
    """A table whose severities are whole numbers, although some rows have none.

    Args:
        table: Any rows.
    """
    return table.assign(severity=table["severity"].astype("Int64"))


def _mean(members: pd.DataFrame) -> dict[str, Any]:
    """The mean row of some rows."""
    record = {str(name): value for name, value in members.iloc[0].items()}
    by_corruption = members.groupby("corruption", sort=False)
    values = {name: _number(by_corruption[name].mean().mean()) for name in _MEANS}
    complete = len(members) == len(BENCHMARK) * len(SEVERITIES)
    flags = sorted({flag for text in members["flags"].dropna() for flag in text.split(";") if flag})
    cells = "".join(sorted(members["cell"]))
    empty = ("mean_l2", "mean_linf", "des", "des_low", "des_high", "clean_accuracy_loss_within_interval", "severity")
    return {
        **record,
        **values,
        **{name: members[name].sum() for name in _SUMS},
        **dict.fromkeys(empty),
        "corruption": MEAN if complete else f"{MEAN}({len(members)} of {len(BENCHMARK) * len(SEVERITIES)})",
        "flags": ";".join(flags),
        "quick_look": bool(members["quick_look"].any()),
        "cell": hashlib.sha256(cells.encode()).hexdigest()[:20],
        "mean_corruption_accuracy": values["robust_accuracy"],
        "mce": None if values["robust_accuracy"] is None else 1 - values["robust_accuracy"],
        "mce_baseline": "none",
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def with_corruption_errors(table: pd.DataFrame, baseline: Baseline, *, name: str) -> pd.DataFrame:
    """Normalizes the mean corruption error by a baseline's errors, as in the paper's section 4.

    The error of a corruption is the sum of the model's errors over the severities, divided by that of the baseline. ``mce`` is
    the mean over the corruptions.

    Args:
        table: The rows with their means; see :func:`with_corruption_means`.
        baseline: Errors.
        name: What ``mce_baseline`` calls the baseline.

    Raises:
        UserError: The table has no mean, or the baseline lacks a corruption or a severity of the table, or is AlexNet and no
            mean is of ImageNet.
    """
    has_mean = table["mce"].notna()
    if not has_mean.any():
        raise UserError(
            f"--corruption-baseline {name}: there is no mean over corruptions here: run --suite corruptions"
        )
    if name == "alexnet":
        has_mean &= table["dataset"].str.partition(":")[0].isin(_IMAGENET)
        if not has_mean.any():
            raise UserError(
                f"--corruption-baseline alexnet: its errors are of ImageNet, not of {table['dataset'].iloc[0]}: give a .csv "
                "file with the rows of a model on the same data set"
            )
    rows = table[table["corruption"].isin(BENCHMARK)]
    groups = dict(iter(rows.groupby(["dataset", "model", *_KEY], dropna=False, sort=False)))
    keys = {_text(key): members for key, members in groups.items()}
    values = dict(table["mce"].items())
    for index, row in table[has_mean].iterrows():
        members = keys[_text([row[column] for column in ("dataset", "model", *_KEY)])]
        ratios = [
            _corruption_error(str(corruption), of_corruption, baseline, name)
            for corruption, of_corruption in members.groupby("corruption", sort=False)
        ]
        values[index] = sum(ratios) / len(ratios)
    baselines = table["mce_baseline"].astype(object).mask(has_mean, name)
    return table.assign(mce=pd.Series(values), mce_baseline=baselines)


def _text(values: Sequence[Any]) -> tuple[str, ...]:
    return tuple("" if pd.isna(value) else str(value) for value in values)


def _corruption_error(corruption: str, rows: pd.DataFrame, baseline: Baseline, name: str) -> float:
    """The error of a model under a corruption over that of the baseline."""
    severities = sorted(int(severity) for severity in rows["severity"])
    error = float((1 - rows["robust_accuracy"]).sum())
    if (corruption, None) in baseline and tuple(severities) == SEVERITIES:
        return error / (len(SEVERITIES) * baseline[corruption, None])
    for severity in severities:
        if (corruption, severity) not in baseline:
            hint = "it has only the mean over all five" if (corruption, None) in baseline else "add it"
            raise UserError(
                f"--corruption-baseline {name} has no error for {corruption} at severity {severity}: {hint}"
            )
    total = sum(baseline[corruption, severity] for severity in severities)
    if total <= 0:
        raise UserError(
            f"--corruption-baseline {name} has no error under {corruption}, which nothing can be divided by"
        )
    return error / total


_HINT = "give alexnet, or a .csv file of one model that 'advdef report -o' wrote"


def read_corruption_baseline(text: str) -> Baseline:
    """Reads a baseline.

    Args:
        text: ``alexnet``; or the path of a table with the columns ``corruption``, ``severity`` and ``robust_accuracy``. Its
            rows without a severity are skipped, so a whole table of one model serves.

    Raises:
        UserError: The file cannot be read, lacks a column, or has two rows for one corruption and severity.
    """
    if text == "alexnet":
        return {(corruption, None): error for corruption, error in ALEXNET.items()}
    names = ["corruption", "severity", "robust_accuracy"]
    try:
        table = pd.read_csv(text, usecols=names).dropna(subset=["severity"])
        table = table.astype({"severity": int, "robust_accuracy": float})
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or one_line(error)
        raise UserError(f"--corruption-baseline {text} cannot be read ({reason}): {_HINT}") from None
    if table.empty:
        raise UserError(f"--corruption-baseline {text} has no row with a severity: {_HINT}")
    keys = list(zip(table["corruption"], table["severity"].tolist(), strict=True))
    for (corruption, severity), twice in zip(keys, table.duplicated(names[:2]), strict=True):
        if twice:
            raise UserError(
                f"--corruption-baseline {text} has two rows for {corruption} at severity {severity}: write it with --where, so "
                "that it has one model and one attack"
            )
    if not table["robust_accuracy"].between(0, 1).all():
        raise UserError(f"--corruption-baseline {text} has a robust_accuracy that is no share, from 0 to 1: {_HINT}")
    return dict(zip(keys, (1 - table["robust_accuracy"]).tolist(), strict=True))

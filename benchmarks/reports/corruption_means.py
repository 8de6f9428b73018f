"""The mean over corruptions: a row for each model and attack, and the mean corruption error against a baseline."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from robustbench_cli.benchmarks.corruptions import BENCHMARK, SEVERITIES
from robustbench_cli.benchmarks.datasets.base.options import PREPROCESSING, split_name, with_options
from robustbench_cli.benchmarks.reports.columns import flag_names
from robustbench_cli.benchmarks.reports.gates import read_baseline
from robustbench_cli.core.errors import UserError, one_line

__all__ = [
    "ALEXNET",
    "MEAN",
    "Baseline",
    "is_mean",
    "read_corruption_baseline",
    "typed",
    "with_corruption_errors",
    "with_corruption_means",
]

MEAN = "mean"
"""The corruption of a row that is the mean over the whole benchmark. Over a part it reads ``mean(15 of 75)``."""

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


@dataclass(frozen=True)
class Baseline:
    """What corruption errors are divided by.

    Attributes:
        errors: Errors by corruption and severity; the severity is ``None`` for the mean over all five.
        evaluation: What a mean must have in common with it, by column; see :func:`_evaluation`.
    """

    errors: Mapping[tuple[str, int | None], float]
    evaluation: Mapping[str, Any]


_MEANS = (
    *(f"{kind}_accuracy{end}" for kind in ("clean", "robust") for end in ("", "_low", "_high")),
    *("robust_accuracy_vote", "robust_accuracy_every_draw", "attack_success_rate"),
)
_SUMS = ("forwards", "backwards", "seconds")

_IMAGENET = ("imagenet", "imagenet-c")
"""The data sets of ImageNet's images."""

_NO_ATTACK = "none"

_KEY = (
    *("checkpoint_sha256", "defense", "attack", "norm", "eps_value", "targeted", "eot", "n", "repeats", "seed"),
    "accounting",
)
"""What the rows that one mean combines have in common, besides the data set and the model."""


def is_mean(corruption: object) -> bool:
    """Whether a row is a mean over corruptions, of the whole benchmark or a part.

    Args:
        corruption: That of the row; ``None`` or NaN without one.
    """
    return isinstance(corruption, str) and corruption.partition("(")[0] == MEAN


def with_corruption_means(table: pd.DataFrame) -> pd.DataFrame:
    """Adds a row for the mean over the corruptions of each model and attack, after the last of its rows.

    A mean is over the 15 corruptions of the benchmark, other ones are left out. Each corruption counts as much as any other,
    and its severities count equally. The ends of a confidence interval are means of ends: the same images and draws are
    behind all rows, so their errors may add up. ``mean_corruption_accuracy`` is of the attack ``none`` alone: under another
    attack the mean is a robust accuracy. ``mce`` needs a baseline; see :func:`with_corruption_errors`. Cells that stopped when
    they were decided have no mean: how many images each attacked depends on its outcomes.

    Args:
        table: The rows of cells and of per-image worst cases.
    """
    rows = table[table["corruption"].isin(BENCHMARK) & table["stop_when_decided"].isna()]
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
    count, whole = len(members[["corruption", "severity"]].drop_duplicates()), len(BENCHMARK) * len(SEVERITIES)
    flags = sorted({flag for text in members["flags"] for flag in flag_names(text)})
    cells = "".join(sorted(members["cell"]))
    empty = ("mean_l2", "mean_linf", "des", "des_low", "des_high", "clean_accuracy_loss_within_interval", "severity")
    return {
        **record,
        **values,
        **{name: members[name].sum() for name in _SUMS},
        **dict.fromkeys(empty),
        "corruption": MEAN if count == whole else f"{MEAN}({count} of {whole})",
        "flags": ";".join(flags),
        "quick_look": bool(members["quick_look"].any()),
        "cell": hashlib.sha256(cells.encode()).hexdigest()[:20],
        "mean_corruption_accuracy": values["robust_accuracy"] if record["attack"] == _NO_ATTACK else None,
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def with_corruption_errors(table: pd.DataFrame, baseline: Baseline, *, name: str) -> pd.DataFrame:
    """Adds the mean corruption error: a model's errors over a baseline's, as in the paper's section 4.

    The error of a corruption is the sum of the model's errors over the severities, divided by that of the baseline. ``mce`` is
    the mean over the corruptions. A mean under an attack, or of another data set or number of images than the baseline's, has
    no ``mce``.

    Args:
        table: The rows with their means; see :func:`with_corruption_means`.
        baseline: Errors.
        name: What ``mce_baseline`` calls the baseline.

    Raises:
        UserError: The table has no mean that the baseline is for, or the baseline lacks a corruption or a severity of it.
    """
    means = table[table["mean_corruption_accuracy"].notna()]
    if means.empty:
        raise UserError(
            f"--corruption-baseline {name}: there is no mean over corruptions without an attack: run --suite corruptions"
        )
    differences = {index: _difference(row, baseline) for index, row in means.iterrows()}
    if all(differences.values()):
        raise UserError(
            f"--corruption-baseline {name}: its errors are of {differences[means.index[0]]}: give a .csv file with the rows of "
            "a model on the same data set"
        )
    rows = table[table["corruption"].isin(BENCHMARK)]
    groups = dict(iter(rows.groupby(["dataset", "model", *_KEY], dropna=False, sort=False)))
    keys = {_text(key): members for key, members in groups.items()}
    values: dict[Any, float] = {}
    for index, row in means.iterrows():
        if not differences[index]:
            ratios = _corruption_errors(keys[_text([row[key] for key in ("dataset", "model", *_KEY)])], baseline, name)
            values[index] = sum(ratios) / len(ratios)
    return table.assign(
        mce=pd.Series(values, index=table.index, dtype=float),
        mce_baseline=pd.Series(dict.fromkeys(values, name), index=table.index, dtype=object),
    )


def _difference(row: pd.Series, baseline: Baseline) -> str | None:
    """In what a baseline differs from a mean; ``None`` where it is for it."""
    evaluation = _evaluation(row)
    for column, value in baseline.evaluation.items():
        if value != evaluation[column]:
            label = "n " if column == "n" else ""
            return f"{label}{value}, not of {label}{evaluation[column]}"
    return None


def _evaluation(row: Mapping[str, Any] | pd.Series) -> dict[str, Any]:
    """What a model and its baseline must have in common: the data set and the number of images.

    The preprocessing of the images is each model's own.
    """
    plain, options = split_name(str(row["dataset"]))
    others = {key: value for key, value in options.items() if key not in PREPROCESSING}
    return {
        "images": "ImageNet" if plain.partition(":")[0] in _IMAGENET and "class_list" not in others else plain,
        "dataset": with_options(plain, others),
        "n": int(row["n"]),
    }


def _text(values: Sequence[Any]) -> tuple[str, ...]:
    return tuple("" if pd.isna(value) else str(value) for value in values)


def _corruption_errors(members: pd.DataFrame, baseline: Baseline, name: str) -> list[float]:
    """The error of a model under each corruption over that of the baseline."""
    by_corruption = members.groupby("corruption", sort=False)
    return [_corruption_error(str(corruption), rows, baseline.errors, name) for corruption, rows in by_corruption]


def _corruption_error(
    corruption: str, rows: pd.DataFrame, baseline: Mapping[tuple[str, int | None], float], name: str
) -> float:
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
        text: ``alexnet``; or the path of a table that ``advdef report -o`` wrote. Its rows without a severity or under an attack
            are skipped.

    Raises:
        UserError: The file cannot be read, lacks a column, or has rows of two models or data sets.
    """
    if text == "alexnet":
        means: dict[tuple[str, int | None], float] = {(name, None): error for name, error in ALEXNET.items()}
        return Baseline(means, {"images": "ImageNet"})
    option = f"--corruption-baseline {text}"
    table = read_baseline(Path(text), option="--corruption-baseline")
    missing = [name for name in ("corruption", "severity") if name not in table.columns]
    if missing:
        raise UserError(f"{option} has no column '{missing[0]}': {_HINT}")
    table = table[table["severity"].notna() & (table["attack"] == _NO_ATTACK)]
    if table.empty:
        raise UserError(f"{option} has no row of the attack none with a severity: {_HINT}")
    try:
        table = table.astype({"severity": int, "n": int})
        evaluations = [_evaluation(row) for _, row in table.iterrows()]
    except ValueError as error:
        raise UserError(f"{option} cannot be read ({one_line(error)}): {_HINT}") from None
    keys = list(zip(table["corruption"], table["severity"].tolist(), strict=True))
    for evaluation, (corruption, severity), twice in zip(
        evaluations, keys, table.duplicated(["corruption", "severity"]), strict=True
    ):
        if twice or evaluation != evaluations[0]:
            fault = "two rows" if twice else "another data set or number of images"
            raise UserError(
                f"{option} has {fault} for {corruption} at severity {severity}: write it with --where, so that it has one "
                "model on one data set"
            )
    if not table["robust_accuracy"].between(0, 1).all():
        raise UserError(f"{option} has a robust_accuracy that is no share, from 0 to 1: {_HINT}")
    # Its data set says it more exactly.
    evaluation = {column: value for column, value in evaluations[0].items() if column != "images"}
    return Baseline(dict(zip(keys, (1 - table["robust_accuracy"]).tolist(), strict=True)), evaluation)

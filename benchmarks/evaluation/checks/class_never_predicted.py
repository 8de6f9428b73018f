"""The flag of a model that never predicts one of the classes."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Finding, Severity
from robustbench_cli.benchmarks.evaluation.checks.base.row_group import RowGroup

__all__ = ["ClassNeverPredicted"]

_LEAST = 10
"""The fewest images of a class that decide: a model that learned the class predicts it for at least one of them."""


class ClassNeverPredicted(Check):
    """The predictions are those on the clean images, for all draws of all rows."""

    text: ClassVar[str] = "the model never predicts one of the classes of the clean images"
    severity: ClassVar[Severity] = "suspicious"
    raised_when: ClassVar[str] = (
        "A class with 10 clean images or more is predicted for none of the clean images, of any class and in any draw."
    )
    why: ClassVar[str] = (
        "The model was trained on other classes or in another order of the classes, or it collapsed in training. An attack "
        "that only has to keep a wrong prediction wrong says nothing of robustness."
    )
    remedy: ClassVar[str] = "Check the data set, the order of its classes and the training."
    source: ClassVar[str] = "Own test"

    def finding_in_rows(self, rows: RowGroup) -> Finding | None:
        classes, counts = np.unique(rows.labels, return_counts=True)
        missing = classes[counts >= _LEAST]
        for row in rows.rows:
            missing = missing[~np.isin(missing, row.outcomes.clean)]
            if not len(missing):
                return None
        names = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        return self.finding(
            f"{len(missing)} of the {len(classes)} classes are predicted for no clean image: {names}",
            classes=len(classes),
            never_predicted=len(missing),
        )

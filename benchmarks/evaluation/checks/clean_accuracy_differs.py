"""The flag of a model whose clean accuracy is another in another evaluation."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Finding, Severity
from robustbench_cli.benchmarks.evaluation.checks.base.row_group import Row, RowGroup
from robustbench_cli.benchmarks.evaluation.statistics.paired import ScoredDraws, p_value_of_equality

__all__ = ["CleanAccuracyDiffers"]

_LEVEL = 0.001
"""The probability of a false alarm over all rows."""


class CleanAccuracyDiffers(Check):
    """Each row is compared with the first one of the same number of images: no attack has a part in the clean accuracy."""

    text: ClassVar[str] = (
        "the clean accuracy of the same model on the same images differs between rows by more than chance: the model changes "
        "between evaluations, or its draws were selected"
    )
    severity: ClassVar[Severity] = "suspicious"
    raised_when: ClassVar[str] = (
        "A paired test of the clean predictions in two rows of one model (the exact test of McNemar for deterministic models) "
        "rejects equality at level 0.001, divided by the number of comparisons; or a row of the radius 0 has another robust than "
        "clean accuracy by the same test."
    )
    why: ClassVar[str] = (
        "The clean accuracy does not depend on the attack. If it differs, the model depends on the time, on earlier queries or on "
        "draws that were selected, and the robust accuracies differ for the same reason."
    )
    remedy: ClassVar[str] = (
        "Evaluate a model without state, with draws from torch's generator, and with the same weights in all rows."
    )
    source: ClassVar[str] = (
        "Own test; Carlini, Athalye, Papernot et al.: On Evaluating Adversarial Robustness. arXiv 1902.06705 (an attack of radius 0 "
        "is a control)"
    )

    def finding_in_rows(self, rows: RowGroup) -> Finding | None:
        comparable = _comparable(rows)
        controls = [row for row in rows.rows if row.eps == 0 and row.targeted == "no"]
        level = _LEVEL / max(1, len(comparable) + len(controls))
        # Most rows have the same predictions, which takes no test.
        differing = [pair for pair in comparable if not np.array_equal(pair[0].outcomes.clean, pair[1].outcomes.clean)]
        distinct: dict[bytes, tuple[Row, Row]] = {}
        for pair in differing:
            # Attacks with one seed share their draws.
            distinct.setdefault(pair[1].outcomes.clean.tobytes(), pair)
        pairs = [(other, _clean(row), _clean(other)) for row, other in distinct.values()]
        for row, first, second in [*pairs, *((row, _clean(row), row.scored) for row in controls)]:
            if p_value_of_equality(first, second, level=level)[0] < level:
                return self.finding(
                    f"under {row.attack} at {row.text} it is {second.accuracy:.3f}, and elsewhere {first.accuracy:.3f}",
                    accuracy=first.accuracy,
                    accuracy_other=second.accuracy,
                )
        return None


def _clean(row: Row) -> ScoredDraws:
    """Whether the clean images are classified correctly."""
    return ScoredDraws(right=row.outcomes.clean_right, shared=bool(row.outcomes.draws_shared))


def _comparable(rows: RowGroup) -> list[tuple[Row, Row]]:
    """The first row with each other one that has the same images."""
    first = rows.rows[0]
    return [
        (first, row)
        for row in rows.rows[1:]
        if len(row.outcomes.labels) == len(first.outcomes.labels)
        and (row.outcomes.labels == first.outcomes.labels).all()
    ]

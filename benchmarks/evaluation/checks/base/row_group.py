"""The stored rows of one model, as checks see them; nothing of this needs torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np

from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Budget
from robustbench_cli.benchmarks.evaluation.options import Accounting
from robustbench_cli.benchmarks.evaluation.outcomes import Integers, Outcomes
from robustbench_cli.benchmarks.evaluation.statistics.intervals import Floats
from robustbench_cli.benchmarks.evaluation.statistics.paired import ScoredDraws

__all__ = ["NEAR_ZERO", "Access", "AuditedDraws", "Row", "RowGroup", "Threat", "chance", "scored"]

NEAR_ZERO = 0.1
"""A robust accuracy of at most this share of the clean accuracy is near zero: it can hardly be overstated."""

_ALL = slice(None)

Access = Literal["gradients", "scores", "decisions", "transfer", "none"]
"""What an attack uses of the model: its gradients, its logits, its predicted classes, only another model, or nothing."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """A stored row: one attack at one threat.

    Attributes:
        cell: The cell's hash.
        attack: The attack's label.
        access: See :data:`Access`.
        only_gradients: Whether the attack does nothing but follow gradients, of this model or of another one.
        cascade: Whether the attack ran only on the images that earlier attacks left. Its outcomes include those of
            these attacks.
        eps: The radius; ``None`` for a minimal-norm attack at any distance.
        eps_text: The radius as the user wrote it.
        targeted: The choice of target classes; ``"no"`` for an untargeted attack.
        seed: The seed.
        accounting: How the accuracy of a randomized model is counted.
        outcomes: The outcome of every image.
        flags: The flags that the evaluation raised.
        stopped_interval: The interval of the robust accuracy of a row that stopped once its limit was decided: a confidence
            sequence, since a usual interval is wrong after many looks. ``None`` for other rows.
    """

    cell: str
    attack: str
    access: Access
    only_gradients: bool
    cascade: bool = False
    eps: float | None
    eps_text: str
    targeted: str = "no"
    seed: int = 0
    accounting: Accounting = "expected"
    outcomes: Outcomes
    flags: tuple[str, ...] = ()
    stopped_interval: tuple[float, float] | None = None

    @cached_property
    def right(self) -> Floats:
        """``(N,)``: the share of draws in which the image's worst candidate is classified correctly."""
        return self.outcomes.right_shares

    @cached_property
    def scored(self) -> ScoredDraws:
        """Whether the images are classified correctly under the attack, for paired tests."""
        return scored(self.outcomes)

    @property
    def robust_accuracy(self) -> float:
        """The mean of :attr:`right`."""
        return self.scored.accuracy

    @property
    def text(self) -> str:
        """The radius for people."""
        return f"eps {self.eps_text}" if self.eps_text else "any distance"


@dataclass(frozen=True, kw_only=True, eq=False)
class Threat:
    """The rows of one threat: the attacks that one worst case combines.

    Attributes:
        eps: The radius; ``None`` for any distance.
        eps_text: The radius as the user wrote it.
        targeted: The choice of target classes; ``"no"`` for untargeted attacks.
        seed: The seed.
        rows: The rows.
        known_worst: The worst case over the rows, if the caller has computed it.
    """

    eps: float | None
    eps_text: str
    targeted: str
    seed: int
    rows: tuple[Row, ...]
    known_worst: Outcomes | None = None

    @cached_property
    def worst(self) -> Outcomes:
        """The per-image worst case over the attacks."""
        if self.known_worst is not None:
            return self.known_worst
        stacked = Outcomes.stacked([row.outcomes for row in self.rows])
        return stacked.worst_attack(nearest=self.eps is None)

    @property
    def right(self) -> Floats:
        """``(N,)``: the share of draws in which the image is classified correctly in the worst case."""
        return self.scored.shares

    @cached_property
    def scored(self) -> ScoredDraws:
        """Whether the images are classified correctly in the worst case, for paired tests."""
        if self.known_worst is not None:
            return scored(self.known_worst)
        # Faster than the worst case itself, which stacks all that the outcomes hold.
        outcomes = [row.outcomes for row in self.rows]
        survival = [of_row.nearest_success() if self.eps is None else of_row.least_survival for of_row in outcomes]
        strongest = np.argmin(survival, axis=0)[None, None]
        right = np.take_along_axis(np.stack([of_row.worst_right for of_row in outcomes]), strongest, axis=0)[0]
        return ScoredDraws(right=right, shared=bool(outcomes[0].draws_shared))

    def under(self, rows: Iterable[Row]) -> Threat:
        """The threat under some of its attacks alone.

        Args:
            rows: Some of its rows.
        """
        rows = tuple(rows)
        return self if rows == self.rows else replace(self, rows=rows, known_worst=None)

    @property
    def clean_accuracy(self) -> float:
        """The clean accuracy over images and draws."""
        return float(self.worst.clean_right.mean())

    @property
    def robust_accuracy(self) -> float:
        """The robust accuracy of the worst case."""
        return self.scored.accuracy

    @property
    def is_near_zero(self) -> bool:
        """Whether the robust accuracy can hardly be overstated; see :data:`NEAR_ZERO`."""
        return self.robust_accuracy <= NEAR_ZERO * self.clean_accuracy

    @cached_property
    def interval(self) -> tuple[float, float]:
        """The 95 % confidence interval of :attr:`robust_accuracy`, as in the table."""
        # The rows of another sample are in another group.
        for row in self.rows:
            if row.stopped_interval is not None:
                return row.stopped_interval
        return self.scored.interval(0.95)

    @property
    def text(self) -> str:
        """The radius for people."""
        return self.rows[0].text


@dataclass(frozen=True, kw_only=True, eq=False)
class AuditedDraws:
    """What an audit of the model left of the first images of the same data set; see :meth:`~.check.Check.outcomes_for_rows`.

    Attributes:
        check: The check that stored it.
        attack: The attack, in a few words.
        eps: The radius.
        seed: The seed.
        draws: Whether the images are classified correctly under this attack.
    """

    check: str
    attack: str
    eps: float
    seed: int
    draws: ScoredDraws


@dataclass(frozen=True, kw_only=True, eq=False)
class RowGroup:
    """All stored rows of one model, data slice and norm.

    Attributes:
        norm: The norm.
        rows: The rows.
        contradictions: A line for each row that breaks images inside their certified radius.
        audited: The largest budget with which the model was audited; ``None`` if it was not.
        audits: What audits of the model left of the first images.
        worst_cases: Worst cases that the caller has computed, by the cells of a threat.
    """

    norm: Norm
    rows: tuple[Row, ...]
    contradictions: Sequence[str] = ()
    audited: Budget | None = None
    audits: Sequence[AuditedDraws] = ()
    worst_cases: Mapping[tuple[str, ...], Outcomes] = field(default_factory=dict)

    @cached_property
    def threats(self) -> list[Threat]:
        """The rows by threat, the smallest radius first and any distance last."""
        groups: dict[tuple[float, str, int, str, int], list[Row]] = {}
        for row in self.rows:
            eps = np.inf if row.eps is None else row.eps
            key = (eps, row.targeted, row.seed, row.accounting, len(row.outcomes.clean))
            groups.setdefault(key, []).append(row)
        return [
            Threat(
                eps=rows[0].eps,
                eps_text=rows[0].eps_text,
                targeted=rows[0].targeted,
                seed=rows[0].seed,
                rows=tuple(rows),
                known_worst=self.worst_cases.get(tuple(row.cell for row in rows)),
            )
            for _, rows in sorted(groups.items(), key=lambda item: item[0])
        ]

    @property
    def untargeted(self) -> list[Threat]:
        """The threats of untargeted attacks."""
        return [threat for threat in self.threats if threat.targeted == "no"]

    @property
    def labels(self) -> Integers:
        """``(N,)``: the true classes."""
        return self.rows[0].outcomes.labels

    @property
    def randomized(self) -> bool:
        """Whether the images were scored on several draws."""
        return any(len(row.outcomes.clean) > 1 for row in self.rows)


def chance(labels: Integers) -> float:
    """The accuracy of a model that always answers the most frequent class.

    Args:
        labels: ``(N,)``: the true classes.

    >>> chance(np.array([0, 1, 1, 2]))
    0.5
    """
    return float(np.unique(labels, return_counts=True)[1].max() / len(labels))


def scored(outcomes: Outcomes, images: slice = _ALL) -> ScoredDraws:
    """Whether images are classified correctly under an attack, for paired tests.

    Args:
        outcomes: The outcomes of the attack.
        images: Some of its images.
    """
    return ScoredDraws(right=outcomes.worst_right[:, images], shared=bool(outcomes.draws_shared))

"""What a check finds in stored rows or in a model, and the budgets of an audit."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, FiniteFloat

__all__ = ["BUDGETS", "SEVERITIES", "VERDICTS", "Budget", "Finding", "Need", "Severity", "UndecidedError", "Verdict"]

Severity = Literal["suspicious", "broken"]
"""``"broken"``: the robust accuracy is not to be believed. ``"suspicious"``: it may be overstated."""

SEVERITIES: tuple[Severity, ...] = get_args(Severity)
"""The severities, the mildest first."""

Verdict = Literal["consistent", "suspicious", "broken"]
"""The severest finding of an audit. ``"consistent"``: no check that ran speaks against the robust accuracy."""

VERDICTS: tuple[Verdict, ...] = ("consistent", *SEVERITIES)
"""The verdicts, the mildest first."""

Budget = Literal["quick", "standard", "thorough"]
"""How much an audit of a model may cost."""

BUDGETS: tuple[Budget, ...] = get_args(Budget)
"""The budgets, the smallest first."""

Need = Literal["baseline", "gradients", "logits", "path", "training"]
"""What a check uses of a :class:`~.model_probe.ModelProbe` besides the model: the evaluation of the baseline attack, input
gradients, the logits of the images, the path of the baseline attack, or the training images.
"""


class UndecidedError(Exception):
    """Raised by a check that cannot decide; its message is the reason. The check counts as left out, not as passed."""


class Finding(BaseModel):
    """What a check found.

    Attributes:
        check: The name of the check, which is a flag.
        severity: See :data:`Severity`.
        evidence: What was found, in one line with its figures.
        figures: The same figures by name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    check: str
    severity: Severity
    evidence: str
    figures: dict[str, FiniteFloat] = {}

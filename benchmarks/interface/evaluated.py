"""The result of one or several attacks on a model in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from robustbench_cli.attacks.base.models.precision import Precision
from robustbench_cli.benchmarks.evaluation.early_stopping import accuracy_text, summarize_row
from robustbench_cli.benchmarks.evaluation.evaluate import Evaluation
from robustbench_cli.benchmarks.evaluation.outcomes import Outcomes

__all__ = ["Evaluated"]


@dataclass(frozen=True, kw_only=True, repr=False)
class Evaluated:
    """What the attacks of one threat model left: the result of the attack, or the per-image worst case over several.

    Attributes:
        table: The rows that the command line would print, by the columns of its CSV: one for each attack, and one for the worst
            case after them. Columns of files and stores are left out.
        attacks: The evaluation of each attack, by its label in the table.
        outcomes: The outcome of every image; see :class:`~.outcomes.Outcomes`.
        perturbed: ``(N, C, H, W)``, on the CPU, the strongest attack's perturbed image of each image; see
            :class:`~.evaluate.Evaluation`.
        strongest: ``(n,)`` the label of that attack.
        indices: ``(n,)`` the attacked images: all, or those that ``stop_when_decided`` needed, in the order of ``outcomes``.
    """

    table: pd.DataFrame
    attacks: Mapping[str, Evaluation]
    outcomes: Outcomes
    perturbed: Tensor
    strongest: NDArray[np.str_]
    indices: NDArray[np.int64]

    @property
    def row(self) -> dict[str, Any]:
        """The row of the result in :attr:`table`: the worst case, where several attacks ran."""
        return self._rows[self._position]

    @property
    def _rows(self) -> list[dict[str, Any]]:
        return [{str(name): value for name, value in row.items()} for row in self.table.to_dict("records")]

    @property
    def _position(self) -> int:
        """The position of the row. The rows of one threat model come together, its worst case last."""
        labels = list(self.table["attack"])
        return labels.index("worst-case") if "worst-case" in labels else 0

    @property
    def summary(self) -> dict[str, float]:
        """The figures of the row, by column."""
        return summarize_row(self.outcomes, is_sample=next(iter(self.attacks.values())).is_sample)

    @property
    def flags(self) -> tuple[str, ...]:
        """The names of the checks that speak against the row."""
        return tuple(name for name in self.row["flags"].split(";") if name)

    @property
    def forwards(self) -> int:
        """Images passed forward through the model, by the attacks of the row."""
        return int(self.row["forwards"])

    @property
    def backwards(self) -> int:
        """Images passed backward to the input."""
        return int(self.row["backwards"])

    @property
    def seconds(self) -> float:
        """The wall time of the attacks of the row."""
        return float(self.row["seconds"])

    @property
    def precision(self) -> Precision | None:
        """The precision of the gradients; ``None`` where that of the attacks differs."""
        precisions = {evaluation.precision for evaluation in self.attacks.values()}
        return precisions.pop() if len(precisions) == 1 else None

    def to_frame(self) -> pd.DataFrame:
        """The outcome of each image.

        Returns:
            One row per attacked image, by its number among the images: the ``label``; the most frequent predictions on the
            clean and on the perturbed image over the held-out draws (-1 is a rejection, -2 a failure); the share of the draws in
            which each is right, ``clean_correct`` and ``robust_correct``; the distance of the perturbed image in the norm, in l2
            and in linf; and the strongest ``attack``.
        """
        outcomes = self.outcomes
        # The clean image is the last candidate, at the distance 0.
        chosen = np.concatenate([outcomes.survival, outcomes.clean_survival[None]]).argmin(axis=0)[None]

        def of_candidate(distances: NDArray[np.float64]) -> NDArray[np.float64]:
            padded = np.concatenate([distances, np.zeros_like(distances[:1])])
            return np.asarray(np.take_along_axis(padded, chosen, axis=0)[0])

        return pd.DataFrame(
            {
                "label": outcomes.labels,
                "clean_prediction": stats.mode(outcomes.clean, axis=0).mode,
                "robust_prediction": stats.mode(outcomes.worst(), axis=0).mode,
                "clean_correct": outcomes.clean_right.mean(axis=0),
                "robust_correct": outcomes.right_shares,
                "distance": of_candidate(outcomes.distance),
                "l2": of_candidate(outcomes.l2),
                "linf": of_candidate(outcomes.linf),
                "attack": self.strongest,
            },
            index=pd.Index(self.indices, name="image"),
        )

    def __repr__(self) -> str:
        row = self.row
        radius = f" at eps {row['eps']}" if row["eps"] else ""
        stronger = "attack='randomized'" if row["repeats"] > 1 else "attack='standard'"
        lines = [
            f"{row['attack']} in {row['norm']}{radius} on {row['n']} images",
            *(f"  {accuracy_text(self.summary, name)}" for name in ("clean_accuracy", "robust_accuracy")),
            *(
                []
                if row["eps"]
                else [f"  mean l2 {row['mean_l2']:.3g}, mean linf {row['mean_linf']:.3g} of the broken images"]
            ),
            f"  flags: {', '.join(self.flags) or 'none'}",
            *(
                [f"  quick look: the attacks only follow gradients, and {stronger} says more"]
                if row["quick_look"]
                else []
            ),
            f"  {self.forwards:,} forward and {self.backwards:,} backward passes, {self.seconds:.1f} s",
        ]
        if len(self.table) > 1:
            lines += [
                f"  {other['attack']}: {accuracy_text(other, 'robust_accuracy')}"
                for number, other in enumerate(self._rows)
                if number != self._position
            ]
        return "\n".join(lines)

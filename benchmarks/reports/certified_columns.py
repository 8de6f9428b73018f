"""Adds the certified accuracy to a table of attacks, and the share of images that neither side decides."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from robustbench_cli.benchmarks.certification.certify import CertifiedModel
from robustbench_cli.benchmarks.evaluation.outcomes import Outcomes
from robustbench_cli.benchmarks.evaluation.statistics.intervals import Floats
from robustbench_cli.benchmarks.reports.certificate_conflicts import (
    certificates_of,
    certified_images,
    contradiction,
    is_proof,
)
from robustbench_cli.benchmarks.reports.columns import WORST_CASE
from robustbench_cli.benchmarks.reports.rows import model_and_threat
from robustbench_cli.benchmarks.store.cell import Cell

__all__ = ["Contradictions", "add_certified_columns"]


@dataclass
class Contradictions:
    """Attacks that contradict certificates: by cell, a line for each such certificate.

    Attributes:
        of_proofs: Those of proofs, which no attack can contradict.
        of_smoothing: Those of certificates by smoothing, each of which may be wrong by chance.
    """

    of_proofs: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    of_smoothing: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))


class _Compared(NamedTuple):
    """The images of a cell beside its certificates.

    Attributes:
        right: ``(N,)`` the share of draws in which each attacked image is right.
        known: ``(N,)`` whether a certificate has the image.
        certified: ``(N,)`` whether it is certified at the cell's radius.
    """

    right: Floats
    known: NDArray[np.bool_]
    certified: NDArray[np.bool_]

    @property
    def accuracy(self) -> float:
        """The certified accuracy over the images that a certificate has; NaN without any."""
        return float(self.certified[self.known].mean()) if self.known.any() else math.nan

    @property
    def gap(self) -> float:
        """The share of these images that are neither certified nor broken; NaN without any."""
        return float((self.right * ~self.certified)[self.known].mean()) if self.known.any() else math.nan


_FLAG = "certificate-contradicted"
"""The check whose flag is added here, since only here certificates and attacks are compared."""


def add_certified_columns(
    table: pd.DataFrame, cells: Iterable[tuple[Cell, Callable[[], Outcomes]]], models: Sequence[CertifiedModel]
) -> Contradictions:
    """Adds the columns ``certified_accuracy`` and ``certified_gap``, where a row has a certificate in its norm.

    Image by image, a prediction that is certified is right, and one that is right was not broken: certified <= true <= robust
    accuracy. ``certified_gap`` is the share of images that neither a certificate nor an attack decides. Both columns are over the
    images that a certificate has. A worst case over attacks counts what any of them broke.

    Args:
        table: The table of stored results; see :func:`~.rows.rows`. It is changed.
        cells: The cells in the table, each with a function that reads its outcomes.
        models: The certificates of the same stores.

    Returns:
        The contradictions between attacks and certificates. The rows of these attacks get the flag ``certificate-contradicted``.
    """
    contradictions = Contradictions()
    compared: dict[str, _Compared] = {}
    groups: dict[str, Hashable] = {}
    worst: dict[Hashable, _Compared] = {}
    for cell, read in cells:
        certificates = certificates_of(cell, models)
        if not certificates:
            continue
        outcomes = read()
        for model in certificates:
            if line := contradiction(cell, outcomes, model):
                (contradictions.of_proofs if is_proof(model) else contradictions.of_smoothing)[cell.id].append(line)
        right = outcomes.right_shares
        mine = _Compared(right, *certified_images(cell, outcomes.labels, certificates))
        group = model_and_threat(cell)
        compared[cell.id], groups[cell.id] = mine, group
        worst[group] = mine._replace(right=np.minimum(right, worst[group].right)) if group in worst else mine
    if contradicted := {*contradictions.of_proofs, *contradictions.of_smoothing}:
        _add_flags(table, contradicted, groups)
    if any(entry.known.any() for entry in compared.values()):
        entries, group = [], None
        for cell_id, attack in zip(table["cell"], table["attack"], strict=True):
            # A worst case has no cell of its own, and comes after its attacks.
            group = group if attack == WORST_CASE else groups.get(cell_id)
            entries.append(worst.get(group) if attack == WORST_CASE else compared.get(cell_id))
        for name in ("accuracy", "gap"):
            table[f"certified_{name}"] = [math.nan if entry is None else getattr(entry, name) for entry in entries]
    return contradictions


def _add_flags(table: pd.DataFrame, cells: Collection[str], groups: Mapping[str, Hashable]) -> None:
    """Flags the cells whose attacks contradict a certificate, and the worst cases over these attacks.

    Args:
        table: The table, which is changed.
        cells: The cells.
        groups: The model and threat of each cell that has a certificate.
    """
    flagged = {groups[cell] for cell in cells}
    group: Hashable = None
    column: list[str] = []
    for cell, attack, flags in zip(table["cell"], table["attack"], table["flags"], strict=True):
        # A worst case comes after its attacks.
        group = group if attack == WORST_CASE else groups.get(cell)
        contradicts = cell in cells or (attack == WORST_CASE and group in flagged)
        column.append(";".join(filter(None, (flags, _FLAG))) if contradicts else flags)
    table["flags"] = column

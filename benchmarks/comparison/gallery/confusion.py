"""The confusion table of the gallery: which tool notices which broken defense, and which check doubts an honest model."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from robustbench_cli.benchmarks.comparison.gallery import broken_defenses, honest_models
from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import examples
from robustbench_cli.benchmarks.comparison.gallery.base.examine import (
    EPS,
    IMAGES,
    audited,
    images_for,
    true_accuracy,
)
from robustbench_cli.benchmarks.comparison.gallery.base.honest_model import DATASET, HonestModel
from robustbench_cli.benchmarks.comparison.gallery.base.other_tools import autoattack_flags
from robustbench_cli.benchmarks.comparison.tables import markdown
from robustbench_cli.benchmarks.datasets.base.load import load_dataset
from robustbench_cli.benchmarks.datasets.base.slice import first_examples
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Budget
from robustbench_cli.core.atomic_write import write_atomically
from robustbench_cli.core.errors import UserError, did_you_mean

__all__ = [
    "Alarms",
    "Noticed",
    "alarms_table",
    "compare_gallery",
    "examine_broken",
    "examine_honest",
    "noticed_table",
    "selected",
    "write_between_marks",
]

BEGIN, END = "<!-- the tables of make gallery -->", "<!-- end of the tables -->"
"""The lines between which a document holds the tables."""


@dataclass(frozen=True, kw_only=True)
class Noticed:
    """What the tools notice in a broken defense.

    Attributes:
        name: The defense.
        made_for_it: The checks that were made for its trick.
        checks: The checks that noticed something.
        under_pgd: The robust accuracy under the baseline attack of the audit; NaN where the model is refused.
        truth: The robust accuracy under the attack made for it.
        autoattack: The flags of AutoAttack; ``None`` without it.
    """

    name: str
    made_for_it: Sequence[str]
    checks: Sequence[str]
    under_pgd: float
    truth: float
    autoattack: Sequence[str] | None

    @property
    def expected(self) -> list[str]:
        """The checks that noticed it and were made for it."""
        return [check for check in self.made_for_it if check in self.checks]


@dataclass(frozen=True, kw_only=True)
class Alarms:
    """The false alarms of an honest model.

    Attributes:
        name: The model.
        seeds: The number of trainings.
        by_check: How many of them each check doubted.
    """

    name: str
    seeds: int
    by_check: Counter[str] = field(default_factory=Counter)


def examine_broken(name: str, *, budget: Budget = "standard") -> Noticed:
    """Audits a broken defense, attacks it by the attack made for it, and asks AutoAttack.

    Args:
        name: The defense.
        budget: Of the audit.
    """
    kind = broken_defenses()[name]
    model = kind(shape=(1, 8, 8), classes=10).eval()
    images, labels = examples("test")
    unknown = slice(kind.first_unknown, kind.first_unknown + IMAGES)
    count = images_for(model, images)
    found = audited(model, images[:count], labels[:count], budget=budget, training=partial(examples, "train"))
    return Noticed(
        name=name,
        made_for_it=kind.noticed_by,
        checks=sorted(found.findings),
        under_pgd=found.robust_accuracy,
        truth=true_accuracy(model, images[unknown], labels[unknown]),
        autoattack=autoattack_flags(model, images[:count], labels[:count], eps=EPS),
    )


def examine_honest(name: str, model: HonestModel, *, seeds: int, budget: Budget = "standard") -> Alarms:
    """Audits an honest model, trained with several seeds.

    Args:
        name: Its name.
        model: The model.
        seeds: The number of trainings.
        budget: Of the audits.
    """
    data = load_dataset(model.dataset)
    alarms = Alarms(name=name, seeds=seeds)
    for seed in range(seeds):
        trained = model.trained(seed)
        split = data.split("test")
        few = first_examples(split, images_for(trained, split.first(4)[0]))
        found = audited(
            trained,
            few.images,
            few.labels,
            budget=budget,
            seed=seed,
            training=partial(examples, "train") if model.dataset == DATASET else None,
        )
        alarms.by_check.update(found.findings.keys())
        for finding in found.findings.values():
            print(f"{name}, seed {seed}: {finding.check}: {finding.evidence}", file=sys.stderr, flush=True)
    return alarms


def noticed_table(rows: Sequence[Noticed]) -> str:
    """The table of the broken defenses.

    Args:
        rows: What was noticed.
    """
    lines = [
        (
            row.name,
            "" if math.isnan(row.under_pgd) else f"{row.under_pgd:.2f}",
            f"{row.truth:.2f}",
            ", ".join(row.expected) or "**missed**",
            ", ".join(check for check in row.checks if check not in row.expected),
            "not run" if row.autoattack is None else ", ".join(row.autoattack),
        )
        for row in rows
    ]
    columns = ("broken defense", "PGD", "truth", "check made for it", "other checks", "AutoAttack's flags")
    return markdown(columns, lines)


def alarms_table(rows: Sequence[Alarms]) -> str:
    """The table of the honest models.

    Args:
        rows: Their false alarms.
    """
    lines = [
        (row.name, str(row.seeds), ", ".join(f"{check} {count}" for check, count in sorted(row.by_check.items())))
        for row in rows
    ]
    return markdown(("honest model", "seeds", "false alarms"), lines)


def summary(noticed: Sequence[Noticed], alarms: Sequence[Alarms]) -> str:
    """The counts of both tables, in one line each.

    Args:
        noticed: The broken defenses.
        alarms: The honest models.
    """
    lines = []
    if noticed:
        ours = sum(bool(row.expected) for row in noticed)
        lines.append(f"- The checks made for them notice {ours} of {len(noticed)} broken defenses.")
        flagged = [row.autoattack for row in noticed if row.autoattack is not None]
        if flagged:
            lines.append(f"- AutoAttack flags {sum(map(bool, flagged))} of {len(flagged)}.")
    if alarms:
        trainings, raised = sum(row.seeds for row in alarms), sum(row.by_check.total() for row in alarms)
        lines.append(f"- {len(alarms)} honest models, trained {trainings} times, have {raised} false alarms.")
    return "\n".join(lines)


def selected(only: Sequence[str]) -> tuple[list[str], list[str]]:
    """The names of broken defenses and of honest models among those that a user named; all if none.

    Args:
        only: Names.

    Raises:
        UserError: The gallery has no such model.

    >>> selected(["one-hot", "trades"])
    (['one-hot'], ['trades'])
    """
    broken, honest = list(broken_defenses()), list(honest_models())
    for name in only:
        if name not in {*broken, *honest}:
            raise UserError(f"the gallery has no {name!r}: {did_you_mean(name, [*broken, *honest])}")
    if not only:
        return broken, honest
    return [name for name in broken if name in only], [name for name in honest if name in only]


def compare_gallery(only: Sequence[str], *, seeds: int, budget: Budget, document: Path | None) -> None:
    """Prints what the tools notice in the gallery.

    Args:
        only: The models; all if empty.
        seeds: The trainings of each honest model.
        budget: Of the audits.
        document: A file that receives the tables between two marks.

    Raises:
        UserError: The gallery has no such model, or the document has no marks.
    """
    broken, honest = selected(only)
    noticed = []
    for name in broken:
        noticed.append(examine_broken(name, budget=budget))
        print(name, ", ".join(noticed[-1].checks) or "nothing", file=sys.stderr, flush=True)
    alarms = [examine_honest(name, honest_models()[name], seeds=seeds, budget=budget) for name in honest]
    parts = [
        summary(noticed, alarms),
        *([noticed_table(noticed)] if noticed else []),
        *([alarms_table(alarms)] if alarms else []),
    ]
    text = "\n\n".join(parts)
    print(f"\n{text}")
    if document is not None:
        write_between_marks(document, text)


def write_between_marks(document: Path, text: str) -> None:
    """Replaces what stands between two marks in a document.

    Args:
        document: A Markdown file with the lines :data:`BEGIN` and :data:`END`.
        text: Goes between them.

    Raises:
        UserError: The document does not have both marks, in this order.
    """
    before, begin, rest = document.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"{document} has no lines {BEGIN!r} and {END!r}: add them where the tables belong")
    write_atomically(document, f"{before}{BEGIN}\n\n{text}\n\n{END}{after}".encode())

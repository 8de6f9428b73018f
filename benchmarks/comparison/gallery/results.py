"""What was noticed in the models of the gallery: a file with a line per audit, and the tables made from it."""

from __future__ import annotations

import datetime as dt
import platform
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from robustbench_cli.benchmarks.comparison.gallery import broken_defenses, honest_models
from robustbench_cli.benchmarks.comparison.tables import markdown
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Budget
from robustbench_cli.core.errors import UserError, did_you_mean, one_line

__all__ = ["Entry", "Unit", "alarms_table", "noticed_table", "read_entries", "summary", "text_of"]


class Unit(NamedTuple):
    """One audit.

    Attributes:
        name: The model.
        seed: The seed of an honest model's training; ``None`` for a broken defense.
        budget: The budget of the audit.
    """

    name: str
    seed: int | None = None
    budget: Budget = "standard"

    def __str__(self) -> str:
        return self.name if self.seed is None else f"{self.name}, seed {self.seed}"


def _software() -> str:
    return f"Python {platform.python_version()} and torch {torch.__version__}"


def _today() -> str:
    return dt.datetime.now(dt.UTC).date().isoformat()


class Entry(BaseModel):
    """What the tools noticed in one model, as a line of the file.

    Attributes:
        unit: The audit.
        evidence: The evidence of each check that noticed something, by its name.
        under_pgd: The robust accuracy under the baseline attack of the audit; ``None`` where the model is refused.
        truth: The robust accuracy of a broken defense under the attack made for it.
        autoattack: The flags of AutoAttack on a broken defense; ``None`` without it.
        error: Why there is no result, in one line; empty if there is one.
        seconds: The processor time of the audit, the training included where it was not cached.
        day: The date.
        software: The versions of Python and torch.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    unit: Unit
    evidence: Mapping[str, str] = {}
    under_pgd: float | None = None
    truth: float | None = None
    autoattack: tuple[str, ...] | None = None
    error: str = ""
    seconds: float = 0
    day: str = Field(default_factory=_today)
    software: str = Field(default_factory=_software)

    @property
    def expected(self) -> list[str]:
        """The checks that noticed a broken defense and were made for it."""
        return [check for check in broken_defenses()[self.unit.name].noticed_by if check in self.evidence]


def read_entries(paths: Sequence[Path]) -> list[Entry]:
    """The entries of some files.

    Args:
        paths: The files.

    Raises:
        UserError: A file cannot be read, a line is no entry or names no model of the gallery, or two lines have the same audit.
    """
    entries: dict[Unit, Entry] = {}
    for path in paths:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read {path}: {one_line(error)}") from error
        for number, line in enumerate(lines, 1):
            try:
                entry = Entry.model_validate_json(line)
            except ValidationError as error:
                raise UserError(
                    f"{path}, line {number} is no result of the gallery: give a file of --results"
                ) from error
            models = broken_defenses() if entry.unit.seed is None else honest_models()
            if entry.unit.name not in models:
                raise UserError(
                    f"{path}, line {number}: no model {entry.unit.name!r}: {did_you_mean(entry.unit.name, models)}"
                )
            if entry.unit in entries:
                raise UserError(f"{path}, line {number}: {entry.unit} was audited twice: keep one of the two")
            entries[entry.unit] = entry
    return list(entries.values())


def noticed_table(entries: Sequence[Entry]) -> str:
    """The table of the broken defenses, in alphabetical order.

    Args:
        entries: Of broken defenses.
    """
    columns = ("broken defense", "PGD", "truth", "check made for it", "other checks", "AutoAttack's flags")
    return markdown(columns, [_noticed_row(entry) for entry in sorted(entries, key=lambda entry: entry.unit)])


def _noticed_row(entry: Entry) -> tuple[str, ...]:
    if entry.error:
        return entry.unit.name, "", "", f"error: {_cell(entry.error)}", "", ""
    return (
        entry.unit.name,
        _two_places(entry.under_pgd),
        _two_places(entry.truth),
        ", ".join(entry.expected) or "**missed**",
        ", ".join(sorted(set(entry.evidence).difference(entry.expected))),
        "not run" if entry.autoattack is None else ", ".join(entry.autoattack),
    )


def _two_places(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _cell(text: str) -> str:
    """A text with its bars escaped, which would end a cell of a Markdown table."""
    return text.replace("|", "\\|")


def alarms_table(entries: Sequence[Entry]) -> str:
    """The table of the honest models, in alphabetical order.

    Args:
        entries: Of honest models.
    """
    by_name: dict[str, list[Entry]] = defaultdict(list)
    for entry in sorted(entries, key=lambda entry: entry.unit):
        by_name[entry.unit.name].append(entry)
    rows = []
    for name, trainings in by_name.items():
        alarms = Counter(check for entry in trainings for check in entry.evidence)
        texts = [f"{check} {count}" for check, count in sorted(alarms.items())]
        texts += [f"error, seed {entry.unit.seed}: {_cell(entry.error)}" for entry in trainings if entry.error]
        rows.append((name, str(len(trainings)), ", ".join(texts)))
    return markdown(("honest model", "trainings", "false alarms"), rows)


def summary(entries: Sequence[Entry], missing: Sequence[Unit]) -> str:
    """The counts of both tables, what is missing, and where the counts come from, in one line each.

    Args:
        entries: The audits that were made.
        missing: The audits that were not.
    """
    broken, honest = _broken_and_honest(entries)
    lines = []
    if broken:
        ours = sum(bool(entry.expected) for entry in broken)
        lines.append(f"- The checks made for them notice {ours} of {len(broken)} broken defenses.")
        flagged = [entry.autoattack for entry in broken if entry.autoattack is not None]
        if flagged:
            lines.append(f"- AutoAttack flags {sum(map(bool, flagged))} of {len(flagged)}.")
    if honest:
        doubted, raised = sum(bool(entry.evidence) for entry in honest), sum(len(entry.evidence) for entry in honest)
        models = len({entry.unit.name for entry in honest})
        lines.append(f"- False alarms on {models} honest models: {raised}, in {doubted} of {len(honest)} trainings.")
    failed = sum(bool(entry.error) for entry in entries)
    if failed:
        lines.append(f"- Audits that ended with an error: {failed}.")
    if missing:
        lines.append(f"- Not audited: {'; '.join(_by_name(missing))}.")
    lines += [
        f"- Audits with the budget {budget} on {day}, {software}: {count}."
        for (day, budget, software), count in sorted(
            Counter((entry.day, entry.unit.budget, entry.software) for entry in entries).items()
        )
    ]
    return "\n".join(lines)


def _broken_and_honest(entries: Sequence[Entry]) -> tuple[list[Entry], list[Entry]]:
    """The entries of broken defenses, and those of honest models."""
    broken = [entry for entry in entries if entry.unit.seed is None]
    honest = [entry for entry in entries if entry.unit.seed is not None]
    return broken, honest


def _by_name(units: Sequence[Unit]) -> list[str]:
    """Each model once, with its seeds."""
    seeds: dict[str, list[str]] = defaultdict(list)
    for unit in sorted(units):
        seeds[unit.name] += [] if unit.seed is None else [str(unit.seed)]
    return [f"{name}, seed {' '.join(numbers)}" if numbers else name for name, numbers in seeds.items()]


def text_of(entries: Sequence[Entry], missing: Sequence[Unit]) -> str:
    """The summary and the tables.

    Args:
        entries: The audits that were made.
        missing: The audits that were not.
    """
    broken, honest = _broken_and_honest(entries)
    parts = [
        summary(entries, missing),
        *([noticed_table(broken)] if broken else []),
        *([alarms_table(honest)] if honest else []),
    ]
    return "\n\n".join(parts)

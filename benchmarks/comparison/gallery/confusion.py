"""The confusion table of the gallery: which tool notices which broken defense, and which check doubts an honest model."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
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
from robustbench_cli.benchmarks.comparison.gallery.base.honest_model import DATASET
from robustbench_cli.benchmarks.comparison.gallery.base.other_tools import autoattack_flags
from robustbench_cli.benchmarks.comparison.gallery.processes import Failed, in_processes
from robustbench_cli.benchmarks.comparison.gallery.results import Entry, Unit, read_entries, text_of
from robustbench_cli.benchmarks.datasets.base.load import load_dataset
from robustbench_cli.benchmarks.datasets.base.slice import first_examples
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Budget
from robustbench_cli.core.atomic_write import write_atomically
from robustbench_cli.core.errors import UserError, did_you_mean, one_line

__all__ = ["GalleryRun", "examine", "run_gallery", "selected", "units_of", "write_between_marks"]

BEGIN, END = "<!-- the tables of make gallery -->", "<!-- end of the tables -->"
"""The lines between which a document holds the tables."""

_SLOW_FIRST = 4
"""The trainings of each slow model that are audited first."""

_IMPORTED_LATE = ("scipy.special", "torch._dynamo")
"""Imports that the checks and torch's optimizers delay until their first use; they take two seconds per process."""


@dataclass(frozen=True, kw_only=True)
class GalleryRun:
    """What a run audits, and where its results go.

    Attributes:
        only: The models; all if empty.
        seeds: The trainings of each honest model.
        first_seed: The seed of the first training; the others follow it.
        budget: The budget of the audits.
        jobs: The number of processes.
        seconds: The time limit of the run.
        read: Files of results from which the tables are made; nothing is audited where there are any.
        results: A file to which each result is written at once; ``None`` for none, and with ``read``.
        document: A file into which the tables are written, between two marks.
    """

    only: Sequence[str] = ()
    seeds: int = 20
    first_seed: int = 0
    budget: Budget = "standard"
    jobs: int = 1
    seconds: float = math.inf
    read: Sequence[Path] = ()
    results: Path | None = None
    document: Path | None = None


def examine(unit: Unit) -> Entry:
    """Audits a model of the gallery. A broken defense is also attacked by the attack made for it, and checked by AutoAttack.

    Args:
        unit: The audit.
    """
    started = time.process_time()
    entry = _broken(unit) if unit.seed is None else _honest(unit, unit.seed)
    return entry.model_copy(update={"seconds": round(time.process_time() - started, 1)})


def _broken(unit: Unit) -> Entry:
    kind = broken_defenses()[unit.name]
    model = kind(shape=(1, 8, 8), classes=10).eval()
    images, labels = examples("test")
    unknown = slice(kind.first_unknown, kind.first_unknown + IMAGES)
    count = images_for(model, images)
    # Measured first, since a model may remember the queries of the audit outside of itself.
    truth = true_accuracy(model, images[unknown], labels[unknown])
    found = audited(model, images[:count], labels[:count], budget=unit.budget, training=partial(examples, "train"))
    return Entry(
        unit=unit,
        evidence={check: finding.evidence for check, finding in sorted(found.findings.items())},
        under_pgd=None if math.isnan(found.robust_accuracy) else found.robust_accuracy,
        truth=truth,
        autoattack=autoattack_flags(model, images[:count], labels[:count], eps=EPS),
    )


def _honest(unit: Unit, seed: int) -> Entry:
    model = honest_models()[unit.name]
    split, trained = load_dataset(model.dataset).split("test"), model.trained(seed)
    few = first_examples(split, images_for(trained, split.first(4)[0]))
    found = audited(
        trained,
        few.images,
        few.labels,
        budget=unit.budget,
        seed=seed,
        training=partial(examples, "train") if model.dataset == DATASET else None,
    )
    return Entry(
        unit=unit,
        evidence={check: finding.evidence for check, finding in sorted(found.findings.items())},
        under_pgd=found.robust_accuracy,
    )


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


def units_of(run: GalleryRun) -> list[Unit]:
    """The audits of a run, in the order in which they begin.

    The long audits come first. But most trainings of each slow model come last, so that a run lacks only some of these when its
    time limit ends it.

    Args:
        run: The run.

    Raises:
        UserError: The gallery has no such model.

    >>> [(unit.name, unit.seed) for unit in units_of(GalleryRun(only=["one-hot", "trades"], seeds=2))]
    [('one-hot', None), ('trades', 0), ('trades', 1)]
    """
    broken, honest = selected(run.only)
    seeds = range(run.first_seed, run.first_seed + run.seeds)
    units = [Unit(name, seed, run.budget) for name in honest for seed in seeds]
    units += [Unit(name, budget=run.budget) for name in broken]
    return sorted(units, key=partial(_order, first_seed=run.first_seed))


def _order(unit: Unit, first_seed: int) -> tuple[int, int]:
    """The key by which :func:`units_of` sorts."""
    if unit.seed is None:
        return 1, 0
    if not honest_models()[unit.name].slow:
        return 2, unit.seed
    return (0 if unit.seed < first_seed + _SLOW_FIRST else 3), unit.seed


def run_gallery(run: GalleryRun) -> None:
    """Audits models of the gallery in several processes, and prints what was noticed.

    Args:
        run: What is audited.

    Raises:
        UserError: The gallery has no such model, a file of results is damaged, the document has no marks, or results are both
            read and written.
    """
    units = units_of(run)
    if run.read and run.results is not None:
        raise UserError(f"--read audits nothing, so {run.results} would stay empty: leave out --results")
    if run.document is not None:
        _around_the_tables(run.document)
    entries = read_entries(run.read) if run.read else _audited(run, units)
    done = {entry.unit for entry in entries}
    text = text_of(entries, [unit for unit in sorted(units, key=str) if unit not in done])
    print(f"\n{text}")
    if run.document is not None:
        write_between_marks(run.document, text)


def _audited(run: GalleryRun, units: Sequence[Unit]) -> list[Entry]:
    """The results of some audits, in the order in which they ended."""
    started, entries = time.monotonic(), []
    if run.results is not None:
        write_atomically(run.results, b"")
    for unit, result in in_processes(
        examine, units, jobs=run.jobs, deadline=started + run.seconds, preload=_IMPORTED_LATE
    ):
        entry = Entry(unit=unit, error=result.reason) if isinstance(result, Failed) else result
        entries.append(entry)
        if run.results is not None:
            # Opened for each line, so that it is stored even if this process is killed.
            with run.results.open("a", encoding="utf-8") as file:
                file.write(f"{entry.model_dump_json()}\n")
        print(
            f"[{len(entries)}/{len(units)}, {time.monotonic() - started:.0f} s] {unit}: "
            f"{entry.error or ', '.join(entry.evidence) or 'nothing'}",
            file=sys.stderr,
            flush=True,
        )
    return entries


def write_between_marks(document: Path, text: str) -> None:
    """Replaces what stands between two marks in a document.

    Args:
        document: A Markdown file with the lines :data:`BEGIN` and :data:`END`.
        text: Goes between them.

    Raises:
        UserError: The document does not have both marks, in this order.
    """
    before, after = _around_the_tables(document)
    write_atomically(document, f"{before}{BEGIN}\n\n{text}\n\n{END}{after}".encode())


def _around_the_tables(document: Path) -> tuple[str, str]:
    """What a document has before and after the marks; raises as :func:`write_between_marks` does."""
    try:
        before, begin, rest = document.read_text(encoding="utf-8").partition(BEGIN)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {document}: {one_line(error)}") from error
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"{document} has no lines {BEGIN!r} and {END!r}: add them where the tables belong")
    return before, after

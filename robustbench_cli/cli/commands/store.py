"""``advdef store``: verifies, merges and prunes folders of results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from robustbench_cli.cli import console
from robustbench_cli.cli.exit_codes import CellsFailed
from robustbench_cli.cli.options import command, named_stores, option
from robustbench_cli.cli.param_types import OneOf
from robustbench_cli.core.errors import UserError

if TYPE_CHECKING:
    from robustbench_cli.benchmarks.store.store import Store

__all__ = ["store"]

HOUR = 3600.0


@command("store")
@click.argument("action", type=OneOf(("verify", "merge", "prune")), metavar="verify|merge|prune")
@named_stores
@option("--dry-run", is_flag=True, group="Store", help="With 'prune': print what would be removed, and remove nothing.")
@option("--unfinished", is_flag=True, group="Store", help="With 'prune': forget the cells that failed or are missing.")
def store(
    action: Literal["verify", "merge", "prune"], stores: tuple[Path, ...], dry_run: bool, unfinished: bool
) -> None:
    """Verify, merge or prune stores: folders of results.

    'verify STORE ...' reads every file and names the damaged ones (exit code 3). 'merge FROM ... INTO' copies the results
    that INTO lacks. 'prune STORE ...' removes files that are older than an hour and that no result needs: half-written
    files, and failures of cells that have a result now. The default store is ./advdef-runs, or what ADVDEF_STORE or pyproject.toml
    names.
    """
    for name, value in (("--dry-run", dry_run), ("--unfinished", unfinished)):
        if value and action != "prune":
            raise UserError(f"{name} is for 'advdef store prune', and {action} removes nothing: leave it out")
    if action == "merge":
        _merge(stores)
    elif action == "verify":
        _verify(stores)
    else:
        _prune(stores, dry_run=dry_run, unfinished=unfinished)


def _verify(folders: Sequence[Path]) -> None:
    from robustbench_cli.benchmarks.store.store import Store
    from robustbench_cli.benchmarks.store.together import verified

    damaged: list[str] = []

    def collect(error: UserError) -> None:
        damaged.append(str(error))

    for folder in folders:
        results = failures = batch_results = 0
        before = len(damaged)
        missing = Store(folder).missing(damaged=collect)
        for store in _with_searches(folder):
            results += sum(1 for _ in verified(store, damaged=collect))
            failures += len(list(store.failures(damaged=collect)))
            batch_results += _partial_results(store.path, collect)
        counts = [f"{results} results", f"{failures} failures", *_other_results(folder, collect)]
        counts += [f"{batch_results} partial results of unfinished cells"] if batch_results else []
        counts += [f"{len(missing)} cells missing"] if missing else []
        console.report(f"{folder}: {', '.join(counts)}, {len(damaged) - before} damaged")
    if damaged:
        raise CellsFailed(damaged)


def _partial_results(folder: Path, damaged: Callable[[UserError], None]) -> int:
    """The number of partial results of unfinished cells in a store."""
    from robustbench_cli.benchmarks.store.store import PARTIAL_RESULTS

    # Its module imports torch, so it is imported only if there is something to read.
    if not (folder / PARTIAL_RESULTS).is_dir():
        return 0
    from robustbench_cli.benchmarks.store.unfinished import complete_partial_results

    return len(list(complete_partial_results(folder, damaged=damaged)))


def _other_records(folder: Path) -> Iterator[tuple[str, Any]]:
    """What a store has besides cells: its name in the plural, and what reads, copies and prunes it."""
    from robustbench_cli.benchmarks.store.store import AUDITS, CERTIFICATION, REPROGRAMMING

    # The first two import torch, so they are imported only if there is something to read.
    if (folder / CERTIFICATION).is_dir():
        from robustbench_cli.benchmarks.certification import records as certification

        yield "certifications", certification
    if (folder / REPROGRAMMING).is_dir():
        from robustbench_cli.benchmarks.reprogramming import records as reprogramming

        yield "reprogrammings", reprogramming.RECORDS
    if (folder / AUDITS).is_dir():
        from robustbench_cli.benchmarks.audit import records as audits

        yield "results of checks", audits.RECORDS


def _other_results(folder: Path, damaged: Callable[[UserError], None]) -> list[str]:
    """The numbers of what a store has besides cells."""
    counts = []
    for name, records in _other_records(folder):
        if name == "certifications":
            done, interrupted = records.counted(folder, damaged=damaged)
            counts.append(f"{done} {name}")
            counts += [f"{interrupted} {name} interrupted"] if interrupted else []
        else:
            counts.append(f"{len(list(records.stored(folder, damaged=damaged)))} {name}")
    return counts


def _merge(folders: Sequence[Path]) -> None:
    from robustbench_cli.benchmarks.store.merge import merge
    from robustbench_cli.benchmarks.store.store import PARTIAL_RESULTS

    if len(folders) < 2:
        raise UserError("advdef store merge: give the stores to copy from and, last, the one to copy into")
    *sources, into = folders
    if into.resolve() in {source.resolve() for source in sources}:
        raise UserError(f"{into} is among the stores to copy from: name it last, and once")
    damaged: list[str] = []

    def collect(error: UserError) -> None:
        damaged.append(str(error))

    for source in sources:
        copied = 0
        for store in _with_searches(source):
            target = type(store)(into / store.path.relative_to(source))
            copied += merge(target, store, damaged=collect)
            if (store.path / PARTIAL_RESULTS).is_dir():
                from robustbench_cli.benchmarks.store.unfinished import merge_partial_results

                merge_partial_results(target.path, store.path, damaged=collect)
        counts = [f"{copied} results"]
        counts += [f"{records.take(into, source, damaged=collect)} {name}" for name, records in _other_records(source)]
        console.report(f"{into}: {', '.join(counts)} from {source}")
    if damaged:
        raise CellsFailed(damaged)


def _prune(folders: Sequence[Path], *, dry_run: bool, unfinished: bool) -> None:
    from robustbench_cli.benchmarks.store.leases import Leases
    from robustbench_cli.benchmarks.store.leftovers import leftovers
    from robustbench_cli.benchmarks.store.store import Store

    for folder in folders:
        holder = Leases(folder).holder
        unneeded = [
            path for store in _with_searches(folder) for path in leftovers(store, older_than=HOUR, holder=holder)
        ]
        for _, records in _other_records(folder):
            unneeded += records.leftovers(folder, older_than=HOUR)
        for path in unneeded:
            if not dry_run:
                path.unlink(missing_ok=True)
            console.report(str(path))
        console.note(f"{folder}: {len(unneeded)} files {'would be removed' if dry_run else 'removed'}")
        if unfinished:
            _forget(Store(folder), dry_run=dry_run)


def _forget(store: Store, *, dry_run: bool) -> None:
    """Forgets the cells that failed or are missing."""
    from robustbench_cli.cli.descriptions import (
        failure_line,
        missing_line,
    )

    lines = [failure_line(failure) for failure in store.failures(damaged=lambda _: None)]
    lines += [missing_line(entry) for entry in store.missing(damaged=lambda _: None).values()]
    for line in lines:
        console.report(line)
    if not dry_run:
        store.forget_unfinished()
    console.note(f"{store.path}: {len(lines)} cells {'would be forgotten' if dry_run else 'forgotten'}")


def _with_searches(folder: Path) -> Iterator[Store]:
    """A store, and the store inside it with the searches of minimal-norm attacks."""
    from robustbench_cli.benchmarks.store.store import SEARCHES, Store

    yield Store(folder)
    if Store(folder / SEARCHES).exists:
        yield Store(folder / SEARCHES)

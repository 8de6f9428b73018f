"""``advdef store``: verifies, merges and prunes folders of results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from robustbench_cli.cli import console
from robustbench_cli.cli.exit_codes import CellsFailed
from robustbench_cli.cli.options import command, option, stores_or_default
from robustbench_cli.cli.param_types import OneOf
from robustbench_cli.core.errors import UserError

if TYPE_CHECKING:
    from robustbench_cli.benchmarks.store.store import Store

__all__ = ["store"]

HOUR = 3600.0


@command("store")
@click.argument("action", type=OneOf(("verify", "merge", "prune")), metavar="verify|merge|prune")
@click.argument("stores", nargs=-1, type=click.Path(file_okay=False, path_type=Path), metavar="[STORE ...]")
@option("--dry-run", is_flag=True, group="Store", help="With 'prune': print what would be removed, and remove nothing.")
@option("--unfinished", is_flag=True, group="Store", help="With 'prune': forget the cells that failed or are missing.")
def store(
    action: Literal["verify", "merge", "prune"], stores: tuple[Path, ...], dry_run: bool, unfinished: bool
) -> None:
    """Verify, merge or prune stores: folders of results.

    'verify STORE ...' reads every file and names the damaged ones (exit code 3). 'merge FROM ... INTO' copies the results
    that INTO lacks. 'prune STORE ...' removes files that are older than an hour and that no result needs: half-written
    files, and failures of cells that have a result now. The default store is ADVDEF_STORE, or ./advdef-runs.
    """
    for name, value in (("--dry-run", dry_run), ("--unfinished", unfinished)):
        if value and action != "prune":
            raise UserError(f"{name} is for 'advdef store prune', and {action} removes nothing: leave it out")
    if action == "merge":
        _merge(stores)
    elif action == "verify":
        _verify(stores_or_default(stores))
    else:
        _prune(stores_or_default(stores), dry_run=dry_run, unfinished=unfinished)


def _verify(folders: Sequence[Path]) -> None:
    from robustbench_cli.benchmarks.store.store import Store

    damaged: list[str] = []

    def tell(error: UserError) -> None:
        damaged.append(str(error))

    for folder in folders:
        results = failures = batch_results = 0
        before = len(damaged)
        missing = Store(folder).missing(damaged=tell)
        for store in _with_searches(folder):
            for result in store.results(damaged=tell):
                try:
                    store.outcomes(result.cell.id)
                except UserError as error:
                    tell(error)
                else:
                    results += 1
            failures += len(list(store.failures(damaged=tell)))
            batch_results += _partial_results(store.path, tell)
        counts = [f"{results} results", f"{failures} failures", *_others(folder, tell)]
        counts += [f"{batch_results} pieces of unfinished cells"] if batch_results else []
        counts += [f"{len(missing)} cells missing"] if missing else []
        console.report(f"{folder}: {', '.join(counts)}, {len(damaged) - before} damaged")
    if damaged:
        raise CellsFailed(damaged)


def _partial_results(folder: Path, damaged: Callable[[UserError], None]) -> int:
    """How much a store has of cells that are not done."""
    from robustbench_cli.benchmarks.store.store import PARTIAL_RESULTS

    # Each kind of file is read by what computes it, which takes a while to import.
    if not (folder / PARTIAL_RESULTS).is_dir():
        return 0
    from robustbench_cli.benchmarks.evaluation.partial_results import complete_partial_results

    return len(list(complete_partial_results(folder, damaged=damaged)))


def _others(folder: Path, damaged: Callable[[UserError], None]) -> list[str]:
    """How much a store has of what is no cell, in words."""
    from robustbench_cli.benchmarks.store.store import CERTIFICATION, REPROGRAMMING

    counts = []
    if (folder / CERTIFICATION).is_dir():
        from robustbench_cli.benchmarks.certification import certify as certification

        done, interrupted = certification.counted(folder, damaged=damaged)
        counts.append(f"{done} certifications")
        counts += [f"{interrupted} certifications interrupted"] if interrupted else []
    if (folder / REPROGRAMMING).is_dir():
        from robustbench_cli.benchmarks.reprogramming import run as reprogramming

        counts.append(f"{len(list(reprogramming.stored(folder, damaged=damaged)))} reprogrammings")
    return counts


def _merge(folders: Sequence[Path]) -> None:
    from robustbench_cli.benchmarks.store.store import CERTIFICATION, PARTIAL_RESULTS, REPROGRAMMING

    if len(folders) < 2:
        raise UserError("advdef store merge: give the stores to copy from and, last, the one to copy into")
    *sources, into = folders
    if into.resolve() in {source.resolve() for source in sources}:
        raise UserError(f"{into} is among the stores to copy from: name it last, and once")
    damaged: list[str] = []

    def tell(error: UserError) -> None:
        damaged.append(str(error))

    for source in sources:
        copied = 0
        for store in _with_searches(source):
            target = type(store)(into / store.path.relative_to(source))
            copied += target.take(store, damaged=tell)
            if (store.path / PARTIAL_RESULTS).is_dir():
                from robustbench_cli.benchmarks.evaluation.partial_results import merge_partial_results

                merge_partial_results(target.path, store.path, damaged=tell)
        counts = [f"{copied} results"]
        if (source / CERTIFICATION).is_dir():
            from robustbench_cli.benchmarks.certification import certify as certification

            counts.append(f"{certification.take(into, source, damaged=tell)} certifications")
        if (source / REPROGRAMMING).is_dir():
            from robustbench_cli.benchmarks.reprogramming import run as reprogramming

            counts.append(f"{reprogramming.take(into, source, damaged=tell)} reprogrammings")
        console.report(f"{into}: {', '.join(counts)} from {source}")
    if damaged:
        raise CellsFailed(damaged)


def _prune(folders: Sequence[Path], *, dry_run: bool, unfinished: bool) -> None:
    from robustbench_cli.benchmarks.store.leases import Leases
    from robustbench_cli.benchmarks.store.store import CERTIFICATION, REPROGRAMMING, Store

    for folder in folders:
        holder = Leases(folder).holder
        left = [path for store in _with_searches(folder) for path in store.leftovers(older_than=HOUR, at_work=holder)]
        if (folder / CERTIFICATION).is_dir():
            from robustbench_cli.benchmarks.certification import certify as certification

            left += certification.leftovers(folder, older_than=HOUR)
        if (folder / REPROGRAMMING).is_dir():
            from robustbench_cli.benchmarks.reprogramming import run as reprogramming

            left += reprogramming.leftovers(folder, older_than=HOUR)
        for path in left:
            if not dry_run:
                path.unlink(missing_ok=True)
            console.report(str(path))
        console.note(f"{folder}: {len(left)} files {'would be removed' if dry_run else 'removed'}")
        if unfinished:
            _forget(Store(folder), dry_run=dry_run)


def _forget(store: Store, *, dry_run: bool) -> None:
    """Forgets the cells that failed, and those that were asked for and are not there."""
    from robustbench_cli.cli.session import failure_line, missing_line

    lines = [failure_line(failure) for failure in store.failures(damaged=lambda _: None)]
    lines += [missing_line(asked) for asked in store.missing(damaged=lambda _: None).values()]
    for line in lines:
        console.report(line)
    if not dry_run:
        store.forget_unfinished()
    console.note(f"{store.path}: {len(lines)} cells {'would be forgotten' if dry_run else 'forgotten'}")


def _with_searches(folder: Path) -> Iterator[Store]:
    """A store, and the one inside it of what minimal-norm attacks found."""
    from robustbench_cli.benchmarks.store.store import SEARCHES, Store

    yield Store(folder)
    if Store(folder / SEARCHES).exists:
        yield Store(folder / SEARCHES)

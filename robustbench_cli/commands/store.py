"""``advdef store``: looks after the folders of results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from robustbench_cli import console
from robustbench_cli.attacks.base.errors import UserError
from robustbench_cli.exits import CellsFailed
from robustbench_cli.options import command, stores_or_default
from robustbench_cli.values import OneOf

if TYPE_CHECKING:
    from robustbench_cli.benchmarks.store import Store

__all__ = ["store"]

HOUR = 3600.0


@command("store")
@click.argument("action", type=OneOf(("verify", "merge", "prune")), metavar="verify|merge|prune")
@click.argument("stores", nargs=-1, type=click.Path(file_okay=False, path_type=Path), metavar="[STORE ...]")
@click.option("--dry-run", is_flag=True, help="Print what 'prune' would remove, and remove nothing.")
def store(action: Literal["verify", "merge", "prune"], stores: tuple[Path, ...], dry_run: bool) -> None:
    """Check, merge or tidy up folders of results.

    'verify STORE ...' reads every file and names the damaged ones (exit code 3). 'merge FROM ... INTO' copies what INTO
    has not yet. 'prune STORE ...' removes what no result needs, an hour after it was written: what kills have left
    half-written, failures of cells that were done since. The store is ADVDEF_STORE, or ./advdef-runs, where none is
    named.
    """
    if dry_run and action != "prune":
        raise UserError(f"--dry-run is for 'advdef store prune', and {action} removes nothing: leave it out")
    if action == "merge":
        _merge(stores)
    elif action == "verify":
        _verify(stores_or_default(stores))
    else:
        _prune(stores_or_default(stores), dry_run=dry_run)


def _verify(folders: Sequence[Path]) -> None:
    damaged: list[str] = []
    for folder in folders:
        results = failures = 0
        before = len(damaged)
        for store in _with_searches(folder):
            for result in store.results(damaged=lambda error: damaged.append(str(error))):
                try:
                    store.outcomes(result.cell.id)
                except UserError as error:
                    damaged.append(str(error))
                else:
                    results += 1
            failures += len(list(store.failures(damaged=lambda error: damaged.append(str(error)))))
        console.report(f"{folder}: {results} results, {failures} failures, {len(damaged) - before} damaged")
    if damaged:
        raise CellsFailed(damaged)


def _merge(folders: Sequence[Path]) -> None:
    if len(folders) < 2:
        raise UserError("advdef store merge: give the stores to copy from and, last, the one to copy into")
    *sources, into = folders
    if into.resolve() in {source.resolve() for source in sources}:
        raise UserError(f"{into} is among the stores to copy from: name it last, and once")
    damaged: list[str] = []
    for source in sources:
        copied = 0
        for store in _with_searches(source):
            target = type(store)(into / store.path.relative_to(source))
            copied += target.take(store, damaged=lambda error: damaged.append(str(error)))
        console.report(f"{into}: {copied} results from {source}")
    if damaged:
        raise CellsFailed(damaged)


def _prune(folders: Sequence[Path], *, dry_run: bool) -> None:
    from robustbench_cli.benchmarks.claims import Claims

    for folder in folders:
        holder = Claims(folder).holder
        left = [path for store in _with_searches(folder) for path in store.leftovers(older_than=HOUR, at_work=holder)]
        for path in left:
            if not dry_run:
                path.unlink(missing_ok=True)
            console.report(str(path))
        console.note(f"{folder}: {len(left)} files {'would be removed' if dry_run else 'removed'}")


def _with_searches(folder: Path) -> Iterator[Store]:
    """A store, and the one inside it of what minimal-norm attacks found."""
    from robustbench_cli.benchmarks.store import Store
    from robustbench_cli.benchmarks.worker import SEARCHES

    yield Store(folder)
    if (folder / SEARCHES).is_dir():
        yield Store(folder / SEARCHES)

"""Reads the outcomes of several results at once, which takes a fraction of the time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import suppress

from robustbench_cli.benchmarks.evaluation.outcomes import Outcomes
from robustbench_cli.benchmarks.store.records import Result
from robustbench_cli.benchmarks.store.store import Store, raise_error
from robustbench_cli.core.errors import UserError

__all__ = ["read_together", "verified"]

_PARSED_AT_ONCE, _PARSED_BYTES = 16, 2**20
"""The most outcomes that are verified together, and the size in bytes above which one is verified at once."""

_ROUNDING = 1e-9
"""By how much an accuracy may differ from that of the outcomes."""


def read_together(
    results: Iterable[Result],
    store_of: Callable[[Result], Store],
    *,
    damaged: Callable[[UserError], None] = raise_error,
) -> tuple[list[Result], Outcomes] | None:
    """Reads the outcomes of the attacks on the same images of one model. Each file is read once.

    Args:
        results: The results of the attacks.
        store_of: The store of each.
        damaged: As for :meth:`Store.results`.

    Returns:
        The results whose outcomes are intact, and these outcomes, stacked; ``None`` if there are none.
    """
    contents: list[tuple[Result, bytes]] = []
    for result in results:
        try:
            contents.append((result, store_of(result).outcomes_content(result)))
        except UserError as error:
            damaged(error)
    if not contents:
        return None
    try:
        return [result for result, _ in contents], Outcomes.from_files([content for _, content in contents])
    except ValueError as error:
        reason = str(error)
    readable: list[Result] = []
    for result, content in contents:
        try:
            store_of(result).parsed(result, content)
        except UserError as error:
            damaged(error)
        else:
            readable.append(result)
    if 0 < len(readable) < len(contents):
        return read_together(readable, store_of, damaged=damaged)
    if readable:
        cells = ", ".join(result.cell.id for result in readable)
        damaged(UserError(f"the outcomes of the cells {cells} are not of the same images ({reason}): run them again"))
    return None


def verified(store: Store, *, damaged: Callable[[UserError], None]) -> Iterator[Result]:
    """All finished cells whose outcomes can be read, not only whose files are as they were stored.

    Args:
        store: The store.
        damaged: As for :meth:`Store.results`.

    Raises:
        UserError: The folder is no store.
    """
    alike: defaultdict[Hashable, list[tuple[Result, bytes]]] = defaultdict(list)
    for result, content in store.with_outcomes_content(damaged=damaged):
        cell = result.cell
        batch = alike[cell.n, cell.repeats, cell.targeted]
        batch.append((result, content))
        if len(batch) == _PARSED_AT_ONCE or len(content) > _PARSED_BYTES:
            yield from _readable(store, batch, damaged)
            batch.clear()
    for batch in filter(None, alike.values()):
        yield from _readable(store, batch, damaged)


def _readable(
    store: Store, batch: Sequence[tuple[Result, bytes]], damaged: Callable[[UserError], None]
) -> Iterator[Result]:
    """The results whose outcomes can be read, and have the accuracies that the results state."""
    together: Outcomes | None = None
    with suppress(ValueError):
        together = Outcomes.from_files([content for _, content in batch])
        # The accuracies are computed together as well, and kept.
        _ = together.clean_right, together.worst_right
    for number, (result, content) in enumerate(batch):
        try:
            outcomes = store.parsed(result, content) if together is None else together.of_attack(number)
            _require_stated_accuracies(store, result, outcomes)
        except UserError as error:
            damaged(error)
        else:
            yield result


def _require_stated_accuracies(store: Store, result: Result, outcomes: Outcomes) -> None:
    """Compares the accuracies that a result states with those of its outcomes.

    Raises:
        UserError: They differ.
    """
    measured = {"clean_accuracy": outcomes.clean_right.mean(), "robust_accuracy": outcomes.worst_right.mean()}
    for name, value in measured.items():
        stated = result.summary[name]
        if stated is None or abs(stated - value) > _ROUNDING:
            raise UserError(
                f"{store.result_file(result.cell.id)} states {stated} as {name}, and its outcomes have {value:.6g}: "
                "remove it, and run the same command again"
            )

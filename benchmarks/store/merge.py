"""Copies what one store has into another."""

from __future__ import annotations

from collections.abc import Callable

from robustbench_cli.benchmarks.store.records import Result
from robustbench_cli.benchmarks.store.store import Store, raise_error
from robustbench_cli.core.errors import UserError

__all__ = ["merge"]

_COPIED_AT_ONCE, _COPIED_BYTES = 64, 2**26
"""How many results, and about how many bytes, are copied before the disk is waited for."""


def merge(into: Store, other: Store, *, damaged: Callable[[UserError], None] = raise_error) -> int:
    """Copies from another store what is missing in a store: results with their outcomes, failures and requests.

    Args:
        into: The store.
        other: The other one, which stays as it is.
        damaged: As for :meth:`Store.results`.

    Returns:
        The number of results that were copied.

    Raises:
        UserError: The store cannot be written, or the other folder is no store.
    """
    other.require_exists()
    into.requests.take(other.requests, damaged=damaged)
    copied = 0
    batch: list[tuple[Result, bytes]] = []
    for result, outcomes in other.with_outcomes_content(damaged=damaged):
        if result.cell not in into:
            batch.append((result, outcomes))
            copied += 1
        if len(batch) == _COPIED_AT_ONCE or sum(len(content) for _, content in batch) > _COPIED_BYTES:
            into.publish_all(batch)
            batch.clear()
    into.publish_all(batch)
    into.remove_replaced_failures()
    for failure in other.failures(damaged=damaged):
        if failure.cell not in into:
            into.publish_failure(failure)
    return copied

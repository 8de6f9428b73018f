"""Counts the combinations of a suite before any is made."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from robustbench_cli.benchmarks.evaluation.options import GridOptions
from robustbench_cli.benchmarks.suites.config import DefenseConfig, SuiteConfig
from robustbench_cli.benchmarks.suites.grid import (
    attack_class,
    count_corruptions,
    count_variants,
    error_location,
)
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses import registry as defenses
from robustbench_cli.defenses.base.training.recipe import Recipe

__all__ = ["MOST_COMBINATIONS", "require_reasonable_size"]

MOST_COMBINATIONS = 200_000
"""The largest suite. Its cells take a minute to list and a gigabyte of memory."""


def require_reasonable_size(config: SuiteConfig) -> None:
    """Makes sure that a suite has few enough combinations to be expanded.

    Args:
        config: The suite, from a file or from the command line.

    Raises:
        UserError: It has more than :data:`MOST_COMBINATIONS`; or an attack or a defense is unknown.
    """
    dimensions = {name: number for name, number in _dimensions(config) if number > 1}
    total = prod(dimensions.values())
    if total > MOST_COMBINATIONS:
        parts = " x ".join(f"{number:,} {name}" for name, number in dimensions.items())
        raise UserError(
            f"the suite has {total:,} combinations ({parts}), more than {MOST_COMBINATIONS:,}: shorten a list, or split "
            "the suite into several files, which may share a store"
        )


def _dimensions(config: SuiteConfig) -> Iterator[tuple[str, int]]:
    """The dimensions of the grid and their sizes; 0 for one that has its default."""
    yield "data sets", len(config.dataset or ())
    yield "models", len(config.model or ())
    yield "defenses", sum(map(_defenses, config.defenses))
    yield "trainings", sum(_trainings(dict(recipe)) for recipe in config.train)
    yield "decision rules", len(config.decision or ())
    yield (
        "attacks" if not any(group.corruptions for group in config.groups) else "attacks and corruptions",
        sum(
            (sum(map(count_corruptions, group.corruptions)) or 1)
            * sum(count_variants(attack_class(entry), entry.parameters) for entry in group.attacks)
            for group in config.groups
        ),
    )
    for name in ("n", "norm", "eps", "seeds", *GridOptions.model_fields):
        yield name, len(getattr(config, name) or ())


def _defenses(chain: tuple[DefenseConfig, ...]) -> int:
    """The number of combinations of the parameters of a chain of defenses."""
    number = 1
    for entry in chain:
        if entry.name is not None:
            with error_location(entry.location):
                number *= count_variants(defenses.load(entry.name), entry.parameters)
    return number


def _trainings(recipe: dict[str, object]) -> int:
    """The number of combinations of the parameters and seeds of a training."""
    seeds = recipe.pop("seed", None)
    return count_variants(Recipe, recipe) * (len(seeds) if isinstance(seeds, list) else 1)

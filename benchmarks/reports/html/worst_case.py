"""Which attack broke which image: the outcomes of the attacks on one model under one threat, image by image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robustbench_cli.benchmarks.evaluation.outcomes import Outcomes
from robustbench_cli.benchmarks.evaluation.statistics.classes import ClassFigures, class_figures
from robustbench_cli.benchmarks.reports.columns import RowSource
from robustbench_cli.benchmarks.reports.html import pictures
from robustbench_cli.benchmarks.reports.html.content import PageContent
from robustbench_cli.benchmarks.reports.html.svg import shortened
from robustbench_cli.benchmarks.reports.rows import model_and_threat
from robustbench_cli.benchmarks.store.records import Result

__all__ = ["BrokenImages", "Strips", "WorstCase", "cells_of", "groups_in_table", "strips", "worst_cases"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class BrokenImages:
    """What one attack broke.

    Attributes:
        attack: Its label.
        broken: ``(N,)`` the share of draws in which each image is wrong under it, in the order of :class:`WorstCase`.
        only: The number of images that are wrong in most draws under this attack and no other.
        strongest: The number of images on which it decides the worst case.
    """

    attack: str
    broken: Floats
    only: int
    strongest: int


@dataclass(frozen=True, kw_only=True)
class WorstCase:
    """The attacks on one model under one threat.

    Attributes:
        cells: The cells of the attacks, and that of their worst case.
        result: The result of the first attack.
        attacks: What each attack broke.
        chosen: ``(N,)`` the number of the attack that decides each image that is wrong in any draw in the worst case, and
            -1 for the others. Images that few attacks break come last.
        wrong: ``(N,)`` the share of draws in which each image is wrong in the worst case.
        classes: The recall and the precision of each class in the worst case.
    """

    cells: tuple[str, ...]
    result: Result
    attacks: Sequence[BrokenImages]
    chosen: Integers
    wrong: Floats
    classes: Sequence[ClassFigures]

    def title(self, titles: dict[str, str]) -> str:
        """The model and the threat.

        Args:
            titles: The title of each row of the table, by its cell.
        """
        return next((titles[cell] for cell in self.cells if cell in titles), shortened(self.result.cell.defense))

    @property
    def broken(self) -> int:
        """The number of images that are wrong in most draws in the worst case."""
        return int((self.wrong > 0.5).sum())

    @property
    def expected(self) -> float:
        """The number of images that are wrong in the mean over draws: what the robust accuracy lacks to 1, in images."""
        return float(self.wrong.sum())


def groups_in_table(content: PageContent) -> list[list[Result]]:
    """The results of each model and threat of which the table has a row.

    Args:
        content: The table and the results.
    """
    groups: defaultdict[Hashable, list[Result]] = defaultdict(list)
    for result in content.results:
        if not result.was_skipped:
            groups[model_and_threat(result.cell)].append(result)
    shown = {*content.table["cell"]}
    return [results for results in groups.values() if not shown.isdisjoint(cells_of(results))]


def cells_of(results: Sequence[Result]) -> tuple[str, ...]:
    """The cells of the rows that some attacks have in a table."""
    first = results[0]
    worst = RowSource(cell=first.cell, eps=first.eps, results=results).id
    return (*(result.cell.id for result in results), worst)


def worst_cases(content: PageContent) -> Iterator[WorstCase]:
    """The worst case of each model and threat of which the table has a row; images without an attack have none.

    Args:
        content: The table, the results and how to read their outcomes.
    """
    for results in groups_in_table(content):
        if all(result.cell.attack.name == "none" for result in results):
            continue
        together = content.read(results)
        if together is not None:
            yield _worst_case(*together)


def _worst_case(results: Sequence[Result], attacks: Outcomes) -> WorstCase:
    wrong = 1 - attacks.right_shares
    # As the worst case chooses: by the draws that do not score, and at any distance by the distance.
    by_distance = results[0].cell.eps is None
    chosen, decisive = attacks.strongest_attack(nearest=by_distance), attacks.worst_attack(nearest=by_distance)
    worst = wrong[chosen, np.arange(wrong.shape[1])]
    broken = wrong > 0.5
    decided = np.where(worst > 0.5, chosen, -1)
    order = np.lexsort((decided, -wrong.sum(axis=0)))
    alone = broken & (broken.sum(axis=0) == 1)
    return WorstCase(
        cells=cells_of(results),
        result=results[0],
        attacks=[
            BrokenImages(
                attack=result.cell.attack_label,
                broken=wrong[index][order],
                only=int(alone[index].sum()),
                strongest=int((decided == index).sum()),
            )
            for index, result in enumerate(results)
        ],
        chosen=np.where(worst > 0, chosen, -1)[order],
        wrong=worst[order],
        classes=[*class_figures(decisive.labels, decisive.worst(), shared=bool(decisive.draws_shared))],
    )


@dataclass(frozen=True, kw_only=True)
class Strips:
    """The strips of one worst case, as the page shows them.

    Attributes:
        title: The model and the threat.
        images: The number of images.
        broken: The number of images that are wrong in most draws.
        expected: The number of images that are wrong in the mean over draws.
        rows: For each attack its color, its name, its strip, the text of that, and the numbers of images that are wrong,
            wrong under it alone, and decided by it.
        winners: The strip of the worst case.
        alternative: The text of that strip.
    """

    title: str
    images: int
    broken: int
    expected: float
    rows: Sequence[tuple[str, str, str, str, int, int, int]]
    winners: str
    alternative: str


def strips(case: WorstCase, titles: dict[str, str]) -> Strips:
    """Draws the strips of a worst case.

    Args:
        case: The worst case.
        titles: The title of each row of the table, by its cell.
    """
    images = len(case.chosen)
    rows = []
    for index, attack in enumerate(case.attacks):
        count = int((attack.broken > 0.5).sum())
        name = shortened(attack.attack, most=60)
        alternative = f"{name}: {count} of {images} images wrong in most draws"
        color = min(index, len(pictures.CATEGORIES) - 1)
        rows.append(
            (f"w{color}", name, pictures.share_strip(attack.broken), alternative, count, attack.only, attack.strongest)
        )
    won = ", ".join(f"{name} on {strongest}" for _, name, _, _, _, _, strongest in rows)
    return Strips(
        title=case.title(titles),
        images=images,
        broken=case.broken,
        expected=case.expected,
        rows=rows,
        winners=pictures.category_strip(case.chosen, case.wrong),
        alternative=f"Worst case: {case.broken} of {images} images wrong in most draws, {case.expected:.1f} expected; strongest {won}",
    )

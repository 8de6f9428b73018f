from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec
from robustbench_cli.benchmarks.evaluation.outcomes import Outcomes
from robustbench_cli.benchmarks.reports.html.content import PageContent
from robustbench_cli.benchmarks.reports.html.worst_case import groups_in_table, worst_cases
from robustbench_cli.benchmarks.reports.rows import rows
from robustbench_cli.benchmarks.store.records import Result

from ...conftest import MakeCell, MakeOutcomes, MakeResult

CW_PGD = MethodSpec(name="cw-pgd", parameters={"steps": 40})


@pytest.fixture
def content(make_cell: MakeCell, make_outcomes: MakeOutcomes, make_result: MakeResult) -> PageContent:
    """Two attacks on four images of one model at one radius, and one attack at another."""
    right = {"pgd": [0, 10, 10, 4], "cw-pgd": [10, 0, 10, 2], "far": [0, 0, 0, 0]}
    outcomes: dict[str, Outcomes] = {}
    results: list[Result] = []
    for name, cell in (
        ("pgd", make_cell(repeats=10)),
        ("cw-pgd", make_cell(repeats=10, attack=CW_PGD)),
        ("far", make_cell(repeats=10, eps=0.5)),
    ):
        outcomes[cell.id] = make_outcomes(clean=[10] * 4, robust=right[name], draws=10)
        results.append(make_result(cell, outcomes[cell.id])[0])

    def read(some: Sequence[Result]) -> tuple[Sequence[Result], Outcomes]:
        return some, Outcomes.stacked([outcomes[result.cell.id] for result in some])

    return PageContent(table=rows(results, read), results=results, read=read)


def test_each_attack_has_what_it_broke(content: PageContent) -> None:
    """Shares of wrong draws by image, what no other attack broke, and where the attack decides."""
    near, far = worst_cases(content)
    pgd, cw_pgd = near.attacks
    assert (pgd.attack, pgd.only, pgd.strongest) == ("pgd", 1, 1)
    # The last image is wrong in most draws under both, and in more of them under cw-pgd.
    assert (cw_pgd.attack, cw_pgd.only, cw_pgd.strongest) == ("cw-pgd", 1, 2)
    assert near.broken == 3
    assert near.expected == pytest.approx(2.8)
    assert far.broken == 4
    # The image that both break first, and the one that none breaks last.
    assert np.stack([pgd.broken, cw_pgd.broken]).T.tolist() == pytest.approx(
        np.array([[0.6, 0.8], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    )
    assert near.chosen.tolist() == [1, 0, 1, -1]


def test_the_worst_case_is_that_of_the_table(content: PageContent) -> None:
    """The share of wrong draws under the attack that decides is what the row of the worst case lacks to 1."""
    near, _ = worst_cases(content)
    broken = np.stack([attack.broken for attack in near.attacks]).max(axis=0)
    (worst,) = content.table.loc[content.table["attack"] == "worst-case", "robust_accuracy"]
    assert 1 - broken.mean() == pytest.approx(worst)
    recalls = [entry.recall[0] * entry.images for entry in near.classes]
    assert sum(recalls) / 4 == pytest.approx(worst)


def test_only_groups_of_shown_rows_count(content: PageContent) -> None:
    """A group has a row if one of its attacks or its worst case has."""
    table = content.table
    for attack in ("pgd", "worst-case"):
        chosen = table[(table["attack"] == attack) & (table["eps_value"] < 0.1)]
        one = PageContent(table=chosen, results=content.results, read=content.read)
        assert [len(group) for group in groups_in_table(one)] == [2]
    assert groups_in_table(PageContent(table=table[:0], results=content.results, read=content.read)) == []

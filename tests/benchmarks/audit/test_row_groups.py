from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from robustbench_cli.benchmarks.audit.records import RECORDS, CheckRecord
from robustbench_cli.benchmarks.audit.row_groups import access_of, audit_store, flags_of_groups
from robustbench_cli.benchmarks.certification.by_interval_bounds import Intervals
from robustbench_cli.benchmarks.certification.certified_radius import CertifiedRadius
from robustbench_cli.benchmarks.certification.procedures import identity_of
from robustbench_cli.benchmarks.certification.records import CertificationFiles, CertificationHeader
from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec
from robustbench_cli.benchmarks.evaluation import checks
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Budget, Finding
from robustbench_cli.benchmarks.evaluation.outcomes import Outcomes
from robustbench_cli.benchmarks.reports.rows import rows
from robustbench_cli.benchmarks.store.cell import Cell, content_hash
from robustbench_cli.benchmarks.store.store import CERTIFICATION, Store
from robustbench_cli.benchmarks.store.together import read_together
from robustbench_cli.core.errors import UserError

from ..conftest import MakeCell, MakeOutcomes, MakeResult
from .test_records import fail, record

SQUARE = MethodSpec(name="square", parameters={"queries": 5000})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "store")


def publish(store: Store, made: tuple[Any, bytes]) -> None:
    """Stores a result."""
    store.publish(*made)


@pytest.mark.parametrize("flag", ["", "zero-gradient", "single-draw"])
def test_flags_of_rows_are_findings(
    store: Store, make_cell: MakeCell, make_outcomes: MakeOutcomes, make_result: MakeResult, flag: str
) -> None:
    """With the severity of their check, and with the threat and the attack that raised them."""
    outcomes = make_outcomes(clean=[1] * 500, robust=[1] * 200 + [0] * 300)
    publish(store, make_result(make_cell(), outcomes, flags=(flag,) if flag else ()))
    publish(store, make_result(make_cell(attack=SQUARE), outcomes, backwards=0))
    (group,) = audit_store(store, damaged=fail)
    found = {finding.check: finding for finding in group.findings}
    assert {*found} == ({flag} if flag else set())
    assert group.verdict == {"": "consistent", "zero-gradient": "broken", "single-draw": "suspicious"}[flag]
    assert group.headline == f"{group.verdict} (the model was not run)"
    if flag:
        assert found[flag].evidence.startswith("at eps 0.0313725 (pgd): ")
    assert {*group.passed} == {check.name for check in checks.load_checks_at("finding_in_rows")}
    (threat,) = group.threats
    assert (threat.robust_accuracy, threat.attacks) == (0.4, ("pgd", "square"))


def test_a_flag_that_a_stronger_attack_answers_is_none_of_the_group(
    store: Store, make_cell: MakeCell, make_outcomes: MakeOutcomes, make_result: MakeResult
) -> None:
    """Near zero, a blinded attack beside does not matter, as in the worst case of a table."""
    blinded = make_outcomes(clean=[1] * 500, robust=[1] * 400 + [0] * 100)
    broken = make_outcomes(clean=[1] * 500, robust=[0] * 500)
    publish(store, make_result(make_cell(), blinded, flags=("zero-gradient",)))
    publish(store, make_result(make_cell(attack=SQUARE), broken, backwards=0))
    (group,) = audit_store(store, damaged=fail)
    assert group.verdict == "consistent"


@pytest.mark.parametrize(("left", "verdict"), [(0, "consistent"), (60, "suspicious")])
def test_the_set_up_of_an_attack_does_not_count_near_zero(
    store: Store,
    make_cell: MakeCell,
    make_outcomes: MakeOutcomes,
    make_result: MakeResult,
    left: int,
    verdict: str,
) -> None:
    """Not at any distance either, where the flag of the row speaks against the distances."""
    outcomes = make_outcomes(clean=[1] * 500, robust=[1] * left + [0] * (500 - left))
    attack = MethodSpec(name="cw", parameters={"steps": 100})
    publish(store, make_result(make_cell(eps=None, norm="l2", attack=attack), outcomes, flags=("every-draw",)))
    (group,) = audit_store(store, damaged=fail)
    assert [finding.check for finding in group.findings if finding.check == "every-draw"] == ["every-draw"] * bool(left)
    assert group.verdict == verdict


def test_rows_are_grouped_by_model_data_and_norm(
    store: Store, make_cell: MakeCell, make_outcomes: MakeOutcomes, make_result: MakeResult
) -> None:
    """Radii of one norm are one group."""
    outcomes = make_outcomes(clean=[1] * 4, robust=[1] * 4)
    same: list[dict[str, Any]] = [{"eps": 0.1}, {"eps": 0.2}, {"seed": 1}]
    for changes in (*same, {"norm": "l2"}, {"data": "e" * 64}, {"checkpoint": "b" * 64}):
        publish(store, make_result(make_cell(**changes), outcomes))
    groups = audit_store(store, damaged=fail)
    assert sorted(len(group.threats) for group in groups) == [1, 1, 1, 3]
    (other,) = audit_store(store, damaged=fail, checkpoint="b" * 64)
    assert other.checkpoint_sha256 == "b" * 64


def audited(budget: Budget, *, broken: bool, eps: float = 0.1, left_out: str = "") -> CheckRecord:
    """A record of a check that found something or nothing, or did not run."""
    found = Finding(check="unstable", severity="broken", evidence=budget) if broken else None
    made = record("unstable", budget=budget, eps=eps)
    return made.model_copy(update={"finding": found, "left_out": left_out})


@pytest.mark.parametrize(
    ("records", "verdict", "budget"),
    [
        ([audited("quick", broken=True)], "broken", "quick"),
        ([audited("quick", broken=True), audited("standard", broken=False)], "consistent", "standard"),
        ([audited("quick", broken=False), audited("standard", broken=True)], "broken", "standard"),
        ([audited("quick", broken=True), audited("standard", broken=False, left_out="no")], "broken", "quick"),
        ([audited("quick", broken=True, eps=0.2), audited("standard", broken=False)], "broken", "standard"),
    ],
)
def test_the_largest_budget_decides(store: Store, records: list[CheckRecord], verdict: str, budget: str) -> None:
    """For each check and radius; a check that was left out says nothing against what it found before."""
    for one in records:
        RECORDS.write(store.path, one)
    (group,) = audit_store(store, damaged=fail)
    assert (group.verdict, group.budget) == (verdict, budget)
    assert group.title == "digits, small-cnn, none, linf, 4 images"
    assert group.passed == (() if verdict == "broken" else ("unstable",))


def test_what_the_model_shows_speaks_against_its_rows(
    store: Store, make_cell: MakeCell, make_outcomes: MakeOutcomes, make_result: MakeResult
) -> None:
    """Of the same norm, whatever the number of images; corrupted images are others."""
    outcomes = make_outcomes(clean=[1] * 500, robust=[0] * 500)
    fog = MethodSpec(name="fog", parameters={"severity": 3})
    cells = [make_cell(), make_cell(data="e" * 64), make_cell(norm="l2"), make_cell(corruption=fog)]
    made = [make_result(cell, outcomes) for cell in cells]
    for result_and_outcomes in made:
        publish(store, result_and_outcomes)
    RECORDS.write(store.path, record("unstable"))
    flags = flags_of_groups([store.path], damaged=fail)
    groups = [[([result], Outcomes.stacked([outcomes]), outcomes)] for result, _ in made]
    assert [flags(group) for group in groups] == [("unstable",), ("unstable",), (), ()]
    verdicts = sorted(group.verdict for group in audit_store(store, damaged=fail))
    assert verdicts == ["broken", "broken", "consistent", "consistent"]


@pytest.mark.parametrize("rises", [True, False])
def test_what_the_rows_show_is_a_flag_of_the_table(
    store: Store, make_cell: MakeCell, make_outcomes: MakeOutcomes, make_result: MakeResult, rises: bool
) -> None:
    """All rows of the model in this norm have it; the advice of few-images and quick-look stays in the audit."""
    for eps, right in ((0.1, 40), (0.2, 60 if rises else 20)):
        for attack in (SQUARE, MethodSpec(name="pgd", parameters={})):
            outcomes = make_outcomes(clean=[1] * 80, robust=[1] * right + [0] * (80 - right))
            publish(store, make_result(make_cell(eps=eps, attack=attack), outcomes))
    publish(store, make_result(make_cell(norm="l2", eps=0.1), outcomes))
    groups = audit_store(store, damaged=fail)
    found = {finding.check for group in groups for finding in group.findings}
    assert found >= {"few-images", "quick-look"}
    table = rows(
        store.results(damaged=fail),
        partial(read_together, store_of=lambda _: store),
        flags_of_groups([store.path], damaged=fail),
    )
    expected = found - {"few-images", "quick-look"}
    assert expected == ({"accuracy-does-not-fall"} if rises else set())
    assert {*table.loc[table["norm"] == "linf", "flags"]} == {";".join(expected)}
    assert len(table.loc[table["norm"] == "linf"]) == 6
    assert {*table.loc[table["norm"] == "l2", "flags"]} == {""}


@pytest.mark.parametrize(
    ("attack", "backwards", "access"),
    [
        ("pgd", 5, "gradients"),
        ("square", 0, "scores"),
        ("nes", 0, "scores"),
        ("hopskipjump", 0, "decisions"),
        ("non-adaptive", 5, "transfer"),
        ("none", 0, "none"),
        ("mine.py:Mine", 5, "gradients"),
        ("mine.py:Mine", 0, "scores"),
    ],
)
def test_the_access_of_an_attack_is_known_without_an_import(
    make_cell: MakeCell, make_outcomes: MakeOutcomes, make_result: MakeResult, attack: str, backwards: int, access: str
) -> None:
    """From its source, or for a user's own from its passes: a store does not choose which code runs."""
    cell: Cell = make_cell(attack=MethodSpec(name=attack, parameters={}))
    result, _ = make_result(cell, make_outcomes(clean=[1], robust=[1]), backwards=backwards)
    assert access_of(result) == access


@pytest.mark.parametrize(
    ("attack", "version", "found"),
    [
        ("torchattacks:AutoAttack", "standard", False),
        ("torchattacks:AutoAttack", "rand", True),
        ("torchattacks:PGD", None, True),
        ("pgd", None, True),
    ],
)
def test_an_attack_that_also_searches_is_no_quick_look(
    store: Store,
    make_cell: MakeCell,
    make_outcomes: MakeOutcomes,
    make_result: MakeResult,
    attack: str,
    version: str | None,
    found: bool,
) -> None:
    """AutoAttack's standard version has Square in it; its version for randomized models follows gradients only."""
    parameters = {} if version is None else {"version": version}
    cell: Cell = make_cell(attack=MethodSpec(name=attack, parameters=parameters))
    publish(store, make_result(cell, make_outcomes(clean=[1] * 500, robust=[1] * 200 + [0] * 300), backwards=5))
    (group,) = audit_store(store, damaged=fail)
    assert ("quick-look" in {finding.check for finding in group.findings}) == found


def test_a_damaged_row_is_named_and_the_others_are_judged(
    store: Store, make_cell: MakeCell, make_outcomes: MakeOutcomes, make_result: MakeResult
) -> None:
    """Its outcomes are gone."""
    outcomes = make_outcomes(clean=[1] * 4, robust=[1] * 4)
    for eps in (0.1, 0.2):
        publish(store, make_result(make_cell(eps=eps), outcomes))
    lost = next(iter((store.path / "cells").glob("*.npz")))
    lost.unlink()
    errors: list[UserError] = []
    (group,) = audit_store(store, damaged=errors.append)
    assert len(group.threats) == 1
    assert [str(lost) in str(error) for error in errors] == [True]


@pytest.mark.parametrize(("radius", "broken"), [(0.2, True), (0.05, False)])
def test_a_certificate_in_the_store_is_compared_with_the_rows(
    store: Store,
    make_cell: MakeCell,
    make_outcomes: MakeOutcomes,
    make_result: MakeResult,
    radius: float,
    broken: bool,
) -> None:
    """An image that is broken at 0.1 cannot be certified up to 0.2."""
    cell = make_cell(eps=0.1)
    publish(store, make_result(cell, make_outcomes(clean=[1] * 4, robust=[0] * 4, distance=0.1)))
    identity = {"version": 1, "checkpoint": cell.checkpoint, "data": cell.data, **identity_of(Intervals(), 0)}
    files = CertificationFiles(store.path / CERTIFICATION, content_hash(identity), CertifiedRadius)
    described = {"dataset": cell.dataset}
    files.begin(CertificationHeader(identity=identity, described=described, labels=[0] * 4, versions={}))
    for index in range(4):
        files.add(CertifiedRadius(index=index, predicted=0, radius=radius, seconds=0))
    (group,) = audit_store(store, damaged=fail)
    found = [finding for finding in group.findings if finding.check == "certificate-contradicted"]
    assert bool(found) == broken
    assert all("4 of 4 images were broken inside their certified radius" in finding.evidence for finding in found)

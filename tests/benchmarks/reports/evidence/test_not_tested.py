from __future__ import annotations

from robustbench_cli import attacks
from robustbench_cli.attacks.base.norm import NORMS
from robustbench_cli.benchmarks.audit.verdict import AuditedRows, LeftOut
from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec
from robustbench_cli.benchmarks.corruptions import BENCHMARK
from robustbench_cli.benchmarks.reports.evidence.not_tested import not_tested
from robustbench_cli.benchmarks.reports.html.content import PageContent

from ...conftest import MakeCell
from ..result_rows import table


def test_what_was_run_and_what_was_not_are_everything(make_cell: MakeCell) -> None:
    """Of the attacks that support the norm, the norms, the corruptions and the attacker's knowledge."""
    cells = [make_cell(attack=MethodSpec(name=name), norm="linf") for name in ("pgd", "square")]
    (model,) = not_tested(PageContent(table=table({})), cells)["models"]
    every = {name for name in attacks.registry.names() if name not in attacks.registry.families}
    possible = {name for name in every if "linf" in (kind := attacks.registry.load(name)).norms and kind.perturbs}
    assert {*model["attacks"], "pgd", "square"} == possible
    assert {*model["norms"], "linf"} == {*NORMS}
    assert model["corruptions"] == [*BENCHMARK]
    assert model["knowledge"] == ["black-box: decision-based", "black-box: transfer"]
    assert model["goals"] == ["targeted misclassification"]
    assert model["adaptive"] == ["an attack written for this model"]


def test_an_attack_of_the_user_is_an_adaptive_one(make_cell: MakeCell) -> None:
    """Its code has a hash."""
    own = make_cell(attack=MethodSpec(name="mine.py:A", source="a" * 64), targeted="all")
    (model,) = not_tested(PageContent(table=table({})), [own])["models"]
    assert model["adaptive"] == []
    assert model["goals"] == ["untargeted misclassification"]


def test_checks_and_cells_that_are_missing() -> None:
    """With their reasons; an audit that did not run the model says so."""
    names = {"dataset": "digits", "model": "m", "checkpoint": "c", "checkpoint_sha256": "a" * 64, "defense": "none"}
    group = AuditedRows(**names, norm="linf", n=4, left_out=(LeftOut(check="staircase", reason="no logits"),))
    made = not_tested(PageContent(table=table({}), verdicts=[group], missing=["pgd failed"]), [])
    assert [(entry["check"], entry["reason"][:9]) for entry in made["checks"]] == [
        ("staircase", "no logits"),
        ("every check that runs the model", "'advdef a"),
    ]
    assert made["unfinishedCells"] == ["pgd failed"]
    ran = group.model_copy(update={"budget": "quick", "left_out": ()})
    assert not_tested(PageContent(table=table({}), verdicts=[ran]), [])["checks"] == []

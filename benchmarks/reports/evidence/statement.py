"""The evidence of a report as an in-toto Statement, version 1: what was attacked, how, with which result, and what was not tested.

See `the specification <https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md>`_. The statement is unsigned.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec
from robustbench_cli.benchmarks.reports.cases import Case
from robustbench_cli.benchmarks.reports.columns import Record, flag_names
from robustbench_cli.benchmarks.reports.commands import reproducing_command
from robustbench_cli.benchmarks.reports.evidence.figures import figures
from robustbench_cli.benchmarks.reports.evidence.not_tested import not_tested
from robustbench_cli.benchmarks.reports.evidence.threat_model import threat_model
from robustbench_cli.benchmarks.reports.html.content import AuditedGroup, PageContent
from robustbench_cli.benchmarks.reports.html.worst_case import cells_of, groups_in_table
from robustbench_cli.benchmarks.reports.readable import records
from robustbench_cli.benchmarks.store.cell import Cell
from robustbench_cli.benchmarks.store.records import Result
from robustbench_cli.core.errors import UserError

__all__ = ["MODEL_DIGEST", "PREDICATE_TYPE", "evidence"]

PREDICATE_TYPE = "urn:advdef:robustness-evidence:v1"
"""The type of the predicate."""

MODEL_DIGEST = "advdefModelSha256"
"""The name of a model's digest: sha256 of the weights and of the specification of their model, and not of a file."""


def evidence(content: PageContent, cases: Sequence[Case]) -> str:
    """The statement as JSON.

    Args:
        content: The report.
        cases: Its test cases, gates among them.

    Raises:
        UserError: There is no row.
    """
    rows = records(content.table)
    if not rows:
        raise UserError("evidence is about results, and there is no row: run 'advdef attack' first")
    behind = _results_of_rows(content)
    models = {_model(row): row for row in rows}
    shown = {result.cell.id: result for row in rows for result in behind.get(row["cell"], ())}
    by_cell = {result.cell.id: result for result in content.results}
    predicate = {
        "judgment": _judgment(content, rows, cases),
        "models": [_described(model, row, behind.get(row["cell"], ())) for model, row in models.items()],
        "evaluations": [_evaluation(row, behind.get(row["cell"], ()), by_cell) for row in rows],
        "audits": [_audit(group) for group in content.verdicts or ()],
        "contradictedCertificates": list(content.conflicts),
        "notTested": not_tested(content, [result.cell for result in shown.values()]),
    }
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": str(row["checkpoint"]), "digest": {MODEL_DIGEST: model}} for model, row in models.items()],
        "predicateType": PREDICATE_TYPE,
        "predicate": predicate,
    }
    return json.dumps(statement, indent=1, allow_nan=False).replace("\x7f", "\\u007f") + "\n"


def _model(row: Record) -> str:
    return str(row["checkpoint_sha256"])


def _results_of_rows(content: PageContent) -> Mapping[str, Sequence[Result]]:
    """The results behind each row, by the row's cell."""
    found: dict[str, Sequence[Result]] = {}
    for results in groups_in_table(content):
        *singles, worst = cells_of(results)
        found |= {worst: results, **{cell: [result] for cell, result in zip(singles, results, strict=True)}}
    return found


def _judgment(content: PageContent, rows: Iterable[Record], cases: Sequence[Case]) -> dict[str, Any]:
    """The gates in the words of in-toto's predicate for test results. An attack that ran is no test that passed."""
    gates = [case for case in cases if case.group == "gates"]
    passed = [case.name for case in gates if case.outcome == "passed"]
    warned = [case.name for case in gates if case.outcome == "failed" and case.severity == "warning"]
    failed = [case.name for case in gates if case.outcome != "passed" and case.severity != "warning"]
    doubts = any(row["flags"] for row in rows) or any(group.verdict != "consistent" for group in content.verdicts or ())
    unsettled = bool(warned or doubts or content.missing or content.conflicts)
    result = "FAILED" if failed else "WARNED" if unsettled else "PASSED"
    return {
        "result": result if gates else None,
        "passedTests": passed,
        "warnedTests": warned,
        "failedTests": failed,
    }


def _described(model: str, row: Record, results: Sequence[Result]) -> dict[str, Any]:
    """A model: its names, and its defenses with all parameters."""
    defenses = [_method(spec) for spec in results[0].cell.defenses] if results else None
    rules = [spec["parameters"]["decision"] for spec in defenses or () if "decision" in spec["parameters"]]
    return {
        "sha256": model,
        "name": row["model"],
        "defense": row["defense"],
        "checkpoint": row["checkpoint"],
        "normalization": {"mean": row["mean"] or None, "std": row["std"] or None},
        "defenses": defenses,
        "decisionRule": rules[-1] if rules else None,
    }


def _method(spec: MethodSpec) -> dict[str, Any]:
    return {"name": spec.name, "parameters": spec.parameters, "codeSha256": spec.source}


def _evaluation(row: Record, results: Sequence[Result], by_cell: Mapping[str, Result]) -> dict[str, Any]:
    """A row: its threat model, protocol, figures, flags, environment and commands."""
    cells = [result.cell for result in results]
    return {
        "cell": row["cell"],
        "model": _model(row),
        "attack": row["attack"],
        "data": _data(row, cells),
        "threatModel": threat_model(row, cells),
        "protocol": _protocol(row, cells),
        "results": figures(row, counted=bool(cells)),
        "flags": flag_names(row["flags"]),
        "quickLook": row["quick_look"],
        "cost": {"forwards": row["forwards"], "backwards": row["backwards"], "seconds": row["seconds"]},
        "environment": [
            {"cell": result.cell.id, "device": result.device, "versions": result.versions} for result in results
        ],
        "reproduce": [{"cell": result.cell.id, "command": reproducing_command(result, by_cell)} for result in results],
    }


def _data(row: Record, cells: Sequence[Cell]) -> dict[str, Any]:
    corruption = {"name": row["corruption"], "severity": row["severity"]} if row["corruption"] is not None else None
    return {
        "dataset": row["dataset"],
        "sha256": cells[0].data if cells else None,
        "slice": f"the first {cells[0].n} test images" if cells else None,
        "images": row["n"],
        "corruption": corruption,
    }


def _protocol(row: Record, cells: Sequence[Cell]) -> dict[str, Any]:
    """How a row was measured."""
    randomized = row["repeats"] is not None and row["repeats"] > 1
    return {
        "attacks": [
            {**_method(cell.attack), "eot": cell.eot, "precision": cell.precision, "after": cell.after}
            for cell in cells
        ],
        "worstCase": "for each image the strongest of the attacks, chosen on other draws" if len(cells) > 1 else None,
        "eot": row["eot"] or None,
        "repeats": row["repeats"],
        "scoringDraws": "held out: no attack has seen them" if randomized else "none: the model is deterministic",
        "accounting": row["accounting"],
        "stopWhenDecided": row["stop_when_decided"],
        "seed": row["seed"],
    }


def _audit(group: AuditedGroup) -> dict[str, Any]:
    """What the checks found. A check that found nothing is no proof that nothing is there."""
    return {
        "model": group.checkpoint_sha256,
        "rows": group.title,
        "verdict": group.verdict,
        "headline": group.headline,
        "modelWasRun": group.budget is not None,
        "findings": [finding.model_dump(mode="json") for finding in group.findings],
        "foundNothing": list(group.passed),
        "leftOut": [{"check": entry.check, "reason": entry.reason} for entry in group.left_out],
    }

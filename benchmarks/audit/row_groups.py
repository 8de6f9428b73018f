"""The rows of a store in groups of one model, data slice and norm, and what the checks find in them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from robustbench_cli.attacks import registry as attacks
from robustbench_cli.benchmarks.audit.records import RECORDS, CheckRecord, latest, records_of_cells
from robustbench_cli.benchmarks.audit.verdict import AuditedRows, LeftOut, ThreatFigures, by_severity
from robustbench_cli.benchmarks.evaluation import checks
from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.finding import BUDGETS, Budget, Finding, Severity
from robustbench_cli.benchmarks.evaluation.checks.base.row_group import (
    NEAR_ZERO,
    Access,
    AuditedDraws,
    Row,
    RowGroup,
    Threat,
)
from robustbench_cli.benchmarks.evaluation.outcomes import Outcomes
from robustbench_cli.benchmarks.store.cell import Cell
from robustbench_cli.benchmarks.store.records import Result
from robustbench_cli.benchmarks.store.store import CERTIFICATION, Store
from robustbench_cli.benchmarks.store.together import read_together
from robustbench_cli.benchmarks.store.worst_case_flags import (
    ON_OTHER_MODELS,
    SET_UP,
    only_follows_gradients,
    worst_case_flags,
)
from robustbench_cli.core.class_source import read_exported
from robustbench_cli.core.errors import UserError

if TYPE_CHECKING:
    # It imports pandas.
    from robustbench_cli.benchmarks.reports.rows import FlagsOfGroup

__all__ = ["access_of", "audit_store", "flags_of_groups"]

Damaged = Callable[[UserError], None]
"""Takes the error of a damaged file."""


def audit_store(store: Store, *, damaged: Damaged, checkpoint: str | None = None) -> list[AuditedRows]:
    """Judges what a store holds: its rows, and the audits of their models. No model is run.

    Args:
        store: The store.
        damaged: Called with the error of each damaged file, whose row is left out.
        checkpoint: The identity of the only model to judge; all by default.

    Returns:
        The groups of rows and the audited models without rows, in the order of data set, model, defense and checkpoint.

    Raises:
        UserError: The folder is no store.
    """
    records = [
        record
        for record in RECORDS.stored(store.path, damaged=damaged)
        if checkpoint in {None, record.target.checkpoint}
    ]
    of_cell = records_of_cells(records)
    members: dict[Hashable, list[Result]] = defaultdict(list)
    for result in store.unverified(damaged=damaged):
        if checkpoint in {None, result.cell.checkpoint} and not result.was_skipped:
            members[result.cell.checkpoint, result.cell.slice_and_norm].append(result)
    contradiction = _contradictions(store.path, damaged)
    of_rows = checks.load_checks_at("finding_in_rows")
    groups: list[AuditedRows] = []
    without_rows = {record.id: record for record in records}
    for results in members.values():
        # The outcomes of one group at a time are in memory.
        pairs = _with_outcomes(store, results, damaged)
        if pairs:
            of_model = {record.id: record for result, _ in pairs for record in of_cell(result.cell)}
            for record_id in of_model:
                without_rows.pop(record_id, None)
            lines = {result.cell.id: contradiction(result, outcomes) for result, outcomes in pairs}
            contradicted = {cell: line for cell, line in lines.items() if line}
            groups.append(_judged(pairs, list(of_model.values()), contradicted, of_rows))
    models: dict[Hashable, list[CheckRecord]] = defaultdict(list)
    for record in without_rows.values():
        models[record.target.checkpoint, record.target.dataset, record.target.norm].append(record)
    groups += map(_without_rows, models.values())
    return sorted(groups, key=lambda group: (group.names, group.checkpoint, group.title))


def _with_outcomes(store: Store, results: Iterable[Result], damaged: Damaged) -> list[tuple[Result, Outcomes]]:
    """The results whose outcomes are intact, with these, in the order of their attacks."""
    alike: defaultdict[Hashable, list[Result]] = defaultdict(list)
    for result in results:
        alike[result.cell.repeats, result.cell.targeted].append(result)
    pairs: list[tuple[Result, Outcomes]] = []
    for members in alike.values():
        together = read_together(members, lambda _: store, damaged=damaged)
        pairs += [] if together is None else _pairs(*together)
    return sorted(pairs, key=lambda pair: (pair[0].cell.attack_label, pair[0].cell.id))


def _pairs(results: Sequence[Result], stacked: Outcomes) -> list[tuple[Result, Outcomes]]:
    """Results, each with its own of their stacked outcomes."""
    return [(result, stacked.of_attack(number)) for number, result in enumerate(results)]


def _judged(
    pairs: Sequence[tuple[Result, Outcomes]],
    records: Sequence[CheckRecord],
    lines: Mapping[str, str],
    of_rows: Sequence[Check],
) -> AuditedRows:
    """The audit of the rows of one model, data slice and norm.

    Args:
        pairs: The results with their outcomes.
        records: What the checks found in the model.
        lines: A line for each cell that contradicts a certificate.
        of_rows: The checks of stored rows.
    """
    newest = latest(records)
    results = {result.cell.id: result for result, _ in pairs}
    first, cell = pairs[0][0], pairs[0][0].cell
    group = _row_group(pairs, newest, [lines[cell_id] for cell_id in results if cell_id in lines])
    findings = [*_flag_findings(group, results), *_findings_in_rows(group, of_rows)]
    return AuditedRows(
        dataset=cell.dataset,
        model=cell.model,
        checkpoint=first.origin.named_checkpoint(first.checkpoint),
        checkpoint_sha256=cell.checkpoint,
        defense=cell.defense,
        corruption=f"{cell.corruption_label} {cell.severity}" if cell.corruption is not None else "",
        norm=cell.norm,
        n=len(group.labels),
        audited_n=_audited_images(newest),
        threats=tuple(_figures(threat) for threat in group.threats),
        findings=by_severity([*findings, *_findings_of(newest)]),
        passed=_passed([*findings, *_findings_of(newest)], [check.name for check in of_rows], newest),
        left_out=_left_out(newest),
        budget=group.audited,
    )


def _row_group(
    pairs: Sequence[tuple[Result, Outcomes]], newest: Sequence[CheckRecord], contradictions: Sequence[str] = ()
) -> RowGroup:
    """What the checks look at: the rows of one model, data slice and norm, and the newest records of audits of the model."""
    cell = pairs[0][0].cell
    return RowGroup(
        norm=cell.norm,
        rows=tuple(_row(result, outcomes) for result, outcomes in pairs),
        contradictions=contradictions,
        audited=_budget(newest),
        audits=_audits(newest, cell),
    )


def _findings_in_rows(group: RowGroup, of_rows: Iterable[Check]) -> list[Finding]:
    """What some checks find in stored rows."""
    found = (checks.finding_or_failure(check, partial(check.finding_in_rows, group)) for check in of_rows)
    return [finding for finding in found if finding is not None]


def flags_of_groups(stores: Iterable[Path], *, damaged: Damaged) -> FlagsOfGroup:
    """The flags of a report that no row has alone: what audits of a model raised, and what the checks find in its rows.

    Checks that only advise (:attr:`~.check.Check.advises`) raise no flag. Contradicted certificates are flagged by
    :func:`~.certified_columns.add_certified_columns`.

    Args:
        stores: The folders of stores.
        damaged: Called with the error of each file that cannot be read; it is skipped.

    Returns:
        A function from the rows of one model, data slice and norm to the names of the checks, in alphabetical order.
    """
    of_cell = records_of_cells(record for store in stores for record in RECORDS.stored(store, damaged=damaged))
    looking = checks.load_checks_at("finding_in_rows")
    of_rows = [check for check in looking if not check.advises]
    advising = {check.name for check in looking if check.advises}

    def flags(threats: Sequence[tuple[Sequence[Result], Outcomes, Outcomes]]) -> tuple[str, ...]:
        pairs = [pair for results, stacked, _ in threats for pair in _pairs(results, stacked)]
        newest = latest([*{record.id: record for result, _ in pairs for record in of_cell(result.cell)}.values()])
        worst_cases = {tuple(result.cell.id for result in results): worst for results, _, worst in threats}
        group = replace(_row_group(pairs, newest), worst_cases=worst_cases)
        findings = _findings_in_rows(group, of_rows) + _findings_of(
            record for record in newest if record.check not in advising
        )
        return tuple(sorted({finding.check for finding in findings}))

    return flags


def _without_rows(records: Sequence[CheckRecord]) -> AuditedRows:
    """The audit of a model without rows."""
    newest, target = latest(records), max(records, key=lambda record: record.target.n).target
    return AuditedRows(
        dataset=target.dataset,
        model=target.model,
        checkpoint=target.path,
        checkpoint_sha256=target.checkpoint,
        defense=target.defense,
        norm=target.norm,
        n=target.n,
        audited_n=_audited_images(newest),
        threats=tuple(_baseline_figures(newest)),
        findings=by_severity(_findings_of(newest)),
        passed=_passed(_findings_of(newest), (), newest),
        left_out=_left_out(newest),
        budget=_budget(newest),
    )


def _row(result: Result, outcomes: Outcomes) -> Row:
    cell = result.cell
    return Row(
        cell=cell.id,
        attack=cell.attack_label,
        access=access_of(result),
        only_gradients=only_follows_gradients(result),
        cascade=cell.cascade,
        eps=cell.eps,
        eps_text=result.eps,
        targeted=cell.targeted,
        seed=cell.seed,
        accounting=cell.accounting,
        outcomes=outcomes,
        flags=result.flags,
        stopped_interval=_stopped_interval(result),
    )


def _stopped_interval(result: Result) -> tuple[float, float] | None:
    """The stored interval of a row that stopped once its limit was decided."""
    low, high = (result.summary[f"robust_accuracy_{end}"] for end in ("low", "high"))
    return None if result.cell.stop_when_decided is None or low is None or high is None else (low, high)


def access_of(result: Result) -> Access:
    """What the attack of a row used of the model; by its passes where the attack is not one of the project.

    Args:
        result: The row.
    """
    attack = result.cell.attack
    if attack.name == "none":
        return "none"
    if attack.name in ON_OTHER_MODELS or attack.surrogates:
        return "transfer"
    by_passes: Access = "gradients" if result.backwards else "scores"
    return _declared_access(attack.name) or by_passes


@cache
def _declared_access(attack: str) -> Access | None:
    """The access that one of the project's attacks declares, read without an import; ``None`` for any other attack."""
    module = attacks.module_of(attack)
    source = None if module is None else read_exported(module)
    access: Access | None = None if source is None else source.constants.get("access")
    return access


def _figures(threat: Threat) -> ThreatFigures:
    low, high = threat.interval
    return ThreatFigures(
        eps=threat.eps_text,
        targeted=threat.targeted,
        seed=threat.seed,
        attacks=tuple(row.attack for row in threat.rows),
        clean_accuracy=threat.clean_accuracy,
        robust_accuracy=threat.robust_accuracy,
        robust_accuracy_low=low,
        robust_accuracy_high=high,
    )


def _baseline_figures(records: Iterable[CheckRecord]) -> Iterator[ThreatFigures]:
    """What the baseline attacks of audits of one model left, in the order of the radii."""
    for record in sorted(records, key=lambda record: (record.target.eps, record.target.seed)):
        outcomes, target = record.outcomes, record.target
        if outcomes is None or outcomes.clean_accuracy is None:
            continue
        left = outcomes.scored()
        low, high = left.interval(0.95)
        yield ThreatFigures(
            eps=target.eps_text,
            targeted="no",
            seed=target.seed,
            attacks=(outcomes.attack,),
            clean_accuracy=outcomes.clean_accuracy,
            robust_accuracy=left.accuracy,
            robust_accuracy_low=low,
            robust_accuracy_high=high,
        )


def _flag_findings(group: RowGroup, results: Mapping[str, Result]) -> list[Finding]:
    """The flags of the worst case of each threat, as findings; see :func:`~.worst_case_flags.worst_case_flags`.

    The set-up of an attack speaks against the distances that it found without a radius, but not against a robust accuracy near
    zero, which is what a verdict is about.
    """
    raised: dict[str, list[str]] = {}
    for threat in group.threats:
        of_threat = [results[row.cell] for row in threat.rows]
        stacked = Outcomes.stacked([row.outcomes for row in threat.rows])
        for flag in worst_case_flags(of_threat, stacked, threat.worst):
            if flag in SET_UP and threat.interval[1] <= NEAR_ZERO * threat.clean_accuracy:
                continue
            attacks_with = [row.attack for row in threat.rows if flag in row.flags]
            raised.setdefault(flag, []).append(f"{threat.text} ({', '.join(attacks_with)})")
    return [_of_flag(flag, f"at {'; '.join(where)}") for flag, where in raised.items()]


def _of_flag(flag: str, where: str) -> Finding:
    """The finding of a flag that an evaluation raised."""
    module = checks.registry.module_of(flag)
    source = None if module is None else read_exported(module)
    text = ""
    severity: Severity = "suspicious"
    if source is not None:
        text, severity = source.constants["text"], source.constants["severity"]
    elif flag in checks.registry.names():
        check = checks.registry.load(flag)
        text, severity = check.text, check.severity
    return Finding(check=flag, severity=severity, evidence=f"{where}: {text}" if text else where)


def _budget(records: Sequence[CheckRecord]) -> Budget | None:
    """The largest budget of checks that ran; ``None`` if none did."""
    budgets = [BUDGETS.index(record.target.budget) for record in records if not record.left_out]
    return BUDGETS[max(budgets)] if budgets else None


def _audited_images(records: Sequence[CheckRecord]) -> int | None:
    """The largest number of images of checks that ran; ``None`` if none did."""
    return max((record.target.n for record in records if not record.left_out), default=None)


def _audits(records: Sequence[CheckRecord], cell: Cell) -> list[AuditedDraws]:
    """What audits of the model left of the first images of a cell's slice."""
    if cell.stop_when_decided is not None:
        # The outcomes of a sample are in another order.
        return []
    return [
        AuditedDraws(
            check=record.check,
            attack=record.outcomes.attack,
            eps=record.target.eps,
            seed=record.target.seed,
            draws=record.outcomes.scored(),
        )
        for record in records
        if record.outcomes is not None and (record.target.n != cell.n or record.target.data == cell.data)
    ]


def _findings_of(records: Iterable[CheckRecord]) -> list[Finding]:
    return [record.finding for record in records if record.finding is not None]


def _passed(findings: Sequence[Finding], of_rows: Sequence[str], records: Sequence[CheckRecord]) -> tuple[str, ...]:
    """The names of the checks that ran and found nothing: those of rows, and those of the model."""
    ran = {*of_rows, *(record.check for record in records if not record.left_out)}
    return tuple(sorted(ran - {finding.check for finding in findings}))


def _left_out(records: Sequence[CheckRecord]) -> tuple[LeftOut, ...]:
    left_out = {
        record.check: LeftOut(check=record.check, reason=record.left_out) for record in records if record.left_out
    }
    return tuple(left_out[check] for check in sorted(left_out))


def _contradictions(store: Path, damaged: Damaged) -> Callable[[Result, Outcomes], str | None]:
    """A function that describes how the attack of a row broke images inside their certified radius, if it did."""
    if not (store / CERTIFICATION).is_dir():
        return lambda *_: None
    # They import torch.
    from robustbench_cli.benchmarks.certification.certify import stored as certified
    from robustbench_cli.benchmarks.reports.certificate_conflicts import certificates_of, contradiction

    models = list(certified(store, damaged=damaged))

    def line(result: Result, outcomes: Outcomes) -> str | None:
        lines = (contradiction(result.cell, outcomes, model) for model in certificates_of(result.cell, models))
        return next(filter(None, lines), None)

    return line

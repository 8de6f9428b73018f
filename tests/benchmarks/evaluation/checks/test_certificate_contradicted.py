from __future__ import annotations

from robustbench_cli.benchmarks.evaluation.checks.certificate_contradicted import CertificateContradicted

from ...conftest import MakeOutcomes
from .conftest import MakeRow, MakeRows


def test_the_line_of_the_report_is_the_evidence(
    make_outcomes: MakeOutcomes, make_row: MakeRow, make_rows: MakeRows
) -> None:
    """The first one, with the number of the others."""
    row = make_row(make_outcomes(clean=[1], robust=[1]))
    check = CertificateContradicted("certificate-contradicted")
    assert check.finding_in_rows(make_rows(row)) is None
    for lines, evidence in ((["a"], "a"), (["a", "b", "c"], "a (and 2 more rows)")):
        found = check.finding_in_rows(make_rows(row, contradictions=lines))
        assert found is not None
        assert (found.severity, found.evidence) == ("broken", evidence)

from __future__ import annotations

from typing import Any

from robustbench_cli.benchmarks.audit.verdict import AuditedRows
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Finding
from robustbench_cli.benchmarks.reports.columns import column_names
from robustbench_cli.benchmarks.reports.html.answers import answers


def row(**changes: Any) -> dict[str, Any]:
    """A row as plain data."""
    usual: dict[str, Any] = dict.fromkeys(column_names()) | {
        "dataset": "digits",
        "model": "small-cnn",
        "checkpoint_sha256": "a" * 64,
        "defense": "hrs",
        "attack": "pgd",
        "norm": "linf",
        "eps": "0.1",
        "eps_value": 0.1,
        "targeted": "no",
        "n": 100,
        "flags": "",
        **{f"clean_accuracy{end}": value for end, value in (("", 0.9), ("_low", 0.8), ("_high", 0.95))},
        **{f"robust_accuracy{end}": value for end, value in (("", 0.5), ("_low", 0.4), ("_high", 0.6))},
    }
    return usual | changes


def judged(*severities: Any, **changes: Any) -> AuditedRows:
    """The verdict on these rows."""
    findings = tuple(Finding(check="unstable", severity=severity, evidence="") for severity in severities)
    usual = {"dataset": "digits", "model": "small-cnn", "checkpoint": "a", "checkpoint_sha256": "a" * 64}
    return AuditedRows(**{**usual, "defense": "hrs", "norm": "linf", "n": 100, "findings": findings, **changes})


def test_one_attack_is_named() -> None:
    """With its accuracy, and the clean one."""
    (answer,) = answers([row()], None)
    assert answer.label == "hrs"
    assert answer.sentence == (
        "90.0 % [80.0, 95.0] clean; robust 50.0 % [40.0, 60.0] within linf 0.1 under the only attack, pgd."
    )
    assert answer.verdict == ""


def test_the_worst_case_is_the_answer() -> None:
    """With the strongest attack at the largest radius; smaller radii come before it."""
    rows = [
        row(robust_accuracy=0.7, eps="0.05", eps_value=0.05),
        row(robust_accuracy=0.5),
        row(robust_accuracy=0.4, attack="cw"),
        row(robust_accuracy=0.3, attack="worst-case", flags="unstable;no-eot"),
    ]
    (answer,) = answers(rows, [])
    assert answer.sentence == (
        "90.0 % [80.0, 95.0] clean; robust 70.0 % [40.0, 60.0] within linf 0.05 and 30.0 % [40.0, 60.0] within linf 0.1 in "
        "the worst case over 2 attacks; the strongest alone is cw (40.0 %)."
    )
    assert (answer.flags, answer.smaller) == (("unstable", "no-eot"), (0.7,))
    assert answer.robust is not None and answer.robust.value == 0.3


def test_a_model_has_one_answer() -> None:
    """Another checkpoint, norm or data set is another one, in the order of the rows; many radii are three."""
    rows = [row(eps_value=index / 255, eps=f"{index}/255") for index in range(1, 9)]
    (answer,) = answers(rows, None)
    assert [f"{index}/255" in answer.sentence for index in range(1, 9)] == [
        True,
        *[False] * 3,
        True,
        False,
        False,
        True,
    ]
    several = answers([row(), row(norm="l2"), row(dataset="mnist"), row(checkpoint_sha256="b" * 64)], None)
    assert [answer.label for answer in several] == ["hrs, aaaaaaaa"] * 3 + ["hrs, bbbbbbbb"]


def test_the_severest_verdict_on_a_model_counts() -> None:
    """Of the audits of this model, data set and norm on images without a corruption."""
    (answer,) = answers(
        [row()], [judged(), judged("suspicious"), judged(norm="l2"), judged("broken", corruption="fog 3")]
    )
    assert answer.verdict == "suspicious"
    (answer,) = answers([row()], [judged("broken", checkpoint_sha256="b" * 64)])
    assert answer.verdict == ""
    (answer,) = answers([row()], [judged()])
    assert answer.verdict == "consistent"


def test_rows_without_a_radius_have_an_answer_too() -> None:
    """A mean over corruptions, a distance, or an accuracy without an attack."""
    free = {"eps": "", "eps_value": None}
    mean = row(attack="none", corruption="mean", mean_corruption_accuracy=0.654)
    cases = {
        "65.4 % of images are right in the mean over corruptions.": [row(attack="none", corruption="fog"), mean],
        "fmn breaks 99.0 % of the correctly classified images at a mean l2 distance of 0.53.": [
            row(attack="fmn", mean_l2=0.53, attack_success_rate=0.99, **free),
            row(attack="cw", mean_l2=0.6, attack_success_rate=1.0, **free),
        ],
        "50.0 % [40.0, 60.0] of the images are right under fog 3.": [row(attack="none", corruption="fog", severity=3)],
        "50.0 % [40.0, 60.0] of the images are right under mean(2 of 75) and pgd within linf 0.1.": [
            row(corruption="fog", severity=3, mean_l2=0.1),
            row(corruption="mean(2 of 75)"),
        ],
        "50.0 % [40.0, 60.0] of the images are right without an attack.": [row(attack="none")],
    }
    assert [answers(rows, None)[0].sentence for rows in cases.values()] == [*cases]

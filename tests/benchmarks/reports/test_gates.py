from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from robustbench_cli.benchmarks.reports.columns import column_names, identity_columns
from robustbench_cli.benchmarks.reports.gate_options import gate_with
from robustbench_cli.benchmarks.reports.gates import (
    GateResult,
    Limit,
    compare,
    compare_with_baseline,
    parse_conditions,
    parse_limit,
    read_baseline,
    row_identity,
    row_name,
    select,
    unmet,
)
from robustbench_cli.core.errors import UserError

FAIL_UNDER = gate_with(upper=False, baseline=False)


def table(*rows: dict[str, Any]) -> pd.DataFrame:
    """Rows of which a test says what matters to it."""
    usual = dict.fromkeys(column_names()) | {
        "dataset": "digits",
        "model": "small-cnn",
        "defense": "none",
        "attack": "pgd",
        "norm": "linf",
        "eps": "8/255",
        "targeted": "no",
        "eot": "1",
        "n": 500,
        "repeats": 1,
        "seed": 0,
        "robust_accuracy": 0.5,
        "flags": "",
    }
    return pd.DataFrame.from_records([usual | row for row in rows], columns=column_names())


def outcomes(result: GateResult) -> list[str]:
    return [judgment.outcome for judgment in result.judgments]


def test_a_limit_is_read() -> None:
    """A column and a number."""
    assert parse_limit(" robust_accuracy = 0.40", gate=FAIL_UNDER) == Limit("robust_accuracy", 0.4)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("0.4", "'0.4' is a limit without its column: give one, as in robust_accuracy=0.4"),
        ("robust=0.4", "unknown column 'robust': did you mean 'robust_accuracy'"),
        ("flags=1", "unknown column 'flags' among those of numbers"),
        ("robust_accuracy", "give COLUMN=VALUE, such as robust_accuracy=0.40"),
        ("robust_accuracy=40%", "give COLUMN=VALUE, such as robust_accuracy=0.40: did you mean 0.4?"),
        ("robust_accuracy=nan", "give COLUMN=VALUE"),
        ("robust_accuracy=", "give COLUMN=VALUE"),
    ],
)
def test_what_is_no_limit_is_named(words: str, told: str) -> None:
    """The line repeats what was written and says what would be right."""
    with pytest.raises(UserError, match=f"--fail-under '{words}': {told}"):
        parse_limit(words, gate=FAIL_UNDER)


def test_a_relative_drop_is_a_part_of_the_baseline() -> None:
    """From 0.8, 5 % is 0.04: 0.76 passes and 0.7599 does not. Costs may rise, too."""
    before = table({"robust_accuracy": 0.8, "forwards": 200})
    limit = parse_limit("robust_accuracy=5%", gate=gate_with(upper=False, baseline=True))
    assert limit == Limit("robust_accuracy", 0.05, relative=True)
    assert outcomes(compare_with_baseline(table({"robust_accuracy": 0.76}), before, limit)) == ["passed"]
    assert compare_with_baseline(table({"robust_accuracy": 0.7599}), before, limit).broken == [
        "digits small-cnn none pgd linf eps 8/255 n 500: robust_accuracy fell from 0.8 to 0.7599, by more than 5%"
    ]
    limit = parse_limit("forwards=10%", gate=gate_with(upper=True, baseline=True))
    assert [outcomes(compare_with_baseline(table({"forwards": n}), before, limit))[0] for n in (220, 221)] == [
        "passed",
        "failed",
    ]


def test_any_column_of_numbers_has_a_limit() -> None:
    """Where neither higher nor lower is better, the gate has the direction; identities never change against a baseline."""
    upper, lower = (gate_with(upper=upper, baseline=False) for upper in (True, False))
    rows = table({"n": 500, "seconds": 3.0})
    for text, gate, outcome in (
        ("n=500", lower, "passed"),
        ("n=501", lower, "failed"),
        ("n=499", upper, "failed"),
        ("seconds=3", upper, "passed"),
    ):
        assert outcomes(compare(rows, parse_limit(text, gate=gate))) == [outcome]
    with pytest.raises(UserError, match="lower is better in seconds: give --fail-over seconds=3"):
        parse_limit("seconds=3", gate=lower)
    with pytest.raises(UserError, match="--max-drop 'n=1': n never changes"):
        parse_limit("n=1", gate=gate_with(upper=False, baseline=True))


def test_values_are_compared_unrounded() -> None:
    """0.3999 is below 0.4, although both are shown as 40.0; 0.4 is not, and neither is what differs by rounding alone."""
    rows = table(
        {"robust_accuracy": 0.3999}, {"robust_accuracy": 0.4}, {"robust_accuracy": 0.1 + 0.1 + 0.1 + 0.1 - 1e-16}
    )
    verdict = compare(rows, Limit("robust_accuracy", 0.4))
    assert verdict.broken == ["digits small-cnn none pgd linf eps 8/255 n 500: robust_accuracy 0.3999 is below 0.4"]
    assert verdict.missing == []


def test_what_is_missing_cannot_be_judged() -> None:
    """A row without the figure, or no row at all, is neither passed nor broken; an undefended model needs no des."""
    assert compare(table({"mean_l2": None}), Limit("mean_l2", 1)).missing == [
        "digits small-cnn none pgd linf eps 8/255 n 500: there is no mean_l2 to judge"
    ]
    rows = table({}, {"defense": "hrs", "des": 3.0}, {"defense": "hrs", "attack": "cw", "eps": ""})
    verdict = compare(rows, Limit("des", 2))
    assert verdict.missing == ["digits small-cnn hrs cw linf n 500: there is no des to judge"]
    assert verdict.broken == []
    assert compare(table(), Limit("des", 2)).missing == ["--fail-under des=2: there is no row to judge"]


@pytest.mark.parametrize("column", identity_columns())
def test_the_name_of_a_row_tells_it_apart(column: str) -> None:
    """Rows that differ in any column of their identity have different names, and what is usual is left out."""
    usual = {"accounting": "expected", "mean": "0.5", "std": "0.25", "corruption": "fog", "severity": 1}
    other = {"attack": "cw", "norm": "l2", "targeted": "next"}.get(column, 2)
    (_, first), (_, second) = table(usual, usual | {column: other}).iterrows()
    assert row_identity(first) != row_identity(second)
    assert row_name(first) == "digits small-cnn (mean 0.5 std 0.25) none fog 1 pgd linf eps 8/255 n 500"
    assert row_name(second) != row_name(first)


def test_an_accuracy_under_attack_is_judged_at_a_radius() -> None:
    """At any distance a minimal-norm attack breaks nearly all images; clean accuracies and distances are judged there too."""
    rows = table(
        {}, {"attack": "cw", "eps": "", "robust_accuracy": 0.0, "clean_accuracy": 0.3}, {"attack": "none", "eps": ""}
    )
    verdict = compare(rows, Limit("robust_accuracy", 0.5))
    assert outcomes(verdict) == ["passed", "passed"]
    assert verdict.left_out == [1]
    assert [row.partition(":")[0] for row in compare(rows, Limit("robust_accuracy", 0.6)).broken] == [
        "digits small-cnn none pgd linf eps 8/255 n 500",
        "digits small-cnn none none n 500",
    ]
    assert compare(rows.iloc[1:2], Limit("clean_accuracy", 0.4)).broken == [
        "digits small-cnn none cw linf n 500: clean_accuracy 0.3 is below 0.4"
    ]
    (line,) = compare(rows.iloc[1:2], Limit("robust_accuracy", 0.0)).missing
    assert line == (
        "robust_accuracy: there is no row with a radius to judge: attack with --norm and --eps, or judge mean_l2"
    )


def test_a_drop_is_compared_unrounded() -> None:
    """From 0.8 to 0.78 is a drop by 0.02 and no more, whatever floating point says; to 0.7799 is more."""
    before = table({"robust_accuracy": 0.8})
    limit = Limit("robust_accuracy", 0.02)
    assert outcomes(compare_with_baseline(table({"robust_accuracy": 0.78}), before, limit)) == ["passed"]
    assert compare_with_baseline(table({"robust_accuracy": 0.7799}), before, limit).broken == [
        "digits small-cnn none pgd linf eps 8/255 n 500: robust_accuracy fell from 0.8 to 0.7799, by more than 0.02"
    ]


def test_rows_are_compared_with_their_like() -> None:
    """The same comparison is found in any order and of any checkpoint; a new row is not judged; a lost one is missing."""
    before = table(
        {"attack": "cw", "robust_accuracy": 0.2, "checkpoint": "old.safetensors"}, {"robust_accuracy": 0.6}, {"seed": 1}
    )
    now = table({"robust_accuracy": 0.55}, {"attack": "cw", "robust_accuracy": 0.1}, {"defense": "hrs"})
    verdict = compare_with_baseline(now, before, Limit("robust_accuracy", 0.07))
    assert [line.partition(": ")[0] for line in verdict.broken] == ["digits small-cnn none cw linf eps 8/255 n 500"]
    assert verdict.missing == [
        "digits small-cnn none pgd linf eps 8/255 n 500 seed 1: it is in the baseline, and not in the table"
    ]


def test_ambiguous_rows_are_not_judged() -> None:
    """Two checkpoints that are alike in all else cannot be told apart, on either side."""
    one, two = table({"robust_accuracy": 0.6}), table({"checkpoint": "a"}, {"checkpoint": "b"})
    for now, before in ((one, two), (two, one)):
        verdict = compare_with_baseline(now, before, Limit("robust_accuracy", 0.5))
        assert verdict.broken == []
        assert len(verdict.missing) == 1
        assert "several rows are alike in all but the checkpoint: name one with --where" in verdict.missing[0]


def test_a_figure_on_one_side_only_is_missing() -> None:
    """Where the baseline or the table lacks a figure there is no drop to judge; where both do, there is none."""
    with_it, without = table({"des": 3.0}), table({"des": None})
    assert "the table has no des" in compare_with_baseline(without, with_it, Limit("des", 1)).missing[0]
    assert "the baseline has no des" in compare_with_baseline(with_it, without, Limit("des", 1)).missing[0]
    assert outcomes(compare_with_baseline(without, without, Limit("des", 1))) == []
    for now in (table(), with_it):
        assert compare_with_baseline(now, table(), Limit("des", 1)).missing == [
            "--max-drop des=1: the baseline has no row to compare with"
        ]


def test_a_baseline_is_read_back_to_the_last_bit(tmp_path: Path) -> None:
    """What was written as CSV compares as equal, with empty radii, odd numbers and words that look like numbers."""
    rows = table(
        {"eps": "", "robust_accuracy": 0.1 + 0.2, "eot": "exact"},
        {"eps": "0.10", "robust_accuracy": 1 / 3, "des": 70 / 0.1},
    )
    rows.to_csv(tmp_path / "baseline.csv", index=False)
    before = read_baseline(tmp_path / "baseline.csv")
    assert before["robust_accuracy"].tolist() == [0.1 + 0.2, 1 / 3]
    for column in ("robust_accuracy", "des"):
        assert {*outcomes(compare_with_baseline(rows, before, Limit(column, 0)))} == {"passed"}


def test_names_that_were_escaped_are_read_back(tmp_path: Path) -> None:
    """An attack in a cascade begins with a plus sign, and a mean may begin with a minus: spreadsheets see a formula."""
    rows = table({"attack": "+square", "mean": "-0.5,0.5"}, {"attack": "fgsm"})
    (tmp_path / "baseline.csv").write_text(rows.map(lambda x: f"'{x}" if x in ("+square", "-0.5,0.5") else x).to_csv())
    before = read_baseline(tmp_path / "baseline.csv")
    assert before["attack"].tolist() == ["+square", "fgsm"]
    assert outcomes(compare_with_baseline(rows, before, Limit("robust_accuracy", 0))) == ["passed", "passed"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, r"cannot be read \(No such file or directory\)"),
        (b"", "cannot be read"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b'a,b\n"', "cannot be read"),
        (b"dataset,model\n1,2\n", "has no column 'defense'"),
    ],
)
def test_what_is_no_baseline_is_named(tmp_path: Path, content: bytes | None, told: str) -> None:
    """A file that is missing, damaged or another's is one line."""
    path = tmp_path / "baseline.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(
        UserError, match=f"--baseline {path} {told}.*: give a .csv file that 'advdef report -o' wrote"
    ) as error:
        read_baseline(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("robust_accuracy=40", "robust_accuracy is a share, from 0 to 1: did you mean 0.4?"),
        ("clean_accuracy=1.5", "did you mean 0.015?"),
        ("attack_success_rate=4000", "give a number from 0 to 1"),
        ("robust_accuracy=-1", "give a number from 0 to 1"),
    ],
)
def test_a_percentage_is_not_a_share(words: str, told: str) -> None:
    """A limit that no row could keep is a mistake; a score of efficiency may be any number."""
    with pytest.raises(UserError) as refusal:
        parse_limit(words, gate=FAIL_UNDER)
    assert str(refusal.value).endswith(told)
    assert parse_limit("des=40", gate=FAIL_UNDER) == Limit("des", 40)


def test_words_among_figures_are_refused(tmp_path: Path) -> None:
    """A figure that is no number is a mistake in the file, and not a figure that is missing."""
    rows = table({"robust_accuracy": "much"}, {"attack": "cw"})
    rows.to_csv(tmp_path / "baseline.csv", index=False)
    with pytest.raises(UserError, match=r"baseline.csv: robust_accuracy: .*much"):
        read_baseline(tmp_path / "baseline.csv")


@pytest.mark.parametrize("figure", ["inf", "-5", "40"])
def test_impossible_figures_are_refused(tmp_path: Path, figure: str) -> None:
    """No row is worse than a baseline of -5, nor is infinity less infinity above any limit."""
    table({"robust_accuracy": figure}, {"attack": "cw"}).to_csv(tmp_path / "baseline.csv", index=False)
    with pytest.raises(UserError, match=rf"baseline.csv: robust_accuracy is {figure}, which is no share"):
        read_baseline(tmp_path / "baseline.csv")


def test_a_baseline_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    """Wherever in its last row a table is cut off but at the end of its line, the line is named."""
    table({}, {"attack": "cw"}).to_csv(tmp_path / "whole.csv", index=False)
    whole = (tmp_path / "whole.csv").read_text()
    columns = whole.partition("\n")[0].count(",")
    last = whole.rstrip("\n").rindex("\n") + 1
    cuts = [place for place in range(last + 1, len(whole)) if whole[last:place].count(",") < columns]
    assert len(cuts) > 50
    for cut in cuts:
        (tmp_path / "cut.csv").write_text(whole[:cut])
        with pytest.raises(UserError, match=r"cut.csv cannot be read .*line 3 has .* values.*cut off"):
            read_baseline(tmp_path / "cut.csv")


def test_conditions_select_rows() -> None:
    """All keys must hold, any of one key's values; a method's name stands for it with any parameters, and for no other."""
    rows = table(
        {"defense": "hrs(channels=[10,10])"},
        {"defense": "hrs", "attack": "pgd(steps=100)"},
        {"defense": "hrs(channels=[2,2])+jpeg", "attack": "cw"},
        {"defense": "none", "attack": "cw", "n": 100},
    )

    def chosen(*conditions: str) -> list[int]:
        return list(select(rows, parse_conditions(conditions)).index)

    assert chosen() == [0, 1, 2, 3]
    assert chosen("defense=hrs") == [0, 1]
    assert chosen("defense=hrs+jpeg") == [2]
    assert chosen("defense=hrs(channels=[10,10])") == [0]
    assert chosen("attack=cw", "attack=pgd") == [0, 1, 2, 3]
    assert chosen("attack=cw", "defense=none") == [3]
    assert chosen("defense=hrs", "attack=pgd", "n=500") == [0, 1]
    assert chosen("n=100") == [3]
    assert chosen("eps=8/255", "defense=nothing") == []


def test_what_no_row_has_is_told_with_what_there_is() -> None:
    """A value of no row in any of the tables, those that are there once each and no more than twenty; or that no row has all."""
    rows = table({"defense": "hrs(channels=[10,10])"}, {"defense": "none", "attack": "cw", "checkpoint": None})
    failed = table({"attack": "square", "eps": "0.1"})

    def told(*conditions: str) -> list[str]:
        return unmet([rows, failed], parse_conditions(conditions))

    assert told() == told("defense=hrs", "attack=pgd") == told("attack=square", "attack=cw") == []
    assert told("defense=hrss", "attack=pgd", "attack=cv") == [
        "--where 'defense=hrss' fits no row: there is 'hrs(channels=[10,10])', 'none'",
        "--where 'attack=cv' fits no row: there is 'cw', 'pgd', 'square'",
    ]
    assert told("n=50", "checkpoint=a") == [
        "--where 'n=50' fits no row: there is '500'",
        "--where 'checkpoint=a' fits no row: no row has a checkpoint",
    ]
    assert told("defense=hrs", "attack=cw", "attack=square") == [
        "--where: no row has defense=hrs and attack=cw or square: leave one of them out to see what there is"
    ]
    (line,) = unmet([table(*({"seed": seed} for seed in range(100, 130)))], {"seed": ["7"]})
    assert line.endswith("there is " + ", ".join(f"'{seed}'" for seed in range(100, 120)) + " and 10 more")


@pytest.mark.parametrize(
    ("words", "told"),
    [("atack=pgd", "unknown column 'atack': did you mean 'attack'"), ("attack", "give KEY=VALUE, such as defense=hrs")],
)
def test_what_is_no_condition_is_named(words: str, told: str) -> None:
    """The line repeats what was written and says what would be right."""
    with pytest.raises(UserError, match=rf"--where '{words}': {told}"):
        parse_conditions([words])

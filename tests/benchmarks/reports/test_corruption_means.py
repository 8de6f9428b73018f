"""The mean over corruptions, and the mean corruption error of the paper."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec
from robustbench_cli.benchmarks.corruptions import BENCHMARK, SEVERITIES
from robustbench_cli.benchmarks.evaluation.outcomes import Outcomes
from robustbench_cli.benchmarks.reports.corruption_means import (
    ALEXNET,
    Baseline,
    read_corruption_baseline,
    with_corruption_errors,
    with_corruption_means,
)
from robustbench_cli.benchmarks.reports.formats import as_text
from robustbench_cli.benchmarks.reports.gates import Limit, compare, compare_with_baseline, select
from robustbench_cli.benchmarks.reports.rows import rows
from robustbench_cli.core.errors import UserError

from ..conftest import MakeCell, MakeOutcomes, MakeResult

RESNET_50 = (80, 82, 83, 75, 89, 78, 80, 78, 75, 66, 57, 71, 85, 77, 77)
"""Corruption errors of ResNet-50 in percent of AlexNet's, in the paper's table 3, where the mean is 76.7."""

NONE = MethodSpec(name="none")
Table = Callable[..., pd.DataFrame]
ONE = [("fog", 1, 8), ("frost", 1, 6)]


@pytest.fixture
def table(make_cell: MakeCell, make_outcomes: MakeOutcomes, make_result: MakeResult) -> Table:
    """The rows of cells: for each a corruption, a severity, and how many of ten images are right."""

    def make(cells: Sequence[tuple[str | None, int, int]], n: int = 10, **changes: Any) -> pd.DataFrame:
        results, outcomes_of = [], {}
        for name, severity, right in cells:
            spec = name and MethodSpec(name=name, parameters={"severity": severity}, changed=("severity",))
            outcomes = make_outcomes(clean=[1] * right + [0] * (n - right), robust=[1] * right + [0] * (n - right))
            cell = make_cell(n=n, **{"attack": NONE, "eps": 0.0, "corruption": spec or None} | changes)
            result, _ = make_result(cell, outcomes)
            results.append(result)
            outcomes_of[result.cell.id] = outcomes
        return rows(results, lambda some: (some, Outcomes.stacked([outcomes_of[each.cell.id] for each in some])))

    return make


def test_the_mean_counts_each_corruption_once(table: Table) -> None:
    """Fog at one severity weighs as much as frost at two; the images as they are and a fifth corruption do not count."""
    cells = [(None, 1, 10), ("fog", 1, 2), ("frost", 1, 6), ("frost", 5, 8), ("spatter", 1, 0)]
    made = table(cells)
    assert made["corruption"].fillna("-").tolist() == ["-", "fog", "frost", "frost", "spatter", "mean(3 of 75)"]
    assert made["severity"].astype(object).where(made["severity"].notna(), 0).tolist() == [0, 1, 1, 5, 1, 0]
    mean = made.iloc[-1]
    assert mean["robust_accuracy"] == mean["mean_corruption_accuracy"] == pytest.approx((0.2 + (0.6 + 0.8) / 2) / 2)
    assert mean["robust_accuracy_low"] < 0.45 < mean["robust_accuracy_high"]
    assert made["mean_corruption_accuracy"].isna().tolist() == [True] * 5 + [False]


def test_a_whole_benchmark_is_the_mean(table: Table) -> None:
    """Its row says so; it comes after the rows of its model and before those of another."""
    cells = [(name, severity, 5) for name in BENCHMARK for severity in SEVERITIES]
    made = table(cells)
    assert made["corruption"].iloc[-1] == "mean"
    assert len(made) == 76
    assert len(select(made, {"corruption": ["mean"]})) == 1


def test_an_attack_has_no_corruption_accuracy(table: Table, tmp_path: Path) -> None:
    """PGD and no attack have two means; the paper's figures are of the images as they were corrupted, also in a baseline."""
    plain, pgd = table(ONE), table(ONE, attack=MethodSpec(name="pgd"), eps=0.1)
    both = pd.concat([plain, pgd], ignore_index=True)
    path = tmp_path / "base.csv"
    path.write_text(as_text(pd.concat([pgd, table([("fog", 1, 6), ("frost", 1, 2)])], ignore_index=True), "csv"))
    means = with_corruption_errors(both, read_corruption_baseline(str(path)), name="base")
    means = means[means["corruption"] == "mean(2 of 75)"]
    assert means["attack"].tolist() == ["none", "pgd"]
    assert means["robust_accuracy"].tolist() == pytest.approx([0.7, 0.7])
    assert means["mean_corruption_accuracy"].fillna(-1).tolist() == pytest.approx([0.7, -1])
    assert means["mce"].fillna(-1).tolist() == pytest.approx([(0.2 / 0.4 + 0.4 / 0.8) / 2, -1])
    assert means["mce_baseline"].fillna("-").tolist() == ["base", "-"]


def test_without_a_baseline_there_is_no_mce(table: Table) -> None:
    """A mean error that nothing divides is not the paper's mean corruption error."""
    made = table(ONE)
    assert made["mce"].isna().all() and made["mce_baseline"].isna().all()
    assert compare(made, Limit("mce", 0.9)).missing == [
        "digits small-cnn none mean(2 of 75) none n 10: there is no mce to judge: give --corruption-baseline alexnet or FILE.csv"
    ]


def test_no_worst_case_over_corruptions(table: Table) -> None:
    """Two cells of one attack under two corruptions are no attacks on the same images."""
    assert "worst-case" not in set(table([("fog", 1, 8), ("fog", 2, 6), (None, 1, 9)])["attack"])


def test_the_error_of_the_paper(table: Table) -> None:
    """AlexNet's own is 1; ResNet-50's is that of the paper's table, to its rounding."""
    cells = [(name, severity, 5) for name in BENCHMARK for severity in SEVERITIES]
    made = table(cells, dataset="imagenet-c:here")
    alexnet = read_corruption_baseline("alexnet")
    for errors, expected, tolerance in (
        (ALEXNET, 1.0, 1e-12),
        ({name: share / 100 * ALEXNET[name] for name, share in zip(BENCHMARK, RESNET_50, strict=True)}, 0.767, 0.003),
    ):
        shown = made.assign(robust_accuracy=1 - made["corruption"].map(errors))
        mean = with_corruption_errors(shown, alexnet, name="alexnet").iloc[-1]
        assert mean["mce"] == pytest.approx(expected, abs=tolerance)
        assert mean["mce_baseline"] == "alexnet"


def test_a_baseline_of_ones_own(table: Table, tmp_path: Path) -> None:
    """A model against itself has 1; each corruption's errors are summed before they are divided."""
    made = table([("fog", 1, 8), ("fog", 2, 2), ("frost", 1, 5)])
    path = tmp_path / "base.csv"
    path.write_text(as_text(table([("fog", 1, 5), ("fog", 2, 5), ("frost", 1, 0)]), "csv"))
    baseline = read_corruption_baseline(str(path))
    mean = with_corruption_errors(made, baseline, name="base").iloc[-1]
    assert mean["mce"] == pytest.approx(((0.2 + 0.8) / (0.5 + 0.5) + 0.5 / 1.0) / 2)
    path.write_text(as_text(made, "csv"))
    assert with_corruption_errors(made, read_corruption_baseline(str(path)), name="x")["mce"].iloc[-1] == pytest.approx(
        1
    )


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"dataset": "svhn"}, "svhn, not of digits"),
        ({"n": 9}, "n 9, not of n 10"),
    ],
)
def test_a_baseline_of_another_evaluation(
    table: Table, tmp_path: Path, changes: dict[str, Any], difference: str
) -> None:
    """Errors of other images divide nothing, and the difference is named."""
    path = tmp_path / "base.csv"
    path.write_text(as_text(table(ONE, **changes), "csv"))
    with pytest.raises(UserError, match=f"base: its errors are of {difference}: give a .csv file"):
        with_corruption_errors(table(ONE), read_corruption_baseline(str(path)), name="base")


def test_preprocessing_is_each_models_own(table: Table, tmp_path: Path) -> None:
    """A model that takes another size is divided by the same errors."""
    path = tmp_path / "base.csv"
    path.write_text(as_text(table(ONE, dataset="imagenet-c:x?image_size=224"), "csv"))
    made = table(ONE, dataset="imagenet-c:x?image_size=299")
    assert with_corruption_errors(made, read_corruption_baseline(str(path)), name="x")["mce"].iloc[-1] == 1


@pytest.mark.parametrize("dataset", ["imagefolder:x", "imagenet:x?class_list=y"])
def test_alexnet_is_of_imagenet_alone(table: Table, dataset: str) -> None:
    """Photographs in a folder may be of anything, and other classes have other errors."""
    with pytest.raises(UserError, match="alexnet: its errors are of ImageNet, not of"):
        with_corruption_errors(table(ONE, dataset=dataset), read_corruption_baseline("alexnet"), name="alexnet")


def test_accountings_have_means_of_their_own(table: Table) -> None:
    """One draw and all draws of a model are two means, and neither is of more cells than there are."""
    plain, single = table(ONE), table(ONE, accounting="single-draw")
    cells = pd.concat([plain, single], ignore_index=True)
    made = with_corruption_means(cells[cells["mean_corruption_accuracy"].isna()].reset_index(drop=True))
    assert made[made["mean_corruption_accuracy"].notna()]["corruption"].tolist() == ["mean(2 of 75)"] * 2
    twice = pd.concat([plain, plain], ignore_index=True)
    made = with_corruption_means(twice[twice["mean_corruption_accuracy"].isna()].reset_index(drop=True))
    assert made["corruption"].iloc[-1] == "mean(2 of 75)"


def test_cells_that_stopped_early_have_no_mean(table: Table) -> None:
    """Their numbers of images depend on their outcomes."""
    assert table(ONE, stop_when_decided=0.5)["corruption"].tolist() == ["fog", "frost"]
    assert table(ONE)["corruption"].tolist() == ["fog", "frost", "mean(2 of 75)"]


def test_files_have_whole_severities(table: Table) -> None:
    """3 and not 3.0, empty and null where there is none."""
    made = table([(None, 1, 9), ("fog", 3, 8)])
    lines = as_text(made, "csv").splitlines()
    position = lines[0].split(",").index("severity")
    assert [line.split(",")[position - len(lines[0].split(","))] for line in lines[1:]] == ["", "3"]
    assert [row["severity"] for row in json.loads(as_text(made, "json"))] == [None, 3]


def test_gates(table: Table) -> None:
    """Only means have the columns of means, and a table without any cannot be judged; a corruption is part of a comparison."""
    made = table(ONE)
    assert compare(made, Limit("mean_corruption_accuracy", 0.7)).broken == []
    baseline = Baseline({("fog", 1): 0.2, ("frost", 1): 0.2}, {})
    normalized = with_corruption_errors(made, baseline, name="base")
    assert compare(normalized, Limit("mce", 1.4)).broken == [
        "digits small-cnn none mean(2 of 75) none n 10: mce 1.5 is above 1.4"
    ]
    assert compare(normalized, Limit("mce", 1.4)).missing == []
    for cells in (table([("fog", 1, 8)]), table(ONE, attack=MethodSpec(name="pgd"), eps=0.1)):
        assert compare(cells, Limit("mce", 0.2)).missing == [
            "mce: there is no mean over corruptions without an attack to judge: run --suite corruptions"
        ]
    later = table([("fog", 1, 8), ("frost", 1, 4)])
    broken = compare_with_baseline(later, made, Limit("robust_accuracy", 0.15)).broken
    assert [line.split(":")[0] for line in broken] == ["digits small-cnn none frost 1 none n 10"]


def test_errors(table: Table, tmp_path: Path) -> None:
    """One line for a baseline of another data set, one that lacks an error, and a file that is no table."""
    made = table([("fog", 1, 8), ("frost", 1, 6)])
    alexnet = read_corruption_baseline("alexnet")
    with pytest.raises(UserError, match="alexnet: its errors are of ImageNet, not of digits"):
        with_corruption_errors(made, alexnet, name="alexnet")
    with pytest.raises(UserError, match="no error for fog at severity 1: it has only the mean over all five"):
        with_corruption_errors(table([("fog", 1, 8), ("frost", 1, 6)], dataset="imagenet-c:x"), alexnet, name="alexnet")
    with pytest.raises(UserError, match="no error for frost at severity 1: add it"):
        with_corruption_errors(made, Baseline({("fog", 1): 0.5}, {}), name="base")
    with pytest.raises(UserError, match="has no error under fog, which nothing can be divided by"):
        with_corruption_errors(made, Baseline({("fog", 1): 0.0, ("frost", 1): 0.1}, {}), name="base")
    with pytest.raises(UserError, match="there is no mean over corruptions without an attack"):
        with_corruption_errors(table([("fog", 1, 8)]), alexnet, name="base")
    path = tmp_path / "base.csv"
    whole = as_text(made.iloc[:2], "csv")
    header, fog, _ = whole.splitlines(keepends=True)
    for text, message in (
        ("a,b\n1,2\n", "has no column 'dataset'"),
        (whole.replace(",severity,", ",strength,"), "has no column 'severity'"),
        (whole.replace(",0.8,", ",2,"), "_accuracy is 2, which is no share"),
        (whole.replace(",0.8,", ",,"), "has a robust_accuracy that is no share"),
        (whole + fog, "has two rows for fog at severity 1"),
        (whole.replace("digits", "svhn", 1), "has another data set or number of images for frost at severity 1"),
        (header + fog.replace(",fog,1,", ",fog,,"), "has no row of the attack none with a severity"),
        (whole.replace(",fog,1,", ",fog,x,"), "cannot be read .*x"),
        (whole[:-30], "cannot be read .*cut off"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            read_corruption_baseline(str(path))
    for name in (str(tmp_path / "nothing.csv"), "https://example.org/base.csv"):
        with pytest.raises(UserError, match="cannot be read \\(No such file"):
            read_corruption_baseline(name)

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from typing import Any

import pytest

Advdef = Callable[..., Any]


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_the_images_for_a_difference(advdef: Advdef) -> None:
    """The formulas' values by hand: Connor's 654 for the same images, raised for the exact test, and Fleiss's for others."""
    ended = advdef("sample-size", "--difference", "0.05", "--disagreement", "0.2", "--format", "csv")
    assert ended.code == 0, ended.err
    (row,) = rows(ended.out)
    assert 654 <= int(row["images_paired"]) <= 670
    assert row["images_unpaired"] == "1565"
    shown = advdef("sample-size", "--difference", "0.05", "--disagreement", "0.2").out
    assert f" {int(row['images_paired']):,} " in shown
    assert "disagreement 0.2\n" in shown


def test_draws_and_pairs(advdef: Advdef) -> None:
    """Further draws need fewer images and more passes; further pairs, by Holm's correction, more images."""
    command = ("sample-size", "--difference", "0.03", "--draw-variance", "0.5", "--format", "csv")
    found = rows(advdef(*command).out)
    assert [row["repeats"] for row in found] == ["1", "2", "5", "10", "20", "50"]
    images = [int(row["images_paired"]) for row in found]
    draws = [int(row["draws_paired"]) for row in found]
    assert (images, draws) == (sorted(images, reverse=True), sorted(draws))
    (chosen,) = rows(advdef(*command, "--repeats", "5", "--pairs", "6").out)
    assert float(chosen["level"]) == pytest.approx(0.05 / 6)
    assert int(chosen["images_paired"]) > images[2]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ((), "--difference"),
        (("--difference", "0"), "--difference"),
        (("--difference", "0.2", "--accuracy", "0.1"), "a difference of 0.2 below an accuracy of 0.1 is not possible"),
        (("--difference", "0.1", "--disagreement", "0.05"), "a disagreement of 0.05 is not possible"),
        (("--difference", "0.1", "-o", "plan.txt"), "-o plan.txt: the ending selects the format"),
    ],
)
def test_impossible_plans_are_one_line(advdef: Advdef, words: tuple[str, ...], line: str) -> None:
    ended = advdef("sample-size", *words)
    assert (ended.code, ended.out, len(ended.err.splitlines())) == (2, "", 1)
    assert line in ended.err

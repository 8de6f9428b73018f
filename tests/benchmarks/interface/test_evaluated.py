"""The result of an evaluation as a line, a row and a frame."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import robustbench_cli as advdef
from robustbench_cli.benchmarks.interface.evaluate import evaluate_attacks
from robustbench_cli.benchmarks.interface.evaluated import Evaluated


class Threshold(nn.Module):
    """Class 1 where the only pixel is above a half: the distance to the boundary is known."""

    def forward(self, images: Tensor) -> Tensor:
        pixel = images.flatten(1).sum(1)
        return torch.stack([0.5 - pixel, pixel - 0.5], dim=1)


@pytest.fixture(scope="module")
def result() -> Evaluated:
    """Four images: wrong already, broken within the radius, out of reach, out of reach."""
    pixels = torch.tensor([0.9, 0.45, 0.2, 0.8]).reshape(4, 1, 1, 1)
    labels = torch.tensor([0, 0, 0, 1])
    return evaluate_attacks(Threshold(), pixels, labels, ["fgsm", "pgd"], report=lambda *_: None, eps=0.1)


def test_the_frame_has_a_row_for_each_image(result: Evaluated) -> None:
    """Predictions, shares and distances are those of the closed form."""
    frame = result.to_frame()
    assert list(frame.index) == [0, 1, 2, 3]
    assert list(frame["label"]) == [0, 0, 0, 1]
    assert list(frame["clean_prediction"]) == [1, 0, 0, 1]
    assert list(frame["robust_prediction"]) == [1, 1, 0, 1]
    assert list(frame["clean_correct"]) == [0, 1, 1, 1]
    assert list(frame["robust_correct"]) == [0, 0, 1, 1]
    assert frame["distance"][1] == pytest.approx(0.1)
    assert np.allclose(frame["linf"], frame["l2"])
    assert set(frame["attack"]) <= {"fgsm", "pgd"}


def test_the_row_is_that_of_the_worst_case(result: Evaluated) -> None:
    """By the columns of the CSV; those of files are left out."""
    assert result.row["attack"] == "worst-case"
    assert (result.row["eps"], result.row["norm"], result.row["n"]) == ("0.1", "linf", 4)
    assert result.row["robust_accuracy"] == result.summary["robust_accuracy"] == 0.5
    assert not {"checkpoint", "cell", "dataset"} & set(result.table)


def test_the_text_is_short(result: Evaluated) -> None:
    """The accuracies with their intervals, flags and passes, and no tensor."""
    lines = repr(result).splitlines()
    assert lines[0] == "worst-case in linf at eps 0.1 on 4 images"
    assert lines[1].startswith("  clean accuracy 0.75 [")
    assert lines[2].startswith("  robust accuracy 0.5 [")
    assert lines[3].startswith("  flags: ")
    assert any("forward and" in line and "backward passes" in line for line in lines)
    assert [line.split(":")[0].strip() for line in lines[-2:]] == ["fgsm", "pgd"]
    assert "tensor" not in repr(result)
    assert len(repr(result.attacks["pgd"]).splitlines()) == 1


def test_without_a_radius_the_distance_is_the_figure() -> None:
    """A minimal-norm attack moves the pixel to the boundary."""
    pixels = torch.full((2, 1, 1, 1), 0.3)
    found = evaluate_attacks(Threshold(), pixels, [0, 0], advdef.FMN(), report=lambda *_: None, norm="l2")
    assert found.summary["robust_accuracy"] == 0
    assert found.to_frame()["l2"].to_numpy() == pytest.approx(0.2, abs=0.01)
    assert "  mean l2 0.2" in repr(found)

from __future__ import annotations

import pytest
import torch

from robustbench_cli.benchmarks.datasets.base.dataset import Dataset, SplitName
from robustbench_cli.benchmarks.datasets.base.split import Split, TensorSplit
from robustbench_cli.core.errors import UserError


class Given(Dataset):
    """A user's own data set, with the labels and the split that a test gives it."""

    classes = 3
    shape = (1, 2, 2)
    given: Split

    def load(self, name: SplitName) -> Split:
        return self.given


def dataset(labels: torch.Tensor, images: torch.Tensor | None = None) -> Given:
    """A data set of three classes and shape (1, 2, 2)."""
    own = Given()
    own.given = TensorSplit(torch.zeros(len(labels), 1, 2, 2) if images is None else images, labels)
    return own


def test_good_labels_pass_and_the_split_is_kept() -> None:
    """A split is loaded once."""
    own = dataset(torch.tensor([0, 1, 2]))
    assert own.split("test") is own.split("test")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 3]), "has the label 3 at index 1: with 3 classes, labels are 0 to 2"),
        (
            torch.tensor([3, 1]),
            "the test split of .* has labels from 1 to 3, and labels begin at 0: subtract 1 from each",
        ),
        (torch.tensor([-1, 0]), "has the label -1 at index 0"),
        (torch.tensor([0.0, 1.0]), "torch.float32"),
        (torch.tensor([0, 1], dtype=torch.int32), "torch.int32"),
        (torch.tensor([[0], [1]]), r"shape \(2, 1\)"),
    ],
)
def test_wrong_labels_are_refused(labels: torch.Tensor, message: str) -> None:
    """Labels outside [0, classes), or that are no vector of int64, are named in one line with the split."""
    with pytest.raises(UserError, match=message) as caught:
        dataset(labels).split("test")
    assert "the test split of" in str(caught.value)


def test_images_of_another_shape_are_refused() -> None:
    """A data set that gives other images than it says is refused before a model sees them."""
    with pytest.raises(UserError, match=r"shape \(1, 3, 3\): it must give torch.float32 and \(1, 2, 2\)"):
        dataset(torch.tensor([0, 1]), torch.zeros(2, 1, 3, 3)).split("train")


def test_an_argument_that_is_not_taken_is_refused() -> None:
    """What follows the colon is refused where a data set takes nothing."""
    with pytest.raises(UserError, match="takes nothing after its name, not ':/tmp/x'"):
        Given("/tmp/x")

from __future__ import annotations

import copy
import importlib
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from robustbench_cli.attacks.base.models.freezing import copy_of
from robustbench_cli.attacks.base.models.outside_state import _OutsideState
from robustbench_cli.attacks.base.models.user_code import code_of

SOURCE = """
import torch
from torch import nn

COUNT = 0
SEEN = []

class Notes:
    def __init__(self):
        self.passes = 0

NOTES = Notes()
NETWORK = nn.Linear(2, 2)

class Counting(nn.Module):
    passes = 0
    fails = False

    def forward(self, images):
        global COUNT, LATE
        COUNT += 1
        SEEN.append(len(images))
        NOTES.passes += 1
        Counting.passes += 1
        LATE = globals().get("LATE", 0) + 1
        if self.fails:
            raise ValueError("no")
        counts = [COUNT, len(SEEN), NOTES.passes, Counting.passes, LATE]
        return torch.tensor([counts], dtype=torch.float32).repeat(len(images), 1)
"""


@pytest.fixture
def counting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A user's file, whose model counts its passes in five places outside of itself."""
    (tmp_path / "counting.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "counting", raising=False)
    return importlib.import_module("counting")


def counts(model: nn.Module) -> list[float]:
    return model(torch.zeros(1, 2))[0].tolist()  # type: ignore[no-any-return]


def test_each_copy_counts_for_itself(counting: Any) -> None:
    """Copies of copies go on from where they were copied, and nothing changes outside of them."""
    model = counting.Counting()
    assert counts(model) == [1] * 5
    first, second = copy_of(model), copy_of(model)
    assert first is not None
    assert second is not None
    assert [counts(first), counts(first)] == [[2] * 5, [3] * 5]
    third = copy.deepcopy(first)
    assert counts(second) == [2] * 5
    assert [counts(third), counts(first)] == [[4] * 5, [4] * 5]
    assert counts(model) == [2] * 5


def test_an_error_in_a_pass_leaves_the_place_as_it_was(counting: Any) -> None:
    model = copy_of(counting.Counting())
    assert model is not None
    model.fails = True  # type: ignore[assignment]
    with pytest.raises(ValueError, match="no"):
        counts(model)
    assert (counting.COUNT, counting.SEEN, counting.Counting.passes, hasattr(counting, "LATE")) == (0, [], 0, False)


def test_only_data_counts(counting: Any) -> None:
    """A network that is shared by name is not copied, since the model may hold it too."""
    names = {name for values in _OutsideState(code_of(counting.Counting()), {})._own for name in values}
    assert names == {"COUNT", "SEEN", "NOTES", "passes", "fails"}


def copied_beside(counting: Any, value: object) -> Any:
    """The copy of a global of a user's file."""
    counting.VALUE = value
    return _OutsideState(code_of(counting.Counting()), {})._own[0]["VALUE"]


def test_what_is_no_data_is_shared_with_the_copies_of_what_holds_it(counting: Any) -> None:
    """A copied figure of matplotlib would become the current one."""
    figure, notes = SimpleNamespace(), counting.Notes()
    notes.figure = figure
    copied = copied_beside(counting, [figure, {"notes": notes}, np.array([figure])])
    assert copied[1]["notes"] is not notes
    assert copied[0] is copied[1]["notes"].figure is copied[2][0] is figure


def test_64_mib_are_copied_in_total(counting: Any) -> None:
    """Of ten arrays of 10 MiB, six; of a larger array or a view of it, nothing."""
    arrays = [torch.empty(10 * 2**20, dtype=torch.uint8) for _ in range(10)]
    copies = copied_beside(counting, {"arrays": arrays})["arrays"]
    assert sum(array is not other for array, other in zip(arrays, copies, strict=True)) == 6
    large = torch.empty(65 * 2**20, dtype=torch.uint8)
    assert copied_beside(counting, large) is large
    assert copied_beside(counting, view := large[:1]) is view


def test_sparse_tensors_have_no_size(counting: Any) -> None:
    sparse = torch.eye(3).to_sparse()
    copied = copied_beside(counting, sparse)
    assert copied is not sparse
    assert torch.equal(copied.to_dense(), torch.eye(3))

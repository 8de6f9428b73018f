from __future__ import annotations

import io
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import skops.io
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.tree import DecisionTreeClassifier
from torch import Tensor

from robustbench_cli.benchmarks.weights import skops_file
from robustbench_cli.benchmarks.weights.skops_file import as_tensor, read_estimator, write_estimator
from robustbench_cli.core.errors import UserError

ROWS, LABELS = np.random.default_rng(0).random((60, 5)), np.arange(60) % 3


def fitted() -> Pipeline:
    return make_pipeline(StandardScaler(), DecisionTreeClassifier(random_state=0)).fit(ROWS, LABELS)


def test_an_estimator_comes_back() -> None:
    """It predicts the same, though its bytes have other names inside than those that skops gave them."""
    estimator = fitted()
    again = read_estimator(write_estimator(estimator))
    assert np.array_equal(again.predict_proba(ROWS), estimator.predict_proba(ROWS))
    assert skops.io.loads(skops.io.dumps(LogisticRegression().fit(ROWS, LABELS))).classes_.tolist() == [0, 1, 2]


def test_equal_estimators_have_equal_bytes() -> None:
    """Those of skops itself differ, by memory addresses."""
    assert skops.io.dumps(fitted()) != skops.io.dumps(fitted())
    assert torch.equal(write_estimator(fitted()), write_estimator(fitted()))


def test_other_code_is_not_trusted() -> None:
    """A pipeline that calls a function, here one that would start a process, is not built."""
    bomb = make_pipeline(FunctionTransformer(subprocess.getoutput), LogisticRegression())
    with pytest.raises(UserError, match=r"needs code outside of scikit-learn and NumPy \(subprocess.getoutput\)"):
        read_estimator(as_tensor(skops.io.dumps(bomb)))


@pytest.mark.parametrize("cut", [slice(0, 200), slice(0, 0)])
def test_damaged_bytes(cut: slice) -> None:
    data: Tensor = write_estimator(fitted())[cut]
    with pytest.raises(UserError, match=r"is cut off or damaged .*: save it again"):
        read_estimator(data)


@pytest.mark.parametrize("tensor", [torch.tensor(1.0), torch.zeros(2, 2), torch.zeros(8, dtype=torch.bfloat16)])
def test_what_is_no_bytes(tensor: Tensor) -> None:
    """A tensor of the same name in any other file."""
    with pytest.raises(UserError, match=r"is a tensor \(.*\) of torch\..*: give the bytes of a skops file"):
        read_estimator(tensor)


def test_bytes_that_unpack_to_a_thousand_times_their_size() -> None:
    """Also within another file, which is not packed itself."""
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("schema.json", b" " * 20_000_000)
    with pytest.raises(UserError, match=r"has [\d,]+ bytes and unpacks to 20,000,000: save it again by skops.io.dump"):
        read_estimator(as_tensor(bomb.getvalue()))


def test_without_skops(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line names the extra."""
    monkeypatch.setitem(sys.modules, "skops.io", None)
    monkeypatch.setitem(sys.modules, "skops", None)
    with pytest.raises(UserError, match="scikit-learn model needs skops"):
        skops_file.write_estimator(fitted())


def test_a_search_tree_of_neighbors() -> None:
    """Nothing checks its indices."""
    tree = KNeighborsClassifier(algorithm="kd_tree").fit(ROWS, LABELS)
    with pytest.raises(UserError, match=r"has a search tree of neighbors, .* fit it with algorithm='brute'"):
        read_estimator(write_estimator(tree))
    brute = KNeighborsClassifier(algorithm="brute").fit(ROWS, LABELS)
    assert np.array_equal(read_estimator(write_estimator(brute)).predict(ROWS), brute.predict(ROWS))

"""Fitted scikit-learn estimators as bytes: written and read by skops, which unpickles nothing."""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustbench_cli.benchmarks.weights.packed_size import excessive_size
from robustbench_cli.benchmarks.weights.tree_indices import require_sound_trees
from robustbench_cli.core.errors import UserError, one_line
from robustbench_cli.core.libraries import require_library

__all__ = ["ESTIMATOR", "SCHEMA", "as_tensor", "read_estimator", "write_estimator"]

ESTIMATOR = "estimator"
"""The name of an estimator's bytes in a state dict."""

SCHEMA = "schema.json"
"""The file in a skops archive that describes the estimator."""

_TRUSTED = frozenset(
    {
        "sklearn.calibration._CalibratedClassifier",
        "sklearn.calibration._SigmoidCalibration",
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
        "sklearn.gaussian_process._gpc._BinaryGaussianProcessClassifierLaplace",
        "sklearn.gaussian_process.kernels.ConstantKernel",
        "sklearn.gaussian_process.kernels.Product",
        "sklearn.gaussian_process.kernels.RBF",
        "sklearn.multiclass._ConstantPredictor",
        "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
        "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
        "sklearn.tree._tree.Tree",
        "sklearn.utils._bunch.Bunch",
    }
)
"""Parts of scikit-learn's own classifiers that skops leaves to its user: numbers and no code.

Search trees of neighbors are not among them: compiled code follows their indices, and nothing checks these.
"""

_SEARCH_TREES = ("sklearn.neighbors.", "sklearn.metrics._dist_metrics.")
"""The types of these trees and of their distances."""

_NUMBER, _FILE = re.compile(r'(?<="__id__": )\d+'), re.compile(r'(?<="file": ")[^"]+')
_FIXED_TIME = (1980, 1, 1, 0, 0, 0)


def write_estimator(estimator: Any) -> Tensor:
    """The bytes of a fitted estimator, the same for equal estimators.

    Args:
        estimator: An estimator of scikit-learn.

    Returns:
        ``(B,)`` uint8.

    Raises:
        UserError: skops is not installed, or cannot write the estimator.
    """
    skops = _skops()
    try:
        data = skops.dumps(estimator)
    except Exception as error:
        raise UserError(f"skops cannot write a {type(estimator).__name__}: {one_line(error)}") from error
    return as_tensor(_canonical(data))


def read_estimator(data: Tensor) -> Any:
    """The estimator in the bytes of a skops file.

    skops builds objects of known types only. Those of scikit-learn and NumPy are trusted, and no others.

    Args:
        data: ``(B,)`` uint8; a tensor from a file may be another.

    Raises:
        UserError: skops is not installed, the tensor holds no bytes, they are damaged or unpack to much more, or they name a
            type that is not trusted, or a tree leads outside. The message continues a sentence about the estimator.
    """
    skops = _skops()
    if data.dtype != torch.uint8 or data.dim() != 1:
        raise UserError(f"is a tensor {tuple(data.shape)} of {data.dtype}: give the bytes of a skops file, (B,) uint8")
    content = data.cpu().numpy().tobytes()
    try:
        # They may come out of another file, whose own size says nothing of it.
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            excess = excessive_size(archive, len(content))
        unknown = [] if excess else sorted(set(skops.get_untrusted_types(data=content)) - _TRUSTED)
    except Exception as error:  # noqa: BLE001 - a damaged file can raise any exception
        raise UserError(f"is cut off or damaged ({one_line(error)}): save it again by skops.io.dump") from None
    if excess is not None:
        raise UserError(f"{excess}: save it again by skops.io.dump, which packs nothing")
    if unknown:
        if all(name.startswith(_SEARCH_TREES) for name in unknown):
            raise UserError("has a search tree of neighbors, which no file may have: fit it with algorithm='brute'")
        names = ", ".join(unknown[:3])
        raise UserError(f"needs code outside of scikit-learn and NumPy ({names:.200}): fit an estimator without it")
    try:
        estimator = skops.loads(content, trusted=sorted(_TRUSTED))
        require_sound_trees(estimator)
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001 - a damaged file can raise any exception
        raise UserError(f"cannot be read by this version of scikit-learn ({one_line(error)}): fit it again") from None
    return estimator


def as_tensor(data: bytes) -> Tensor:
    """Bytes as a tensor ``(B,)`` of uint8."""
    return torch.from_numpy(np.frombuffer(data, np.uint8).copy())


def _skops() -> Any:
    return require_library("skops.io", extra="sklearn", needed_by="a file of a scikit-learn model")


def _canonical(data: bytes) -> bytes:
    """The same archive without the time and the memory addresses of its writing, on which its hash would depend."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    schema = parts.pop(SCHEMA).decode()
    numbers = {number: str(index) for index, number in enumerate(dict.fromkeys(_NUMBER.findall(schema)))}
    files = {name: f"{index}{Path(name).suffix}" for index, name in enumerate(dict.fromkeys(_FILE.findall(schema)))}
    schema = _NUMBER.sub(lambda match: numbers[match[0]], schema)
    named = {files[name]: part for name, part in parts.items()}
    named[SCHEMA] = _FILE.sub(lambda match: files[match[0]], schema).encode()
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for name, part in sorted(named.items()):
            archive.writestr(zipfile.ZipInfo(name, _FIXED_TIME), part)
    return written.getvalue()

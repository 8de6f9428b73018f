"""Checks the indices in the trees of an estimator from a file, which compiled code of scikit-learn follows without a check."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustbench_cli.core.errors import UserError

__all__ = ["require_sound_trees"]


def require_sound_trees(estimator: Any) -> None:
    """Checks that every tree in an estimator leads to its own nodes and to features that its rows have.

    Args:
        estimator: An estimator of scikit-learn, from a file.

    Raises:
        UserError: A tree does not. The message continues a sentence about the estimator.
    """
    from sklearn.ensemble._hist_gradient_boosting.predictor import TreePredictor
    from sklearn.tree._tree import Tree

    for part, features in _parts(estimator):
        if isinstance(part, Tree):
            inner = part.children_left >= 0
            children = np.stack([part.children_left, part.children_right])
            sound = _leads_down(children, inner) and _below(part.feature[inner], features)
        elif isinstance(part, TreePredictor):
            inner = part.nodes["is_leaf"] == 0
            children = np.stack([part.nodes["left"], part.nodes["right"]]).astype(np.int64)
            categories = part.nodes["bitset_idx"][inner & (part.nodes["is_categorical"] != 0)]
            sound = _leads_down(children, inner) and _below(part.nodes["feature_idx"][inner], features)
            sound = sound and _below(categories, len(part.raw_left_cat_bitsets))
        else:
            continue
        if not sound:
            raise UserError("has a tree whose indices lead outside: fit it again")


def _leads_down(children: NDArray[np.int64], inner: NDArray[np.bool_]) -> bool:
    """Whether the children ``(2, n)`` of all inner nodes come later in the tree, so that each path ends at a leaf."""
    numbers = np.arange(children.shape[1])
    return bool(((children > numbers) & (children < len(numbers)))[:, inner].all()) and len(numbers) > 0


def _below(indices: NDArray[Any], count: int) -> bool:
    return bool(((indices >= 0) & (indices < count)).all())


def _parts(estimator: Any) -> Iterator[tuple[Any, int]]:
    """Everything inside an estimator, with the number of features of the rows that it gets."""
    from sklearn.ensemble._forest import BaseForest
    from sklearn.ensemble._gb import BaseGradientBoosting

    seen: set[tuple[int, int]] = set()
    waiting: list[tuple[Any, int, bool]] = [(estimator, 0, False)]
    while waiting:
        part, features, fixed = waiting.pop()
        # Forests and boosting hand their rows to compiled code without a look at what their trees say.
        if not fixed:
            features = getattr(part, "n_features_in_", features)
        if isinstance(part, str | bytes) or not isinstance(features, int) or (id(part), features) in seen:
            continue
        seen.add((id(part), features))
        yield part, features
        fixed = fixed or isinstance(part, BaseForest | BaseGradientBoosting)
        waiting += [(child, features, fixed) for child in _children(part)]


def _children(part: Any) -> list[Any]:
    if isinstance(part, dict):
        return list(part.values())
    if isinstance(part, list | tuple | set):
        return list(part)
    if isinstance(part, np.ndarray):
        return part.ravel().tolist() if part.dtype == object else []
    return list(vars(part).values()) if hasattr(part, "__dict__") and not isinstance(part, type) else []

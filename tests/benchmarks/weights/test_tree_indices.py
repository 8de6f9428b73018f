from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import (
    BaggingClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    StackingClassifier,
)
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures
from sklearn.tree import DecisionTreeClassifier
from sklearn.tree._tree import Tree

from robustbench_cli.benchmarks.weights.tree_indices import require_sound_trees
from robustbench_cli.core.errors import UserError

ROWS, LABELS = np.random.default_rng(0).random((60, 5)), np.arange(60) % 3

TREE = DecisionTreeClassifier(random_state=0, max_depth=3)
FOREST = RandomForestClassifier(3, random_state=0, max_depth=3)
BOOSTING = GradientBoostingClassifier(n_estimators=2, random_state=0)
HISTOGRAM = HistGradientBoostingClassifier(max_iter=2, categorical_features=[0], min_samples_leaf=3)


@pytest.mark.parametrize(
    "estimator",
    [
        *(TREE, FOREST, BOOSTING, HISTOGRAM),
        BaggingClassifier(n_estimators=2, max_features=0.5, random_state=0),
        make_pipeline(PolynomialFeatures(), TREE),
        StackingClassifier([("few", LogisticRegression()), ("forest", FOREST)], final_estimator=TREE, cv=2),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_trees_of_scikit_learn_are_sound(estimator: Any) -> None:
    """Also where the trees get other features than the pixels."""
    require_sound_trees(estimator.fit(np.round(ROWS * 4), LABELS))


def with_nodes(tree: Any, change: Callable[[Any], None]) -> Any:
    """A tree with other nodes."""
    state = tree.__getstate__()
    state["nodes"] = state["nodes"].copy()
    change(state["nodes"])
    changed = Tree(tree.n_features, np.asarray(tree.n_classes), tree.n_outputs)
    changed.__setstate__(state)
    return changed


def leads_outside(nodes: Any) -> None:
    nodes["left_child"][0] = 10**6


def leads_back(nodes: Any) -> None:
    nodes["right_child"][0] = 0


def has_a_feature_too_many(nodes: Any) -> None:
    nodes["feature"][0] = 5


@pytest.mark.parametrize("change", [leads_outside, leads_back, has_a_feature_too_many])
def test_a_tree_that_leads_elsewhere(change: Callable[[Any], None]) -> None:
    """Compiled code would read beyond its memory, or never end; also in a forest whose parts claim more features."""
    fitted = DecisionTreeClassifier(random_state=0, max_depth=3).fit(ROWS, LABELS)
    fitted.tree_ = with_nodes(fitted.tree_, change)
    forest = RandomForestClassifier(3, random_state=0, max_depth=3).fit(ROWS, LABELS)
    forest.estimators_[1] = fitted
    fitted_boosting = GradientBoostingClassifier(n_estimators=2, random_state=0).fit(ROWS, LABELS)
    fitted_boosting.estimators_[0, 0] = fitted
    for estimator in (fitted, forest, fitted_boosting):
        with pytest.raises(UserError, match="has a tree whose indices lead outside"):
            require_sound_trees(estimator)
        fitted.n_features_in_ = 6


@pytest.mark.parametrize(("field", "value"), [("left", 10**6), ("right", 0), ("feature_idx", 5), ("bitset_idx", 9)])
def test_a_boosted_tree_that_leads_elsewhere(field: str, value: int) -> None:
    """Its categories have indices too."""
    fitted = HistGradientBoostingClassifier(max_iter=2, categorical_features=[0], min_samples_leaf=3)
    fitted.fit(np.round(ROWS * 4), LABELS)
    for predictor in fitted._predictors[0]:
        inner = predictor.nodes["is_leaf"] == 0
        chosen = inner & (predictor.nodes["is_categorical"] != 0) if field == "bitset_idx" else inner
        predictor.nodes[field][chosen] = value
    with pytest.raises(UserError, match="has a tree whose indices lead outside"):
        require_sound_trees(fitted)

"""Builds an estimator of scikit-learn from its name, as in ``StandardScaler,SVC?C=10``."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, quote

from robustbench_cli.core.errors import UserError, did_you_mean, one_line
from robustbench_cli.core.settings import read_value

__all__ = ["EstimatorName", "name_of", "steps_of"]

_CLASSIFIERS = {
    "discriminant_analysis": ("LinearDiscriminantAnalysis", "QuadraticDiscriminantAnalysis"),
    "dummy": ("DummyClassifier",),
    "ensemble": (
        *("AdaBoostClassifier", "BaggingClassifier", "ExtraTreesClassifier", "GradientBoostingClassifier"),
        *("HistGradientBoostingClassifier", "RandomForestClassifier"),
    ),
    "gaussian_process": ("GaussianProcessClassifier",),
    "linear_model": (
        *("LogisticRegression", "LogisticRegressionCV", "Perceptron", "RidgeClassifier", "RidgeClassifierCV"),
        "SGDClassifier",
    ),
    "naive_bayes": ("BernoulliNB", "CategoricalNB", "ComplementNB", "GaussianNB", "MultinomialNB"),
    "neighbors": ("KNeighborsClassifier", "NearestCentroid", "RadiusNeighborsClassifier"),
    "neural_network": ("MLPClassifier",),
    "svm": ("LinearSVC", "NuSVC", "SVC"),
    "tree": ("DecisionTreeClassifier", "ExtraTreeClassifier"),
}
"""The classifiers that need no other estimator, by their modules in scikit-learn: to list all of its own takes seconds."""

_COMPOSED = {
    "calibration": ("CalibratedClassifierCV",),
    "ensemble": ("StackingClassifier", "VotingClassifier"),
    "multiclass": ("OneVsOneClassifier", "OneVsRestClassifier", "OutputCodeClassifier"),
}
"""The classifiers that combine other estimators: they come from files only."""

_TRANSFORMERS = {
    "decomposition": ("FastICA", "IncrementalPCA", "KernelPCA", "NMF", "PCA", "TruncatedSVD"),
    "kernel_approximation": ("Nystroem", "RBFSampler"),
    "preprocessing": (
        *("Binarizer", "KBinsDiscretizer", "MaxAbsScaler", "MinMaxScaler", "Normalizer", "PolynomialFeatures"),
        *("PowerTransformer", "QuantileTransformer", "RobustScaler", "StandardScaler"),
    ),
}
"""The steps that may come before a classifier, by their modules."""

_REGRESSORS = ("Regressor", "Regression", "SVR", "Lasso", "Ridge", "ElasticNet")
"""The ends of the names of estimators that predict numbers."""


class EstimatorName:
    """The name of an estimator, with its parameters.

    Args:
        text: The steps of a pipeline with commas between them, the classifier last; and parameters, as in
            ``PCA,SVC?C=10&pca__n_components=20``. Those of a step are named as in scikit-learn, ``pca__n_components``; without
            a step they are the classifier's.

    Attributes:
        steps: The names of the classes.
        parameters: The values, by name, as they were written.

    Raises:
        UserError: A name is unknown or is no classifier, or a parameter is unknown.
    """

    def __init__(self, text: str) -> None:
        names, _, query = text.partition("?")
        self.steps = tuple(names.split(","))
        self.parameters = _parameters(query)
        *transformers, classifier = self.steps
        if any(classifier in names for names in _TRANSFORMERS.values()):
            raise UserError(
                f"{classifier} of scikit-learn is a transformer: the classifier comes last, as in sklearn:PCA,SVC"
            )
        for name in transformers:
            _require(name, [_TRANSFORMERS], kind="transformer")
        if classifier.endswith(_REGRESSORS) and classifier != "LogisticRegression":
            raise UserError(
                f"{classifier} of scikit-learn is a regressor, which predicts no classes: give a classifier, such as "
                "sklearn:LogisticRegression"
            )
        _require(classifier, [_CLASSIFIERS, _COMPOSED], kind="classifier")
        if self.parameters:
            self.build(seed=0)

    @property
    def text(self) -> str:
        """The name in the form that every equal name has."""
        query = "&".join(f"{key}={quote(value, safe='')}" for key, value in sorted(self.parameters.items()))
        return ",".join(self.steps) + (f"?{query}" if query else "")

    def build(self, *, seed: int) -> Any:
        """The estimator, not fitted yet.

        Args:
            seed: Its ``random_state``, unless the parameters have one.

        Raises:
            UserError: A parameter is unknown, or the classifier combines other estimators.
        """
        from sklearn.pipeline import make_pipeline

        if any(self.steps[-1] in names for names in _COMPOSED.values()):
            raise UserError(
                f"{self.steps[-1]} combines other estimators: fit it yourself, save it by skops.io.dump(estimator, "
                "'model.skops'), and give --checkpoint model.skops"
            )
        tables = [_TRANSFORMERS] * (len(self.steps) - 1) + [_CLASSIFIERS]
        built = [_class_of(name, table)() for name, table in zip(self.steps, tables, strict=True)]
        estimator = built[0] if len(built) == 1 else make_pipeline(*built)
        prefix = "" if len(built) == 1 else f"{estimator.steps[-1][0]}__"
        known = estimator.get_params()
        values = {key if key in known else f"{prefix}{key}": read_value(text) for key, text in self.parameters.items()}
        for key in values.keys() - known.keys():
            raise UserError(f"sklearn:{','.join(self.steps)} has no parameter '{key}': {did_you_mean(key, known)}")
        usual = {key: seed for key in known if key.rpartition("__")[2] == "random_state"}
        # A file may have no search tree of neighbors.
        usual |= {key: "brute" for key in known if key.rpartition("__")[2] == "algorithm" and known[key] == "auto"}
        try:
            return estimator.set_params(**(usual | values))
        except Exception as error:
            raise UserError(f"sklearn:{self.text} cannot be built: {one_line(error)}") from error


def _parameters(query: str) -> dict[str, str]:
    """The values of ``NAME=VALUE&...``.

    Raises:
        UserError: One has no value, or is given twice.
    """
    pairs = parse_qsl(query, keep_blank_values=True)
    for key, value in pairs:
        if not value:
            raise UserError(f"the parameter {key} of the estimator has no value: give {key}=VALUE")
    values = dict(pairs)
    if len(values) < len(pairs):
        twice = next(key for number, (key, _) in enumerate(pairs) if key in {before for before, _ in pairs[:number]})
        raise UserError(f"the estimator has the parameter {twice} twice: give it once")
    return values


def name_of(estimator: Any) -> str:
    """The name of an estimator that is built already: the classes of its steps, without their parameters.

    Args:
        estimator: An estimator of scikit-learn.

    Raises:
        UserError: It comes from a file whose pipeline is damaged.
    """
    return ",".join(type(step).__name__ for step in steps_of(estimator))


def steps_of(estimator: Any) -> list[Any]:
    """The steps of a pipeline that do something, or the estimator alone.

    Args:
        estimator: An estimator of scikit-learn.

    Raises:
        UserError: It comes from a file whose pipeline is damaged.
    """
    try:
        steps = [step for _, step in estimator.steps] if hasattr(estimator, "steps") else [estimator]
    except (TypeError, ValueError):
        raise UserError("its pipeline has steps that are no pairs of a name and an estimator: save it again") from None
    # The others are None and "passthrough".
    return [step for step in steps if step is not None and not isinstance(step, str)]


def _require(name: str, tables: Sequence[Mapping[str, tuple[str, ...]]], *, kind: str) -> None:
    known = [known for table in tables for names in table.values() for known in names]
    if name not in known:
        raise UserError(f"scikit-learn has no {kind} '{name}' that advdef knows: {did_you_mean(name, known)}")


def _class_of(name: str, table: Mapping[str, tuple[str, ...]]) -> Any:
    module = next(module for module, names in table.items() if name in names)
    return getattr(importlib.import_module(f"sklearn.{module}"), name)

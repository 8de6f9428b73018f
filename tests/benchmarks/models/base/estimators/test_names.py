from __future__ import annotations

import pytest
from sklearn.pipeline import Pipeline
from sklearn.svm import SVC

from robustbench_cli.benchmarks.models.base.estimators.names import EstimatorName, name_of
from robustbench_cli.core.errors import UserError


def test_parameters_reach_the_estimator() -> None:
    estimator = EstimatorName("SVC?C=2.5&kernel=poly&gamma=1/4").build(seed=7)
    assert isinstance(estimator, SVC)
    assert (estimator.C, estimator.kernel, estimator.gamma, estimator.random_state) == (2.5, "poly", 0.25, 7)


def test_parameters_of_a_pipeline() -> None:
    """A parameter without a step is the classifier's; the seed reaches all steps, unless the name has one."""
    pipeline = EstimatorName("PCA,SVC?pca__n_components=3&C=4&svc__random_state=5").build(seed=7)
    assert name_of(pipeline) == "PCA,SVC"
    assert (pipeline["pca"].n_components, pipeline["svc"].C) == (3, 4)
    assert (pipeline["pca"].random_state, pipeline["svc"].random_state) == (7, 5)


def test_equal_names_have_one_form() -> None:
    assert EstimatorName("SVC?kernel=rbf&C=1").text == EstimatorName("SVC?C=1&kernel=rbf").text == "SVC?C=1&kernel=rbf"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("RandomForestClasifier", "no classifier 'RandomForestClasifier' .*did you mean 'RandomForestClassifier'"),
        ("SVR", "SVR of scikit-learn is a regressor, which predicts no classes"),
        ("svc", "did you mean 'SVC'"),
        ("Scaler,SVC", "no transformer 'Scaler'"),
        ("SVC,PCA", "PCA of scikit-learn is a transformer: the classifier comes last"),
        ("SVC,SVC", "no transformer 'SVC'"),
        ("SVC?C", "the parameter C of the estimator has no value: give C=VALUE"),
        ("SVC?C=10&C=20", "the estimator has the parameter C twice"),
        ("SVC?c=3", "sklearn:SVC has no parameter 'c': did you mean 'C'"),
    ],
)
def test_a_wrong_name(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        EstimatorName(text)


def test_a_combination_of_estimators_comes_from_a_file() -> None:
    with pytest.raises(
        UserError, match=r"VotingClassifier combines other estimators: fit it yourself, .* --checkpoint"
    ):
        EstimatorName("VotingClassifier").build(seed=0)


@pytest.mark.parametrize("steps", [[SVC()], 3, [("svc", SVC(), 1)]])
def test_a_damaged_pipeline(steps: object) -> None:
    """A file may give a pipeline any steps."""
    pipeline = Pipeline([("svc", SVC())])
    pipeline.steps = steps
    with pytest.raises(UserError, match="steps that are no pairs"):
        name_of(pipeline)

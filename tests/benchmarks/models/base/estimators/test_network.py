from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.multiclass import OutputCodeClassifier
from sklearn.naive_bayes import GaussianNB

from robustbench_cli.attacks.base.models.passes import NoGradientError
from robustbench_cli.benchmarks.models.base.estimators.names import EstimatorName
from robustbench_cli.benchmarks.models.base.estimators.network import EstimatorNetwork
from robustbench_cli.benchmarks.weights.skops_file import ESTIMATOR, write_estimator
from robustbench_cli.core.errors import UserError

from .conftest import CLASSES, SHAPE, Examples

FOREST = "RandomForestClassifier?n_estimators=5"


def empty(name: str = "LogisticRegression") -> EstimatorNetwork:
    return EstimatorNetwork(EstimatorName(name), shape=SHAPE, classes=CLASSES)


@pytest.mark.parametrize(
    "name",
    [
        *("LogisticRegression", "KNeighborsClassifier?n_neighbors=2", FOREST, "GaussianNB", "DecisionTreeClassifier"),
        *("HistGradientBoostingClassifier?max_iter=3", "AdaBoostClassifier?n_estimators=3", "NearestCentroid", "SVC"),
        "StandardScaler,KNeighborsClassifier",
    ],
)
def test_accuracy_is_the_score_of_scikit_learn(examples: Examples, name: str) -> None:
    """The classes are the same image by image, and the accuracy is its ``score``."""
    network = examples.learned(name)
    images = torch.rand(60, *SHAPE, generator=torch.Generator().manual_seed(1))
    predicted = network(images).argmax(1)
    rows = images.flatten(1).double().numpy()
    assert np.array_equal(predicted.numpy(), network.fitted.predict(rows))
    labels = torch.arange(60) % CLASSES
    assert (predicted == labels).double().mean().item() == network.fitted.score(rows, labels.numpy())


def test_the_logits_of_a_forest_are_logarithms_of_its_probabilities(examples: Examples) -> None:
    network = examples.learned(FOREST)
    probabilities = torch.from_numpy(network.fitted.predict_proba(examples.rows)).float()
    assert torch.allclose(network(examples.images).exp(), probabilities.clamp_min(1e-6), atol=1e-6)


def test_an_estimator_of_decisions_only(examples: Examples) -> None:
    """Without probabilities and decision values, the predicted class has the logit 1."""
    estimator = OutputCodeClassifier(LogisticRegression(), random_state=0).fit(examples.rows, examples.labels.numpy())
    network = empty("OutputCodeClassifier")
    network.resize({ESTIMATOR: write_estimator(estimator)})
    expected = torch.nn.functional.one_hot(torch.from_numpy(estimator.predict(examples.rows)), CLASSES)
    assert torch.equal(network(examples.images), expected.float())


def test_the_logits_of_naive_bayes_do_not_saturate(examples: Examples) -> None:
    """Far from the boundary its probabilities are 0 and 1, and its logits are as far apart as scikit-learn's logarithms."""
    narrow = GaussianNB().fit(examples.rows, examples.labels)
    narrow.var_ /= 1000
    network = empty("GaussianNB")
    network.resize({ESTIMATOR: write_estimator(narrow)})
    rows = examples.images.flatten(1).double().numpy()
    expected = torch.from_numpy(narrow.predict_log_proba(rows)).float()
    assert (narrow.predict_proba(rows) == 0).mean() > 0.5
    torch.testing.assert_close(network(examples.images), expected, rtol=1e-6, atol=0)


def test_an_estimator_without_its_weights(examples: Examples) -> None:
    incomplete = LogisticRegression().fit(examples.rows, examples.labels)
    del incomplete.coef_
    with pytest.raises(UserError, match=r"estimator lacks what fit would give it \(.*coef_.*\): fit it again"):
        empty().resize({ESTIMATOR: write_estimator(incomplete)})


def test_attacks_by_gradients_are_refused_with_those_that_work(examples: Examples) -> None:
    with pytest.raises(
        NoGradientError, match=r"sklearn:RandomForest.* has no gradient: give an attack on its scores \(square"
    ):
        examples.learned(FOREST)(examples.images.clone().requires_grad_())


def test_a_state_dict_holds_the_estimator(examples: Examples) -> None:
    """Also where the other network is of another size; a copy computes the same."""
    network, other = examples.learned(FOREST), empty(FOREST)
    assert not other(examples.images).any()
    other.load_state_dict(network.state_dict())
    assert list(network.state_dict()) == [ESTIMATOR]
    assert torch.equal(other(examples.images), network(examples.images))
    assert torch.equal(copy.deepcopy(other)(examples.images), network(examples.images))


def test_equal_seeds_learn_equal_networks(examples: Examples) -> None:
    assert torch.equal(examples.learned(FOREST).estimator, examples.learned(FOREST).estimator)
    other = empty(FOREST)
    other.learn(examples.images, examples.labels, seed=1)
    assert not torch.equal(other.estimator, examples.learned(FOREST).estimator)


def test_an_impossible_parameter() -> None:
    with pytest.raises(
        UserError, match=r"sklearn:SVC\?C=-1 cannot be fitted: InvalidParameterError: The 'C' parameter"
    ):
        empty("SVC?C=-1").learn(torch.rand(8, *SHAPE), torch.arange(8) % CLASSES, seed=0)


@pytest.mark.parametrize(
    ("estimator", "columns", "classes", "message"),
    [
        (LinearRegression(), 9, CLASSES, "is a LinearRegression, which predicts no classes"),
        (LogisticRegression(C=2), 4, CLASSES, "takes 4 features, and an image has 9 pixels"),
        (LogisticRegression(C=3), 9, 3, "has the 3 classes 0, 1, 2, .*, and the data 0 to 3"),
    ],
)
def test_an_estimator_that_does_not_fit(
    examples: Examples, estimator: LogisticRegression, columns: int, classes: int, message: str
) -> None:
    estimator.fit(examples.rows[:, :columns], examples.labels.numpy() % classes)
    with pytest.raises(UserError, match=f"estimator {message}"):
        empty().resize({ESTIMATOR: write_estimator(estimator)})


def test_another_estimator_than_the_name_says(examples: Examples) -> None:
    data = examples.learned("GaussianNB").estimator
    with pytest.raises(UserError, match="is a GaussianNB, not a LogisticRegression: give --model sklearn:GaussianNB"):
        empty().resize({ESTIMATOR: data})

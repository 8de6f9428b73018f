from __future__ import annotations

import numpy as np
import pytest
import torch

from .conftest import Examples


@pytest.mark.parametrize(
    "name",
    [
        *("LogisticRegression", "LinearSVC", "SGDClassifier", "Perceptron", "RidgeClassifier?fit_intercept=false"),
        *("LinearDiscriminantAnalysis", "StandardScaler,LogisticRegression", "MinMaxScaler,LinearSVC"),
        *("MaxAbsScaler,PCA,LogisticRegression?pca__n_components=4&pca__whiten=true",),
    ],
)
@pytest.mark.parametrize("classes", [2, 4])
def test_a_linear_classifier_has_the_decision_values_of_scikit_learn(
    examples: Examples, name: str, classes: int
) -> None:
    data = examples if classes == 4 else examples.binary()
    network = data.learned(name)
    logits = network(data.images).double()
    values = torch.from_numpy(np.asarray(network.fitted.decision_function(data.rows)))
    assert torch.allclose(logits[:, 1] - logits[:, 0] if classes == 2 else logits, values, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize("classes", [2, 4])
def test_a_perceptron_has_the_probabilities_of_scikit_learn(examples: Examples, activation: str, classes: int) -> None:
    data = examples if classes == 4 else examples.binary()
    network = data.learned(f"MLPClassifier?hidden_layer_sizes=[5,4]&activation={activation}&max_iter=15")
    probabilities = torch.from_numpy(network.fitted.predict_proba(data.rows))
    assert torch.allclose(network(data.images).double().softmax(1), probabilities, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["GaussianNB", "Normalizer,LogisticRegression", "MinMaxScaler,SVC?minmaxscaler__clip=true"]
)
def test_others_have_no_layers(examples: Examples, name: str) -> None:
    assert examples.learned(name).layers is None


def test_whitening_without_variance_has_no_layers(examples: Examples) -> None:
    """A component of a pixel that is always the same: scikit-learn divides its rounding by next to nothing."""
    images = examples.images.clone()
    images[:, :, 0] = 0.3
    network = examples._replace(images=images).learned("PCA,LogisticRegression?pca__whiten=true")
    rows = images.flatten(1).double().numpy()
    assert network.layers is None
    assert np.array_equal(network(images).argmax(1).numpy(), network.fitted.predict(rows))

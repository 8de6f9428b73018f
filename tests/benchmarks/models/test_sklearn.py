from __future__ import annotations

import pickle
from pathlib import Path

import joblib
import pytest
import skops.io
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LinearRegression, LogisticRegression

from robustbench_cli.benchmarks.checkpoints.checkpoint import load_checkpoint
from robustbench_cli.benchmarks.checkpoints.defended_model import method_spec
from robustbench_cli.benchmarks.datasets.base.load import load_dataset
from robustbench_cli.benchmarks.datasets.base.slice import first_examples
from robustbench_cli.benchmarks.models import registry
from robustbench_cli.benchmarks.models.base.build import build_untrained, is_trained
from robustbench_cli.benchmarks.training.model_cache import ModelCache
from robustbench_cli.core.errors import Notice, UserError
from robustbench_cli.defenses import registry as defenses

FOREIGN = {"shape": (1, 8, 8), "classes": 10}
TREE = "sklearn:DecisionTreeClassifier?max_depth=8"


@pytest.fixture(scope="module")
def fitted() -> LogisticRegression:
    """A classifier of scikit-learn's digits, with pixels in [0, 1]."""
    pixels, labels = load_digits(return_X_y=True)
    return LogisticRegression(max_iter=20, tol=0.1).fit(pixels / 16, labels)


@pytest.mark.parametrize("normalization", [None, 0.5])
def test_a_training_writes_a_checkpoint_that_scores_as_scikit_learn(
    tmp_path: Path, normalization: float | None
) -> None:
    """Also behind a normalization: the tree was fitted on what it makes of the images. A second training is the same."""
    cache = ModelCache(dataset="digits", data_dir=None, device=torch.device("cpu"), seed=0, recipe={})
    values = None if normalization is None else (normalization,)
    training = cache.training(model=TREE, mean=values, std=values)
    defended = cache.trained(training, tmp_path / "tree.safetensors")
    model, test = defended.load(), first_examples(load_dataset("digits").split("test"), 200)
    tree = next(module.fitted for module in model.modules() if hasattr(module, "fitted"))
    rows = test.images if normalization is None else (test.images - 0.5) / 0.5
    accuracy = (model(test.images).argmax(1) == test.labels).double().mean().item()
    assert accuracy == tree.score(rows.flatten(1).double().numpy(), test.labels.numpy()) > 0.7
    assert cache.trained(training, tmp_path / "again.safetensors").identity == defended.identity


def test_a_defense_without_a_training_goes_around_it() -> None:
    """It takes the fitted classifier from the cache."""
    cache = ModelCache(dataset="digits", data_dir=None, device=torch.device("cpu"), seed=0, recipe={})
    plain = cache.trained(cache.training(model=TREE)).load()
    jpeg = method_spec(defenses, "jpeg", {}).spec
    wrapped = cache.trained(cache.training(model=TREE, defenses=(jpeg,))).load()
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert wrapped(images).shape == plain(images).shape
    assert torch.equal(wrapped.state_dict()[next(iter(wrapped.state_dict()))], plain.state_dict()["estimator"])


def test_a_file_of_skops_needs_no_name(fitted: LogisticRegression, tmp_path: Path) -> None:
    skops.io.dump(fitted, tmp_path / "model.skops")
    with pytest.warns(Notice, match="as sklearn:LogisticRegression: 10 classes, images of 8 x 8"):
        loaded = load_checkpoint(tmp_path / "model.skops", **FOREIGN)
    test = first_examples(load_dataset("digits").split("test"), 100)
    predicted = fitted.predict(test.images.flatten(1).double().numpy())
    assert loaded.info.model == "sklearn:LogisticRegression"
    assert loaded.model(test.images).argmax(1).tolist() == predicted.tolist()


def test_pickles_are_refused_with_the_way_out(fitted: LogisticRegression, tmp_path: Path) -> None:
    """Also compressed ones of joblib."""
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(fitted))
    joblib.dump(fitted, tmp_path / "model.joblib", compress=3)
    for name in ("model.pkl", "model.joblib"):
        with pytest.raises(UserError, match=r"could run code.*: where you trust it, .* skops.io.dump\(estimator"):
            load_checkpoint(tmp_path / name, **FOREIGN)


def test_other_files_of_skops_are_refused(tmp_path: Path) -> None:
    """A regressor, and images of another size."""
    pixels, labels = load_digits(return_X_y=True)
    skops.io.dump(LinearRegression().fit(pixels, labels), tmp_path / "regressor.skops")
    skops.io.dump(LogisticRegression(max_iter=1, tol=1e9).fit(pixels[:, :32], labels), tmp_path / "half.skops")
    with pytest.raises(UserError, match="LinearRegression of scikit-learn is a regressor"):
        load_checkpoint(tmp_path / "regressor.skops", **FOREIGN)
    with pytest.raises(
        UserError, match=r"half.skops does not fit .*: estimator takes 32 features, and an image has 64"
    ):
        load_checkpoint(tmp_path / "half.skops", **FOREIGN)


def test_its_name() -> None:
    """A checkpoint may name it with parameters, in one form; it has no weights to name."""
    assert registry.is_installed("sklearn:PCA,SVC?C=10&pca__n_components=20")
    assert not registry.is_installed("sklearn:SVC?C=/etc/passwd")
    assert not is_trained("sklearn:SVC")
    with pytest.raises(UserError, match="sklearn:SVC has no published weights: leave out '@best'"):
        build_untrained("sklearn:SVC@best", **FOREIGN)
    with pytest.raises(UserError, match="model sklearn needs a network's name: give sklearn:"):
        build_untrained("sklearn:", **FOREIGN)

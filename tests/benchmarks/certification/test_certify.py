from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.benchmarks.certification import by_smoothing as smoothing
from robustbench_cli.benchmarks.certification import certify as certification
from robustbench_cli.benchmarks.certification.by_smoothing import Smoothing, certificates, sampled
from robustbench_cli.benchmarks.certification.certify import certified
from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel, method_spec
from robustbench_cli.benchmarks.datasets.base.load import load_dataset
from robustbench_cli.benchmarks.datasets.base.slice import Slice, first_examples
from robustbench_cli.benchmarks.evaluation.evaluate import evaluate
from robustbench_cli.benchmarks.training.model_cache import ModelCache
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses import registry as defenses
from robustbench_cli.defenses.base.decision_rules import with_decision_rule
from robustbench_cli.defenses.randomized_smoothing import base_classifier

MakeCache = Callable[..., ModelCache]


@pytest.fixture
def smoothed(cache: MakeCache) -> DefendedModel:
    """A network that was trained with noise."""
    prepared = cache(epochs=15)
    return prepared.trained(prepared.training(defenses=(method_spec(defenses, "randomized-smoothing", {}).spec,)))


@pytest.fixture
def test_images() -> Slice:
    return first_examples(load_dataset("digits").split("test"), 40)


SMOOTHING = Smoothing(sigma=0.25, samples=400)


def certify(defended: DefendedModel, data: Slice, store: Path, **changes: Any) -> certification.CertifiedModel:
    usual: dict[str, Any] = {
        "procedure": SMOOTHING,
        "dataset": "digits",
        "seed": 0,
        "store": store,
        "device": torch.device("cpu"),
        "batch_size": None,
    }
    return certified(defended, data, **(usual | changes))


def test_it_goes_on_where_it_was_killed(
    smoothed: DefendedModel, test_images: Slice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what is missing is computed, a half-written line among it, and the result is that of one that was not killed."""
    whole = certify(smoothed, test_images, tmp_path / "whole")

    def killed(*args: Any, **kwargs: Any) -> Any:
        yield from itertools.islice(sampled(*args, **kwargs), 25)
        raise KeyboardInterrupt

    monkeypatch.setattr(smoothing, "sampled", killed)
    with pytest.raises(KeyboardInterrupt):
        certify(smoothed, test_images, tmp_path / "killed")
    (lines,) = (tmp_path / "killed" / "certification").glob("*.jsonl")
    content = lines.read_bytes()
    assert content.count(b"\n") == 25
    damaged = content[:-10].replace(b'"place":3,"top":', b'"place":3,"top":1')
    lines.write_bytes(damaged)
    asked: list[int] = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        asked.extend(kwargs["places"])
        return sampled(*args, **kwargs)

    monkeypatch.setattr(smoothing, "sampled", counted)
    done: list[int] = []
    resumed = certify(smoothed, test_images, tmp_path / "killed", progress=done.append)
    assert asked == [3, *range(24, 40)]
    assert done == list(range(23, 41))
    counts = [[(one.place, one.top, one.count) for one in each.images] for each in (whole, resumed)]
    assert counts[0] == counts[1]
    # Another alpha is told from the same draws, and nothing is asked again.
    again = certify(smoothed, test_images, tmp_path / "killed")
    assert len(asked) == 17
    radii = [again.rows([0.0], alpha=alpha)[0].average_certified_radius for alpha in (0.001, 0.1)]
    assert radii[0] < radii[1]
    certify(smoothed, test_images, tmp_path / "killed", seed=1)
    assert len(asked) == 57


def test_no_attack_succeeds_inside_a_certified_radius(smoothed: DefendedModel, test_images: Slice) -> None:
    """What PGD in l2 makes of certified images, at radii below their own, the smoothed model gets right.

    The attack follows the mean over 20 draws of one noisy pass; it is judged by a vote of 2000.
    """
    model = smoothed.load()
    base = base_classifier(model)
    labels = test_images.labels.numpy()
    draws = Smoothing(sigma=0.25, samples=1000)
    each = certificates(list(sampled(base, test_images.images, draws)), draws, alpha=0.001)
    noisy = with_decision_rule(model, "one-draw", draws=1, example=test_images.images[:1])
    judged = Smoothing(sigma=0.25, n0=2000, samples=1)
    fell = 0
    for eps in (0.2, 0.4):
        result = evaluate(
            noisy, test_images.images, test_images.labels, attack=PGD(steps=10), norm="l2", eps=eps, eot=20, repeats=1
        )
        voted = np.array([one.top for one in sampled(base, result.perturbed, judged, seed=1)])
        assert (voted == labels)[each.certified(labels, eps + 1e-6)].all()
        fell += int((voted != labels).sum())
    assert fell > 4


def test_figures_of_a_row(smoothed: DefendedModel, test_images: Slice, tmp_path: Path) -> None:
    """Certified accuracy, its average radius and abstentions are those counted image by image."""
    model = certify(smoothed, test_images, tmp_path)
    each = certificates(model.images, SMOOTHING, alpha=0.001)
    labels = test_images.labels.numpy()
    for row in model.rows([0.0, 0.1, 0.3, 9.0], alpha=0.001):
        right = [p == y and r >= row.eps for p, r, y in zip(each.predicted, each.radius, labels, strict=True)]
        assert row.certified_accuracy == pytest.approx(sum(right) / 40)
        assert row.certified_accuracy_low <= row.certified_accuracy <= row.certified_accuracy_high
        assert row.average_certified_radius == pytest.approx(np.mean(each.radius * (each.predicted == labels)))
        assert row.abstained == (each.predicted == -1).mean()
        assert row.forwards == 40 * 500
        assert (row.flags, row.sigma, row.n, row.norm) == ("", 0.25, 40, "l2")
    assert row.certified_accuracy == 0


def test_training_with_noise_counts(
    smoothed: DefendedModel, defended: DefendedModel, test_images: Slice, tmp_path: Path
) -> None:
    """A model that was not trained with noise has far smaller radii, and says so; so does one of other noise."""
    plain, noisy = (certify(each, test_images, tmp_path).rows([0.25], alpha=0.001)[0] for each in (defended, smoothed))
    assert plain.average_certified_radius < noisy.average_certified_radius - 0.05
    assert (plain.flags, noisy.flags) == ("no-noise-training", "")
    other = certify(smoothed, test_images, tmp_path, procedure=Smoothing(sigma=0.5, samples=10))
    assert other.rows([0], alpha=0.001)[0].flags == "other-noise"
    assert set(certification.CERTIFICATE_FLAGS) == {"no-noise-training", "other-noise", "no-bound-training"}


def test_images_of_another_shape(smoothed: DefendedModel, tmp_path: Path) -> None:
    """A model is certified on images that it takes."""
    data = Slice(images=torch.rand(2, 3, 8, 8), labels=torch.zeros(2, dtype=torch.int64), sha256="")
    with pytest.raises(UserError, match="takes images of shape"):
        certify(smoothed, data, tmp_path)

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.benchmarks.certification import by_smoothing
from robustbench_cli.benchmarks.certification.by_smoothing import Smoothing, certificates, sample_votes
from robustbench_cli.benchmarks.certification.certify import CertificationOptions, CertifiedModel, certify_model
from robustbench_cli.benchmarks.certification.procedures import Procedure
from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel, method_spec
from robustbench_cli.benchmarks.datasets.base.load import load_dataset
from robustbench_cli.benchmarks.datasets.base.slice import Slice, first_examples
from robustbench_cli.benchmarks.evaluation.evaluate import evaluate
from robustbench_cli.benchmarks.training.model_cache import ModelCache
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses import registry as defenses
from robustbench_cli.defenses.base.decision_rules import with_decision_rule
from robustbench_cli.defenses.randomized_smoothing import base_classifier

SMOOTHING = Smoothing(sigma=0.25, samples=400)


@pytest.fixture
def smoothed(cache: Callable[..., ModelCache]) -> DefendedModel:
    """A network that was trained with noise."""
    prepared = cache(epochs=15)
    return prepared.trained(prepared.training(defenses=(method_spec(defenses, "randomized-smoothing", {}).spec,)))


@pytest.fixture
def test_images() -> Slice:
    return first_examples(load_dataset("digits").split("test"), 40)


def certify(
    defended: DefendedModel, data: Slice, store: Path, *, procedure: Procedure = SMOOTHING, seed: int = 0, **more: Any
) -> CertifiedModel:
    options = CertificationOptions(procedure=procedure, seed=seed)
    return certify_model(defended, data, options, dataset="digits", store=store, **more)


def test_it_resumes_after_a_kill(
    smoothed: DefendedModel, test_images: Slice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It computes only the missing images, also those of damaged lines, and the result equals an undisturbed one."""
    undisturbed = certify(smoothed, test_images, tmp_path / "undisturbed")

    def killed(*args: Any, **kwargs: Any) -> Any:
        yield from itertools.islice(sample_votes(*args, **kwargs), 25)
        raise KeyboardInterrupt

    monkeypatch.setattr(by_smoothing, "sample_votes", killed)
    with pytest.raises(KeyboardInterrupt):
        certify(smoothed, test_images, tmp_path / "killed")
    (lines,) = (tmp_path / "killed" / "certification").glob("*.jsonl")
    content = lines.read_bytes()
    assert content.count(b"\n") == 25
    damaged = content[:-10].replace(b'"place":3,"top":', b'"place":3,"top":1')
    lines.write_bytes(damaged)
    computed: list[int] = []

    def recording(*args: Any, **kwargs: Any) -> Any:
        computed.extend(kwargs["indices"])
        return sample_votes(*args, **kwargs)

    monkeypatch.setattr(by_smoothing, "sample_votes", recording)
    done: list[int] = []
    resumed = certify(smoothed, test_images, tmp_path / "killed", progress=done.append)
    assert computed == [3, *range(24, 40)]
    assert done == list(range(23, 41))
    counts = [[(one.index, one.top, one.count) for one in model.images] for model in (undisturbed, resumed)]
    assert counts[0] == counts[1]
    # Another alpha uses the same draws: nothing is computed.
    complete = certify(smoothed, test_images, tmp_path / "killed")
    assert len(computed) == 17
    radii = [complete.rows([0.0], alpha=alpha)[0].average_certified_radius for alpha in (0.001, 0.1)]
    assert radii[0] < radii[1]
    certify(smoothed, test_images, tmp_path / "killed", seed=1)
    assert len(computed) == 57


def test_no_attack_succeeds_inside_a_certified_radius(smoothed: DefendedModel, test_images: Slice) -> None:
    """The smoothed model is right about all certified images after PGD at radii below their own.

    The attack follows the mean gradient over 10 noisy draws; a vote of 800 draws scores it.
    """
    model = smoothed.load()
    base = base_classifier(model)
    labels = test_images.labels.numpy()
    draws = Smoothing(sigma=0.25, samples=400)
    certified = certificates(list(sample_votes(base, test_images.images, draws)), draws, alpha=0.001)
    noisy = with_decision_rule(model, "one-draw", draws=1, example=test_images.images[:1])
    scoring = Smoothing(sigma=0.25, n0=800, samples=1)
    broken = 0
    for eps in (0.2, 0.4):
        result = evaluate(
            noisy, test_images.images, test_images.labels, attack=PGD(steps=10), norm="l2", eps=eps, eot=10, repeats=1
        )
        voted = np.array([one.top for one in sample_votes(base, result.perturbed, scoring, seed=1)])
        assert (voted == labels)[certified.certified(labels, eps + 1e-6)].all()
        broken += int((voted != labels).sum())
    assert broken > 4


def test_figures_of_a_row(smoothed: DefendedModel, test_images: Slice, tmp_path: Path) -> None:
    """Certified accuracy, average radius and abstentions equal a count image by image."""
    model = certify(smoothed, test_images, tmp_path)
    certified = certificates(model.images, SMOOTHING, alpha=0.001)
    labels = test_images.labels.numpy()
    for row in model.rows([0.0, 0.1, 0.3, 9.0], alpha=0.001):
        correct = [
            p == y and r >= row.eps for p, r, y in zip(certified.predicted, certified.radius, labels, strict=True)
        ]
        assert row.certified_accuracy == pytest.approx(sum(correct) / 40)
        assert row.certified_accuracy_low <= row.certified_accuracy <= row.certified_accuracy_high
        assert row.average_certified_radius == pytest.approx(
            np.mean(certified.radius * (certified.predicted == labels))
        )
        assert row.abstained == (certified.predicted == -1).mean()
        assert row.forwards == 40 * 500
        assert (row.flags, row.sigma, row.n, row.norm) == ("", 0.25, 40, "l2")
    assert row.certified_accuracy == 0


def test_training_with_noise_counts(
    smoothed: DefendedModel, defended: DefendedModel, test_images: Slice, tmp_path: Path
) -> None:
    """Without noise in training, the radii are far smaller and the row has a flag; other noise has a flag too."""
    plain, noisy = (
        certify(model, test_images, tmp_path).rows([0.25], alpha=0.001)[0] for model in (defended, smoothed)
    )
    assert plain.average_certified_radius < noisy.average_certified_radius - 0.05
    assert (plain.flags, noisy.flags) == ("no-noise-training", "")
    other = certify(smoothed, test_images, tmp_path, procedure=Smoothing(sigma=0.5, samples=10))
    assert other.rows([0], alpha=0.001)[0].flags == "other-noise"


def test_images_of_another_shape(smoothed: DefendedModel, tmp_path: Path) -> None:
    """Images of another shape than the model's input are an error."""
    data = Slice(images=torch.rand(2, 3, 8, 8), labels=torch.zeros(2, dtype=torch.int64), sha256="")
    with pytest.raises(UserError, match="takes images of shape"):
        certify(smoothed, data, tmp_path)

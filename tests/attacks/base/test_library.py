from __future__ import annotations

import importlib.metadata
import random
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from robustbench_cli.attacks import registry
from robustbench_cli.attacks.art import ART
from robustbench_cli.attacks.base.library import Library
from robustbench_cli.attacks.base.threat import distance
from robustbench_cli.attacks.foolbox import Foolbox
from robustbench_cli.attacks.torchattacks import Torchattacks
from robustbench_cli.benchmarks.evaluation.evaluate import evaluate
from robustbench_cli.core.errors import UserError

from ..small_model import EPS, IMAGES, LABELS, MODEL


def test_the_generators_and_the_model_stay(capfd: pytest.CaptureFixture[str]) -> None:
    """The global generators, the mode of the model and the standard output are as before."""
    MODEL[1].train()
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[index,union-attr] # noqa: NPY002
    registry.load("art:ProjectedGradientDescent")(max_iter=2, num_random_init=1)(MODEL, IMAGES, LABELS, eps=EPS)
    registry.load("torchattacks:Pixle")(restarts=1, max_iterations=2)(MODEL, IMAGES, LABELS)
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]  # type: ignore[index,union-attr] # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[2])
    assert MODEL[1].training
    MODEL.eval()
    assert capfd.readouterr() == ("", "")


def returning(monkeypatch: pytest.MonkeyPatch, forward: Callable[..., Any]) -> Any:
    """Torchattacks' FGSM with another search."""
    import torchattacks

    monkeypatch.setattr(torchattacks.FGSM, "forward", lambda self, images, labels: forward(images))
    return registry.load("torchattacks:FGSM")()


def test_images_outside_of_the_ball_are_projected_and_flagged(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attack that ignores the radius gains nothing, and its row says so."""
    attack = returning(monkeypatch, lambda images: 1 - images)
    result = evaluate(MODEL, IMAGES, LABELS, attack=attack, eps=EPS)
    assert "left-the-ball" in result.flags
    assert distance(result.perturbed, IMAGES, "linf").max() <= EPS + 1e-6


@pytest.mark.parametrize(
    ("forward", "line"),
    [
        (lambda images: images * torch.nan, "torchattacks:FGSM returned images of NaN for 6 of 6"),
        (lambda images: images[:2], r"torchattacks:FGSM returned images of shape \(2, 1, 6, 6\)"),
        (lambda images: None, "torchattacks:FGSM returned images of type NoneType"),
        (lambda images: images / "a", "torchattacks:FGSM failed: TypeError"),
    ],
)
def test_nonsense_fails_the_evaluation(forward: Callable[..., Any], line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN, other shapes and errors end the cell with a line that names the attack."""
    attack = returning(monkeypatch, forward)
    with pytest.raises(UserError, match=line):
        evaluate(MODEL, IMAGES, LABELS, attack=attack, eps=EPS)


def test_each_radius_is_the_librarys() -> None:
    """Images with radii of their own get steps of their own size; a radius of 0 leaves the image."""
    radii = torch.tensor([0.0, 0.1, 0.2, 0.1, 0.0, 0.2])
    images = registry.load("torchattacks:FGSM")()(MODEL, IMAGES.clamp(0.3, 0.7), LABELS, eps=radii)
    torch.testing.assert_close(distance(images, IMAGES.clamp(0.3, 0.7), "linf").float(), radii, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("name", "parameters", "reach"),
    [
        ("torchattacks:PGD", {"alpha": 0.01, "steps": 4}, 0.04),
        ("art:BasicIterativeMethod", {"eps_step": 0.01, "max_iter": 4}, 0.04),
        ("foolbox:LinfPGD", {"abs_stepsize": 0.01, "steps": 4}, 0.04),
        ("foolbox:LinfPGD", {"rel_stepsize": 0.1, "steps": 4}, None),
        ("torchattacks:FGSM", {}, None),
    ],
)
def test_the_reach_is_the_sum_of_the_steps(name: str, parameters: dict[str, Any], reach: float | None) -> None:
    """By each library's own parameters; there is none where the steps follow the radius."""
    assert registry.load(name)(**parameters).reach() == reach


@pytest.mark.parametrize("name", ["art:BasicIterativeMethod", "foolbox:LinfBasicIterativeAttack", "torchattacks:BIM"])
def test_target_classes_are_reached(name: str) -> None:
    """With a large radius, a targeted attack reaches most targets."""
    targets = (LABELS + 1) % 5
    images = registry.load(name)()(MODEL, IMAGES, targets, eps=0.5, targeted=True)
    assert (MODEL(images).argmax(1) == targets).float().mean() > 0.6


@pytest.mark.parametrize(
    "name",
    [
        *("art:NewtonFool", "art:DeepFool", "foolbox:FGSM", "foolbox:NewtonFoolAttack"),
        *("torchattacks:TPGD", "torchattacks:FAB"),
    ],
)
def test_an_attack_without_targets_is_refused(name: str) -> None:
    """A targeted run of an untargeted attack is an error and not an untargeted run."""
    attack = registry.load(name)()
    with pytest.raises(UserError) as refusal:
        attack(MODEL, IMAGES, LABELS, eps=None if attack.minimal_norm else EPS, targeted=True)
    assert str(refusal.value) == f"{name} has no target classes: leave out --targeted"


@pytest.mark.parametrize(
    ("library", "distribution"),
    [(Torchattacks, "torchattacks"), (Foolbox, "foolbox"), (ART, "adversarial-robustness-toolbox")],
)
def test_a_missing_library_is_one_line(
    library: type[Library], distribution: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line has the command that installs it."""
    for module in [name for name in sys.modules if name.partition(".")[0] == library.module.partition(".")[0]]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "meta_path", [])
    with pytest.raises(UserError) as refusal:
        library().imported()
    module = library.module.partition(".")[0]
    expected = f"attack {library.name} needs {module}: install it with pip install {distribution}"
    assert str(refusal.value) == expected


def test_names_and_parameters_are_checked() -> None:
    """An unknown attack or parameter gets a suggestion; a value of another type is refused; null is one where it is theirs."""
    for name, line in {
        "torchattacks:PDG": "torchattacks has no attack 'PDG' that can run here: did you mean 'PGD'?",
        "torchattacks:LGV": "torchattacks has no attack 'LGV' that can run here",
        "torchattacks": "torchattacks is a library: name an attack of it, torchattacks:NAME: APGD, ",
    }.items():
        with pytest.raises(UserError) as refusal:
            registry.load(name)
        assert str(refusal.value).startswith(line)
    kind = registry.load("torchattacks:PGD")
    assert list(kind.model_fields) == ["alpha", "steps", "random_start"]
    assert kind.from_parameters({"alpha": "2/255"}, name="a").alpha == 2 / 255
    for parameters, line in {
        "stepz": "a has no parameter 'stepz': did you mean 'steps'?",
        "eps": "a has no parameter 'eps': give --eps",
        "steps": "a.steps is 'ten': give int or float",
        "random_start": "a.random_start is 'ten': give bool",
    }.items():
        with pytest.raises(UserError) as refusal:
            kind.from_parameters({parameters: "ten"}, name="a")
        assert str(refusal.value) == line
    assert registry.load("foolbox:LinfPGD")(abs_stepsize=None).abs_stepsize is None


def test_the_version_of_the_library_is_part_of_the_identity() -> None:
    """Results of two versions are of two cells."""
    assert registry.source_of("torchattacks:PGD") == f"torchattacks {importlib.metadata.version('torchattacks')}"


@pytest.mark.parametrize(
    "name", ["torchattacks:PGD", "foolbox:LinfPGD", "art:DeepFool", "torchattacks:", "torchattacks"]
)
def test_a_data_file_names_no_attack_of_a_library(name: str) -> None:
    """A name from a store would import another library, so that only the user gives it."""
    with pytest.raises(UserError):
        registry.trusted(name, file="a store")
    assert registry.trusted(name, file="a store", named=[name]) == name


def test_an_attack_of_a_library_is_no_parameter() -> None:
    """An attack inside of another one is the project's own."""
    with pytest.raises(UserError, match="give one of the project's own attacks"):
        registry.load("non-adaptive").from_parameters({"attack": "torchattacks:PGD"}, name="non-adaptive")

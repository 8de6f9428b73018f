from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robustbench_cli.benchmarks.checkpoints.defended_model import method_spec, open_defended_model
from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec
from robustbench_cli.benchmarks.models.base.build import build_model
from robustbench_cli.benchmarks.training.model_cache import ModelCache
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses import registry as defenses

from .conftest import own_defense, same, tensors

MakeCache = Callable[..., ModelCache]

NOISE = method_spec(defenses, "gaussian-noise", {}).spec


def test_the_same_words_train_the_same_weights(cache: MakeCache, tmp_path: Path, hrs: MethodSpec) -> None:
    """Wherever the file lies, and whatever was drawn before."""
    first = cache().trained(cache().training(defenses=(hrs,)), tmp_path / "first.safetensors")
    torch.rand(7)
    second = cache().trained(cache().training(defenses=(hrs,)), tmp_path / "second.safetensors")
    assert same(tensors(first), tensors(second))
    assert first.identity == second.identity
    other = cache(seed=1)
    assert other.trained(other.training(defenses=(hrs,)), tmp_path / "other.safetensors").identity != first.identity


def test_the_rule_of_an_inner_defense_is_trained_with(cache: MakeCache) -> None:
    """What comes around the draws of another defense learns from what they decide."""
    around = method_spec(defenses, "pgd-at", {"steps": 1}).spec
    usual, other = (
        cache().training(defenses=(method_spec(defenses, "hrs", {"decision": rule}).spec, around))
        for rule in ("one-draw", "mean")
    )
    assert usual.key != other.key
    assert (len(usual.beginnings), len(other.beginnings)) == (1, 0)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("model.pt", "a checkpoint is a .safetensors file, not model.pt"),
        ("file/model.safetensors", "cannot write in .*file"),
    ],
)
def test_a_place_is_tried_before_the_training(cache: MakeCache, tmp_path: Path, name: str, told: str) -> None:
    """Nothing is trained for a file that cannot be written."""
    (tmp_path / "file").write_text("")
    begun: list[Any] = []
    prepared = replace(cache(), begin=lambda *told: begun.append(told), progress=begun.append)
    with pytest.raises(UserError, match=told):
        prepared.trained(prepared.training(), tmp_path / name)
    assert begun == []


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"recipe": {"epochs": 2}},
        {"model": "torchvision:resnet18"},
        {"mean": (0.5,), "std": (0.5,)},
        {"defenses": (NOISE,)},
        {"data": "other"},
    ],
    ids=str,
)
def test_what_changes_the_weights_is_another_training(cache: MakeCache, change: dict[str, Any]) -> None:
    """Seed, recipe, model, normalization, defenses and data have a part in the key; marks of changed parameters have not."""
    training = cache().training()
    assert training.model_copy(update=change).key != training.key
    marked = NOISE.model_copy(update={"changed": ("sigma_init",)})
    keys = {cache().training(defenses=(each,)).key for each in (NOISE, marked)}
    assert len(keys) == 1


def test_other_data_of_the_same_name_are_trained_on_anew(cache: MakeCache, tmp_path: Path) -> None:
    """A changed image among the first, or a changed label anywhere, is other data."""
    rng = np.random.default_rng(0)
    arrays = {
        "images": rng.integers(0, 255, (20, 8, 8), dtype=np.uint8),
        "labels": np.arange(20) % 3,
        "train_images": rng.integers(0, 255, (1200, 8, 8), dtype=np.uint8),
        "train_labels": np.arange(1200) % 3,
    }
    keys = set()
    for number, (name, place) in enumerate([("train_images", 0), ("train_labels", 0), ("train_labels", 1199)]):
        changed = {key: value.copy() for key, value in arrays.items()}
        changed[name][place] = (changed[name][place] + 1) % 3
        # The data set is kept by its name within a process.
        path = tmp_path / str(number) / "data.npz"
        path.parent.mkdir()
        np.savez(path, **changed)
        keys.add(cache(f"npz:{path}").training().data)
    assert len(keys) == 3


def test_a_defense_goes_around_a_checkpoint(cache: MakeCache, tmp_path: Path) -> None:
    """The base's normalization and defenses stay, and its weights are where the training starts."""
    prepared = cache()
    base = prepared.trained(
        prepared.training(mean=(0.3,), std=(0.4,), defenses=(NOISE,)), tmp_path / "base.safetensors"
    )
    spec = own_defense(tmp_path)
    around = prepared.trained(prepared.training(base=base, defenses=(spec,)), tmp_path / "around.safetensors")
    assert [each.name for each in around.defenses] == ["gaussian-noise", spec.name]
    assert (around.mean, around.std, around.model) == ((0.3,), (0.4,), "small-cnn")
    assert same({name.removeprefix("model."): tensor for name, tensor in tensors(around).items()}, tensors(base))
    assert around.training["base"]["identity"] == base.identity


def test_a_foreign_checkpoint_is_a_base_too(cache: MakeCache, tmp_path: Path) -> None:
    """A state dict with the words that tell what it is; what comes of it is a checkpoint of ours."""
    model = build_model("small-cnn", shape=(1, 8, 8), classes=10)
    torch.save(model.state_dict(), tmp_path / "theirs.pth")
    base = open_defended_model(
        tmp_path / "theirs.pth", model="small-cnn", classes=10, shape=(1, 8, 8), mean=(0.5,), std=(0.5,)
    )
    prepared = cache()
    noisy = prepared.trained(prepared.training(base=base, defenses=(NOISE,)), tmp_path / "noisy.safetensors")
    assert open_defended_model(noisy.path).identity == noisy.identity
    assert noisy.mean == (0.5,)
    assert noisy.randomized


def test_the_bases_key_is_its_content(cache: MakeCache, tmp_path: Path) -> None:
    """Moved to another place, it is the same base."""
    prepared = cache()
    base = prepared.trained(prepared.training(), tmp_path / "base.safetensors")
    moved = open_defended_model(base.path.rename(tmp_path / "moved.safetensors"))
    keys = {prepared.training(base=each, defenses=(NOISE,)).key for each in (base, moved)}
    assert len(keys) == 1


def test_a_base_must_fit(cache: MakeCache, tmp_path: Path) -> None:
    """A checkpoint of other data, or with nothing to make of it, is one line."""
    prepared = cache()
    base = prepared.trained(prepared.training())
    with pytest.raises(UserError, match=f"nothing to train: name a --defense to put around {base.path}"):
        prepared.training(base=base)
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {"images": rng.random((9, 8, 8), dtype=np.float32), "labels": np.arange(9) % 3}
    arrays["classes"] = np.int64(3)
    np.savez(tmp_path / "three.npz", **arrays, train_images=arrays["images"], train_labels=arrays["labels"])
    with pytest.raises(UserError, match=r"takes images \(1, 8, 8\) of 10 classes, npz:.* has \(1, 8, 8\) of 3"):
        cache(f"npz:{tmp_path / 'three.npz'}").training(base=base, defenses=(NOISE,))


def test_a_teacher_in_a_file(cache: MakeCache, tmp_path: Path) -> None:
    """Its content, not its place, has a part in the key; the student's checkpoint loads without it."""
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    cache().trained(cache().training(), first)
    second.write_bytes(first.read_bytes())

    def distillation(teacher: Path) -> MethodSpec:
        return method_spec(defenses, "defensive-distillation", {"temperature": 2, "teacher": str(teacher)}).spec

    trainings = [cache().training(defenses=(distillation(path),)) for path in (first, second)]
    assert trainings[0].key == trainings[1].key
    student = cache().trained(trainings[0], tmp_path / "student.safetensors")
    first.unlink()
    second.unlink()
    assert set(student.training["stages"][0]["trained"]) == {"first epoch", "student"}
    assert all(name.startswith("student.") for name in tensors(student))
    with pytest.raises(UserError, match=r"defensive-distillation.teacher: no checkpoint .*first.safetensors"):
        distillation(first)


def test_a_teacher_of_other_classes(cache: MakeCache, tmp_path: Path) -> None:
    """It is refused in a line before anything is trained."""
    parts = (("images", np.zeros((60, 8, 8), dtype=np.uint8)), ("labels", np.arange(60) % 3))
    np.savez(tmp_path / "three.npz", **{f"{split}{part}": each for split in ("train_", "") for part, each in parts})
    other = cache(f"npz:{tmp_path / 'three.npz'}")
    teacher = other.trained(other.training(model="small-cnn"), tmp_path / "teacher.safetensors").path
    spec = method_spec(defenses, "defensive-distillation", {"teacher": str(teacher)}).spec
    told = r"defensive-distillation.teacher has 3 classes, the model has 10: give a teacher of the same data set"
    with pytest.raises(UserError, match=told):
        cache().trained(cache().training(defenses=(spec,)), tmp_path / "student.safetensors")
    assert not (tmp_path / "student.safetensors").exists()


RADIUS = """
import torch
from robustbench_cli.benchmarks.datasets.base.dataset import Dataset
from robustbench_cli.benchmarks.datasets.base.split import TensorSplit

class Silent(Dataset):
    classes, shape = 2, (1, 8, 8)

    def load(self, name):
        labels = torch.arange(20) % 2
        return TensorSplit(labels.float().view(-1, 1, 1, 1).expand(20, 1, 8, 8).clone(), labels)

class Loud(Silent):
    eps = "1/4"
"""


@pytest.mark.parametrize(
    ("dataset", "radius"),
    [("digits", 0.15), ("own.py:Silent", 8 / 255), ("own.py:Loud", 0.25)],
)
@pytest.mark.parametrize(("name", "key", "share"), [("pgd-at", "eps", 1), ("noise-injection", "sigma", 1)])
def test_radii_follow_from_the_data_set(
    cache: MakeCache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dataset: str,
    radius: float,
    name: str,
    key: str,
    share: float,
) -> None:
    """The number is in the training's key and the checkpoint, not in the label; given, it is the same defense."""
    (tmp_path / "own.py").write_text(RADIUS)
    monkeypatch.chdir(tmp_path)
    prepared = cache(dataset)
    unset, given, other = (
        prepared.training(defenses=(method_spec(defenses, name, parameters).spec,))
        for parameters in ({}, {key: share * radius}, {key: 0.07})
    )
    assert unset.defenses[0].parameters[key] == share * radius
    assert unset == given
    assert other.key != unset.key
    assert [each.defenses[0].label for each in (unset, other)] == [name, f"{name}({key}=0.07)"]
    defended = prepared.trained(unset, tmp_path / "model.safetensors")
    assert defended.defenses[0].parameters[key] == share * radius
    assert defended.defense == name
    if key == "eps":
        assert defended.training["stages"][0]["trained"]["adversarial training"]["eps"] == radius


def test_what_follows_is_no_change_with_another_rule_either(cache: MakeCache) -> None:
    """Whichever rule decides, the label has the rule alone."""
    training = cache().training(defenses=(method_spec(defenses, "noise-injection", {"decision": "vote"}).spec,))
    assert training.by_usual_rule.defenses[0].label == "noise-injection"
    assert training.by_usual_rule.defenses[0].parameters["sigma"] == 0.15
    defended = cache().trained(training)
    assert defended.defense == "noise-injection(decision=vote)"
    assert defended.with_decision("mean").defense == "noise-injection(decision=mean)"
    assert defended.with_decision("one-draw").defense == "noise-injection"


def test_what_follows_in_a_chain_is_told(cache: MakeCache, tmp_path: Path) -> None:
    """Each of several defenses follows, and the line before a training says with what."""
    begun: list[str] = []
    prepared = replace(cache(), begin=lambda label, path: begun.append(label))
    specs = [method_spec(defenses, name, {"steps": 1} if name == "pgd-at" else {}).spec for name in ("jpeg", "pgd-at")]
    prepared.trained(prepared.training(defenses=tuple(specs)), tmp_path / "model.safetensors")
    assert begun == [
        "small-cnn with jpeg+pgd-at(steps=1) on digits (pgd-at.eps=0.15, from the data set's usual radius)"
    ]


def test_a_radius_that_cannot_be(cache: MakeCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set whose radius no attack can have is refused in a line that names the parameter."""
    (tmp_path / "far.py").write_text(RADIUS.replace("1/4", "8"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^pgd-at: eps is 8: give at most 1 in linf"):
        cache("far.py:Loud").training(defenses=(method_spec(defenses, "pgd-at", {}).spec,))

from __future__ import annotations

import shutil
import threading
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import save_for_hf

from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel, method_spec, open_defended_model
from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec
from robustbench_cli.benchmarks.datasets.base.load import load_dataset
from robustbench_cli.benchmarks.store.leases import Leases
from robustbench_cli.benchmarks.training import model_cache
from robustbench_cli.benchmarks.training.model_cache import ModelCache
from robustbench_cli.benchmarks.training.train import Training, cached_checkpoint
from robustbench_cli.core.errors import Choice, Notice, UserError
from robustbench_cli.defenses import registry as defenses
from robustbench_cli.defenses.base.training.trainer import Trainer

from ..fake_hub import FakeHub
from .conftest import own_defense, same, tensors

MakeCache = Callable[..., ModelCache]

NOISE = method_spec(defenses, "gaussian-noise", {}).spec


def test_what_is_trained_is_not_trained_again(cache: MakeCache) -> None:
    """The cache has one file for one training, and replaces a damaged one."""
    begun: list[Path] = []
    prepared = replace(cache(), begin=lambda label, path: begun.append(path))
    training = prepared.training(defenses=(NOISE,))
    cached_checkpoint(training).unlink(missing_ok=True)
    first = prepared.trained(training)
    assert prepared.trained(training) == first
    assert begun == [first.path] == [cached_checkpoint(training)]
    assert platformdirs.user_cache_path("advdef") in first.path.parents
    for damaged in (first.path.read_bytes()[:-100], b"", b"<html>"):
        first.path.write_bytes(damaged)
        assert prepared.trained(training).identity == first.identity
    assert len(begun) == 4


def test_one_number_of_a_normalization_stands_for_all_channels(cache: MakeCache, tmp_path: Path) -> None:
    """The same normalization written in two ways is one training."""
    images = np.zeros((2, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "color.npz", images=images, labels=[0, 1], train_images=images, train_labels=[0, 1])
    prepared = cache(f"npz:{tmp_path / 'color.npz'}")
    first, same, other = (
        prepared.training(model="small-cnn", mean=mean, std=(0.2,))
        for mean in ((0.3,), (0.3, 0.3, 0.3), (0.3, 0.3, 0.4))
    )
    assert first.key == same.key != other.key


def test_values_without_effect(cache: MakeCache) -> None:
    """One that the user gave is a usage error, one of a named recipe is not."""
    adam = replace(cache(), recipe={"optimizer": "adam"}, named_recipe={"optimizer": "sgd", "momentum": 0.8})
    recipe = adam.training(defenses=(NOISE,)).recipe
    assert (recipe["optimizer"], recipe["momentum"]) == ("adam", 0.8)
    with pytest.raises(UserError, match="train: momentum has no effect without optimizer=sgd"):
        replace(adam, recipe={"optimizer": "adam", "momentum": 0.8}).training(defenses=(NOISE,))


def test_augmentations(cache: MakeCache) -> None:
    """They are the data set's usual ones, are part of the training's key, and a mirrored digit is warned of."""
    usual = cache().training(defenses=(NOISE,))
    assert usual.recipe["augmentations"] == []
    assert (
        replace(cache(), recipe={"epochs": usual.recipe["epochs"], "augmentations": "none"})
        .training(defenses=(NOISE,))
        .key
        == usual.key
    )
    cropped = replace(cache(), recipe={"augmentations": "crop"}).training(defenses=(NOISE,))
    assert cropped.key != usual.key
    with pytest.warns(
        Choice, match="flip in train.augmentations mirrors images, and the mirror image of one of digits"
    ):
        replace(cache(), recipe={"augmentations": "crop,flip"}).training(defenses=(NOISE,))
    mart = method_spec(defenses, "mart", {}).spec
    with pytest.raises(UserError, match="mart needs one class per image, and mixup mixes"):
        replace(cache(), recipe={"augmentations": "mixup"}).training(defenses=(mart,))
    for name, expected in {
        "cifar10": ("crop", "flip"),
        "cifar100": ("crop", "flip"),
        "svhn": ("crop",),
        "mnist": (),
        "fashion-mnist": (),
        "cifar10?image_size=64": ("crop", "flip"),
    }.items():
        assert load_dataset(name).augmentations == expected


@pytest.mark.parametrize(("capability", "warned"), [("AVX2", 1), ("AVX512", 0)])
def test_bf16_without_its_instructions_is_warned_of(
    capability: str, warned: int, cache: MakeCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On an AMD EPYC without AVX-512, adversarial training of small-cnn in bf16 was 11 times as slow as in float32."""
    monkeypatch.setattr(model_cache, "cpu_capability", lambda: capability)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        replace(cache(), recipe={"precision": "bf16"}).training(defenses=(NOISE,))
    assert len([entry for entry in found if "no instructions for bf16" in str(entry.message)]) == warned


def test_a_network_of_the_user_is_not_built_twice_before_its_training(
    cache: MakeCache, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Once for the hash of its own weights, once for the plan and once for the training itself."""
    code = "def net(classes):\n    print('built')\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))\nnet.trained = True"
    (tmp_path / "user.py").write_text(f"from torch import nn\n{code}\n")
    prepared = cache()
    training = prepared.training(model=f"{tmp_path / 'user.py'}:net")
    prepared.untrained(training)
    prepared._train(training, tmp_path / "trained.safetensors")
    assert capfd.readouterr().out.count("built") == 3


LOADS = """
import torch
from pathlib import Path
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10))
        self.load_state_dict(torch.load(Path(__file__).with_name("weights.pt")))

class Further(Net):
    trained = False

class Ready(Net):
    trained = True

class Backbone(nn.Sequential):
    def __init__(self):
        super().__init__(Net(), nn.Linear(10, 10))

class Zeros(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, 10))
        for parameter in self.parameters():
            nn.init.zeros_(parameter)
"""


def _weights_of_a_user(folder: Path, seed: int) -> torch.nn.Module:
    """Weights in the file that the models of ``LOADS`` read."""
    torch.manual_seed(seed)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10), torch.nn.BatchNorm1d(10))
    torch.save(network.state_dict(), folder / "weights.pt")
    return network


def test_weights_that_a_model_of_the_user_loads_itself_are_not_trained_over(cache: MakeCache, tmp_path: Path) -> None:
    """A class must say whether to train them; new layers and constant initial weights are trained without a word."""
    (tmp_path / "user.py").write_text(LOADS)
    _weights_of_a_user(tmp_path, 0)
    prepared = cache()

    def training(name: str, *defenses: MethodSpec) -> Training:
        return prepared.training(model=f"{tmp_path / 'user.py'}:{name}", defenses=defenses)

    for start in (prepared.untrained, prepared.trained):
        with pytest.raises(
            UserError, match=r"user\.py:Net has the same weights from every seed, .* set trained = True"
        ):
            start(training("Net"))
    for name in ("Further", "Ready", "Backbone", "Zeros"):
        prepared.untrained(training(name))
    # Adversarial training starts from them whether or not they count as trained.
    prepared.untrained(training("Net", method_spec(defenses, "pgd-at", {}).spec))


def test_new_weights_in_the_file_of_a_user_are_a_new_model(cache: MakeCache, tmp_path: Path) -> None:
    """The model that is attacked has the weights that its constructor loads now, not those of an earlier run."""
    (tmp_path / "user.py").write_text(LOADS)
    for seed in (0, 1, 0):
        network = _weights_of_a_user(tmp_path, seed)
        prepared = cache()
        assert same(
            tensors(prepared.trained(prepared.training(model=f"{tmp_path / 'user.py'}:Ready"))), network.state_dict()
        )


@pytest.mark.parametrize("rule", [{"decision": "deterministic"}, {"decision": "vote", "draws": 3}])
def test_no_rule_of_decision_needs_a_training(cache: MakeCache, tmp_path: Path, rule: dict[str, Any]) -> None:
    """In the cache all rules share their weights; a file that the user named has the requested rule."""
    begun: list[Path] = []
    prepared = replace(cache(seed=21), begin=lambda label, path: begun.append(path))
    usual, other = (
        prepared.training(defenses=(method_spec(defenses, "hrs", {"channels": [2, 1], **values}).spec,))
        for values in ({}, rule)
    )
    cached_checkpoint(usual).unlink(missing_ok=True)
    (decided,) = prepared.trained(other).defenses
    assert {key: decided.parameters[key] for key in rule} == rule
    assert prepared.trained(usual).defenses == usual.defenses
    assert begun == [cached_checkpoint(usual)] == [cached_checkpoint(other)]
    for training in (usual, other):
        assert prepared.trained(training, tmp_path / "own.safetensors").defenses == training.defenses
    assert len(begun) == 3
    weights = [prepared.trained(training).load().state_dict().values() for training in (usual, other)]
    assert all(torch.equal(*tensors) for tensors in zip(*weights, strict=True))


@pytest.mark.parametrize(
    ("chain", "stages", "trained"),
    [
        ([("sap", {})], ["training"], []),
        ([("jpeg", {}), ("gaussian-noise", {})], ["training", "training"], ["training"]),
        (
            [("hrs", {"channels": [2, 1]}), ("pgd-at", {"steps": 1})],
            ["block 1", "block 2", "adversarial training"],
            ["adversarial training"],
        ),
    ],
)
def test_a_training_goes_on_from_what_was_trained_with_fewer_defenses(
    cache: MakeCache, tmp_path: Path, chain: list[Any], stages: list[str], trained: list[str]
) -> None:
    """Its weights and its record equal those of a training from the beginning."""
    names: list[str] = []
    prepared = replace(cache(seed=31), progress=lambda state: names.append(state.name))
    specs = tuple(method_spec(defenses, name, parameters).spec for name, parameters in chain)
    training = prepared.training(defenses=specs)
    for beginning in (prepared.training(defenses=specs[:count]) for count in range(len(specs))):
        cached_checkpoint(beginning).unlink(missing_ok=True)
    whole = prepared.trained(training, tmp_path / "whole.safetensors")
    assert names == stages
    prepared.trained(prepared.training(defenses=specs[:-1]))
    names.clear()
    resumed = prepared.trained(training, tmp_path / "resumed.safetensors")
    assert names == trained
    assert same(tensors(whole), tensors(resumed))
    assert [list(stage["trained"]) for stage in resumed.training["stages"]] == [
        list(stage["trained"]) for stage in whole.training["stages"]
    ]


def test_a_file_that_the_user_named_is_not_replaced_blindly(cache: MakeCache, tmp_path: Path) -> None:
    """The checkpoint of another training is replaced; a file that is no checkpoint stays."""
    path = tmp_path / "model.safetensors"
    prepared = cache()
    prepared.trained(prepared.training(), path)
    noisy = prepared.trained(prepared.training(defenses=(NOISE,)), path)
    assert open_defended_model(path).defense == noisy.defense == "gaussian-noise"
    path.write_bytes(b"<html>")
    with pytest.raises(UserError, match=f"{path} is a web page"):
        prepared.trained(prepared.training(), path)
    assert path.read_bytes() == b"<html>"


def test_a_defense_that_needs_no_training_protects_a_trained_model(cache: MakeCache, tmp_path: Path) -> None:
    """The model inside it is the one that is trained without a defense."""
    prepared = cache()
    plain = prepared.trained(prepared.training())
    dim = prepared.trained(prepared.training(defenses=(own_defense(tmp_path),)), tmp_path / "dim.safetensors")
    assert same({name.removeprefix("model."): tensor for name, tensor in tensors(dim).items()}, tensors(plain))


def test_nothing_is_left_beside_a_finished_checkpoint(cache: MakeCache, tmp_path: Path) -> None:
    """The files for resuming are gone, also those of a training to the same file that was begun otherwise."""
    path = tmp_path / "model.safetensors"
    stopped = cache(epochs=3)

    def stop(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace(stopped, progress=stop).trained(stopped.training(), path)
    assert [file.suffix for file in tmp_path.iterdir()] == [".partial"]
    cache().trained(cache().training(), path)
    assert list(tmp_path.iterdir()) == [path]


def test_the_accuracy_of_a_randomized_model_is_the_same_each_time(cache: MakeCache, hrs: MethodSpec) -> None:
    """One pass over the test images, whose draws follow from the seed."""
    prepared = cache(epochs=2)
    defended = prepared.trained(prepared.training(defenses=(hrs,)))
    torch.manual_seed(1)
    first = prepared.accuracy(defended)
    torch.manual_seed(2)
    assert prepared.accuracy(defended) == first
    assert first[1] == 500
    assert prepared.accuracy(defended, images=50)[1] == 50


def test_two_processes_train_a_model_once(cache: MakeCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one waits, and uses the trained checkpoint."""
    monkeypatch.setattr(model_cache, "TRAINING_PAUSE", 0.01)
    prepared = cache(seed=77)
    training = prepared.training()
    path = cached_checkpoint(training)
    claim = Leases(path.parent.parent).hold(training.key)
    assert claim.__enter__()
    models: list[DefendedModel] = []
    waiting = threading.Thread(target=lambda: models.append(prepared.trained(training)))
    waiting.start()
    waiting.join(0.2)
    assert prepared.is_being_trained(training)
    assert not models and not path.exists() and not prepared.train_if_free(training)
    other = cache(seed=78).trained(cache(seed=78).training())
    shutil.copy(other.path, path)  # the checkpoint of another training, which is replaced
    claim.__exit__(None, None, None)
    waiting.join(60)
    assert [defended.training["key"] for defended in models] == [training.key]


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the trainings that :meth:`Trainer.fit` runs."""
    names: list[str] = []
    fit = Trainer.fit

    def counted(self: Trainer, network: Any, *arguments: Any, **options: Any) -> Any:
        names.append(options.get("name", "training"))
        return fit(self, network, *arguments, **options)

    monkeypatch.setattr(Trainer, "fit", counted)
    return names


def test_defenses_that_train_nothing_share_the_training_of_their_base(cache: MakeCache, fits: list[str]) -> None:
    """One training serves all of them, each with a file of its own; their weights equal the base's bit for bit."""
    begun: list[str] = []
    prepared = replace(cache(seed=41), begin=lambda label, path: begun.append(label))
    chains: list[list[tuple[str, dict[str, Any]]]] = [
        [("jpeg", {})],
        [("noise-injection", {"sigma": 0.1})],
        [("noise-injection", {"sigma": 0.2})],
        [],
    ]
    trainings = [
        prepared.training(defenses=tuple(method_spec(defenses, name, values).spec for name, values in chain))
        for chain in chains
    ]
    base = trainings[-1]
    for training in trainings:
        cached_checkpoint(training).unlink(missing_ok=True)
        assert prepared.missing(training) == [base]
    models = [prepared.trained(training) for training in trainings]
    assert len(fits) == 1
    assert begun == ["small-cnn with no defense on digits"]
    assert [prepared.missing(training) for training in trainings] == [[]] * 4
    assert len({model.path for model in models}) == 4
    weights = [list(tensors(model).values()) for model in models]
    assert all(torch.equal(*pair) for other in weights[:-1] for pair in zip(other, weights[-1], strict=True))


def test_missing_lists_every_stage_once(cache: MakeCache) -> None:
    """A stage that the cache has is not listed, nor is a stage that learns nothing."""
    prepared = cache(seed=42)
    specs = tuple(
        method_spec(defenses, name, values).spec
        for name, values in (("jpeg", {}), ("gaussian-noise", {}), ("pgd-at", {"steps": 1}))
    )
    stages = [prepared.training(defenses=specs[:count]) for count in (0, 2, 3)]
    for training in (*stages, prepared.training(defenses=specs[:1])):
        cached_checkpoint(training).unlink(missing_ok=True)
    assert prepared.missing(stages[-1]) == stages
    prepared.trained(stages[0])
    assert prepared.missing(stages[-1]) == stages[1:]


def npz(path: Path, *, classes: int | None, largest: int) -> str:
    """A data set of gray images with labels up to a largest one; its number of classes is in the file or is not."""
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        "images": rng.random((4, 32, 32), dtype=np.float32),
        "labels": np.arange(4) % (largest + 1),
    }
    arrays["labels"][0] = largest
    np.savez(path, **arrays, **({} if classes is None else {"classes": np.int64(classes)}))
    return f"npz:{path}"


@pytest.mark.filterwarnings("ignore::robustbench_cli.core.errors.Notice")
def test_published_weights_follow_the_hub(cache: MakeCache, hub: FakeHub, tmp_path: Path) -> None:
    """They are downloaded once; a change under the same name on the Hub is seen, and is another model."""
    network = timm.create_model("test_resnet", num_classes=5, in_chans=1)
    save_for_hf(network, tmp_path / "saved", safe_serialization=True)
    hub.publish("owner/net", tmp_path / "saved")
    prepared = cache(npz(tmp_path / "data.npz", classes=5, largest=4))
    first, again = (prepared.trained(prepared.training(model="hf-hub:owner/net")) for _ in range(2))
    assert first.identity == again.identity
    assert (first.model, first.mean, first.std, first.classes) == ("hf-hub:owner/net", (0.5,), (0.5,), 5)
    assert sorted(hub.downloads) == ["config.json", "model.safetensors"]
    changed = {name: tensor + 1 for name, tensor in network.state_dict().items()}
    save_file(changed, tmp_path / "saved" / "model.safetensors")
    hub.publish("owner/net", tmp_path / "saved")
    hub.commit = "2" * 40
    third = prepared.trained(prepared.training(model="hf-hub:owner/net"))
    assert third.identity != first.identity
    torch.testing.assert_close(third.load().state_dict()["network.fc.bias"], network.state_dict()["fc.bias"] + 1)


@pytest.mark.filterwarnings("ignore::robustbench_cli.core.errors.Notice")
def test_published_weights_keep_their_classes(cache: MakeCache, hub: FakeHub, tmp_path: Path) -> None:
    """They may be more than the labels reach if the user says so, but not other than the data set says."""
    save_for_hf(timm.create_model("test_resnet", num_classes=5, in_chans=1), tmp_path / "saved")
    hub.publish("owner/net", tmp_path / "saved")
    prepared = cache(npz(tmp_path / "few.npz", classes=None, largest=2))
    assert prepared.trained(prepared.training(model="hf-hub:owner/net", classes=5)).classes == 5
    with pytest.raises(
        UserError, match=r"5 classes, and the labels of npz:.*few\.npz reach only to 2: .* give --classes 5"
    ):
        prepared.training(model="hf-hub:owner/net")
    with pytest.raises(UserError, match="hf-hub:owner/net has 5 classes, not 4: give --classes 5"):
        prepared.training(model="hf-hub:owner/net", classes=4)
    for name, classes, largest in (("three.npz", 3, 2), ("many.npz", None, 7)):
        other = cache(npz(tmp_path / name, classes=classes, largest=largest))
        with pytest.raises(
            UserError, match=rf"hf-hub:owner/net has 5 classes, npz:.*{name} has {largest + 1}: give weights"
        ):
            other.training(model="hf-hub:owner/net")


def test_classes_that_the_labels_do_not_reach(cache: MakeCache, tmp_path: Path) -> None:
    """A new model has as many as the user says, unless the data set says another number."""
    arrays = {"images": np.zeros((3, 8, 8), dtype=np.uint8), "labels": np.arange(3)}
    np.savez(tmp_path / "few.npz", **arrays, **{f"train_{key}": array for key, array in arrays.items()})
    inferred = cache(f"npz:{tmp_path / 'few.npz'}")
    assert inferred.untrained(inferred.training(model="small-cnn", classes=7)).classes == 7
    assert inferred.training(model="small-cnn", classes=3) == inferred.training(model="small-cnn")
    with pytest.raises(UserError, match=r"--classes is 2, and npz:.* has 3 classes: leave it out"):
        inferred.training(model="small-cnn", classes=2)
    with pytest.raises(UserError, match="--classes is 20, and digits has 10 classes: leave it out"):
        cache().training(classes=20)


@pytest.mark.filterwarnings("ignore::robustbench_cli.core.errors.Notice")
def test_published_weights_number_the_classes_as_the_data_do(cache: MakeCache, hub: FakeHub, tmp_path: Path) -> None:
    """The same names in another order are refused; other names are not compared."""
    network = timm.create_model("test_resnet", num_classes=3, in_chans=1)
    save_for_hf(network, tmp_path / "saved", model_config={"label_names": ["cat", "dog", "emu"]})
    hub.publish("owner/net", tmp_path / "saved")
    prepared = cache(npz(tmp_path / "three.npz", classes=3, largest=2))
    for names in (("cat", "dog", "emu"), ("n01", "n02", "n03")):
        prepared.data.class_names = names
        prepared.training(model="hf-hub:owner/net")
    prepared.data.class_names = ("cat", "emu", "dog")
    with pytest.raises(UserError, match=r"in another order \(class 1 is 'dog', and 'emu' in the data\)"):
        prepared.training(model="hf-hub:owner/net")


def test_what_is_assumed_of_published_weights_is_said(cache: MakeCache, hub: FakeHub, tmp_path: Path) -> None:
    """In one line with their normalization, unless the user gives one."""
    save_for_hf(timm.create_model("test_resnet", num_classes=5, in_chans=1), tmp_path / "saved")
    hub.publish("owner/net", tmp_path / "saved")
    prepared = cache(npz(tmp_path / "data.npz", classes=5, largest=4))
    line = r"5 classes, images of 32 x 32 \(the weights are for 160 x 160: give --image-size 160 to resize\), normal.*@1111"
    with pytest.warns(Choice, match=f"hf-hub:owner/net: {line}"):
        prepared.training(model="hf-hub:owner/net")
    chosen = cache(f"{prepared.dataset}?image_size=160")
    with pytest.warns(
        Notice, match="hf-hub:owner/net: 5 classes, images of 160 x 160, normalized by mean 0.5"
    ) as warned:
        chosen.training(model="hf-hub:owner/net")
    chosen = cache(f"{prepared.dataset}?image_size=96")
    with pytest.warns(Notice, match="images of 96 x 96") as warned_of_a_choice:
        chosen.training(model="hf-hub:owner/net")
    assert {warning.category for warning in [*warned, *warned_of_a_choice]} == {Notice}
    with pytest.warns(Notice, match="normalized by the given mean and std"):
        given = prepared.training(model="hf-hub:owner/net", mean=(0.0,), std=(1.0,))
    assert (given.mean, given.std) == ((0.0,), (1.0,))

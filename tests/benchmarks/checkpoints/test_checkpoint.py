from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import timm
import torch
from timm.models import save_for_hf
from torch import nn

from robustbench_cli.benchmarks.checkpoints.checkpoint import (
    CheckpointInfo,
    load_checkpoint,
    read_info,
    save_checkpoint,
    versions,
)
from robustbench_cli.benchmarks.checkpoints.defended_model import open_defended_model
from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec
from robustbench_cli.benchmarks.models.base.build import build_model, example_images
from robustbench_cli.core.errors import Choice, Notice, UserError
from robustbench_cli.defenses import registry

SHAPE = (3, 8, 8)
MEAN, STD = (0.4, 0.5, 0.6), (0.1, 0.2, 0.3)
INFO = CheckpointInfo(
    model="small-cnn",
    mean=MEAN,
    std=STD,
    dataset="digits",
    shape=SHAPE,
    classes=4,
    training={"epochs": 3, "seed": 1},
    versions=versions(),
)


def own_model() -> nn.Module:
    """The model that INFO describes, with some weights."""
    torch.manual_seed(5)
    return build_model("small-cnn", shape=SHAPE, classes=4, mean=MEAN, std=STD)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A checkpoint of ours."""
    path = tmp_path / "new" / "folder" / "own.safetensors"
    save_checkpoint(path, own_model(), INFO)
    return path


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """Somebody's state dict of the same network, which wants normalized images."""
    path = tmp_path / "foreign.pth"
    network = own_model().get_submodule("network")
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in network.state_dict().items()}}, path)
    return path


def test_saved_and_loaded_is_the_same(own: Path) -> None:
    """The loaded model gives bit-equal logits, in eval(), and the file says all that was put in."""
    loaded = load_checkpoint(own)
    images = torch.rand(6, *SHAPE)
    assert torch.equal(loaded.model(images), own_model().eval()(images))
    assert not any(module.training for module in loaded.model.modules())
    assert loaded.info == read_info(own, named=()) == INFO
    assert loaded.sha256 == load_checkpoint(str(own)).sha256 == hashlib.sha256(own.read_bytes()).hexdigest()
    assert [path.name for path in own.parent.iterdir()] == ["own.safetensors"]


def test_the_metadata_are_plain_json(own: Path) -> None:
    """Any program finds the description as JSON under the key advdef."""
    with safetensors.safe_open(own, "pt") as file:
        said = json.loads(file.metadata()["advdef"])
    assert said["version"] == 1
    assert (said["model"], said["shape"], said["classes"], said["mean"]) == ("small-cnn", [3, 8, 8], 4, list(MEAN))
    assert said["training"] == {"epochs": 3, "seed": 1}
    assert said["versions"]["torch"] == torch.__version__.partition("+")[0]


def test_the_global_generator_does_not_matter(own: Path) -> None:
    """What the rebuilt model was initialized with leaves no trace in what is loaded."""
    images = torch.rand(2, *SHAPE)
    torch.manual_seed(1)
    first = load_checkpoint(own).model(images)
    torch.manual_seed(2)
    assert torch.equal(load_checkpoint(own).model(images), first)


OWN_DEFENSE = """
import torch
from torch import nn
from robustbench_cli.defenses.base.defense import Defense

class Scaled(nn.Module):
    def __init__(self, model, factor):
        super().__init__()
        self.model = model
        self.factor = factor
        self.shift = nn.Parameter(torch.zeros(1))

    def forward(self, images):
        return self.factor * self.model(images) + self.shift

class Scale(Defense):
    paper = "none"
    factor: float = 1.0

    def protect(self, model, example):
        return Scaled(model, self.factor)
"""


def test_defenses_are_built_again(tmp_path: Path) -> None:
    """The defenses in the file are put around the model, in order, with their parameters, and get their weights."""
    (tmp_path / "own.py").write_text(OWN_DEFENSE)
    name = f"{tmp_path}/own.py:Scale"
    model, specs = own_model(), []
    for factor in (3.0, 5.0):
        model = registry.load(name).from_parameters({"factor": factor}, name=name).protect(model, example_images(SHAPE))
        model.shift.data.fill_(factor)
        specs.append(MethodSpec(name=name, parameters={"factor": factor}))
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, model, INFO.model_copy(update={"defenses": tuple(specs)}))
    loaded = load_checkpoint(path, named=[name])
    images = torch.rand(4, *SHAPE)
    assert torch.equal(loaded.model(images), 5 * (3 * own_model().eval()(images) + 3) + 5)
    assert loaded.info.defenses == tuple(specs)


def test_an_unknown_defense_is_named(tmp_path: Path) -> None:
    """A checkpoint of a defense that this version lacks says which."""
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, own_model(), INFO.model_copy(update={"defenses": (MethodSpec(name="gaussian-nose"),)}))
    with pytest.raises(UserError, match="unknown defense 'gaussian-nose': did you mean 'gaussian-noise'"):
        load_checkpoint(path)


@pytest.mark.parametrize("parameters", [{}, {"norm": "l2", "eps": 0.7}])
def test_a_parameter_that_its_method_excludes_at_its_default(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, parameters: dict[str, Any]
) -> None:
    """It is younger than its method: a file does not have it unless it was changed, and nothing is said of it."""
    defense = registry.load("pgd-at").from_parameters(parameters, name="pgd-at")
    spec, path = MethodSpec.of(defense, name="pgd-at"), tmp_path / "a.safetensors"
    assert ("norm" in spec.parameters) is bool(parameters)
    save_checkpoint(path, own_model(), INFO.model_copy(update={"defenses": (spec,)}))
    (loaded,) = load_checkpoint(path).info.defenses
    assert loaded == spec
    assert loaded.build(registry) == defense
    assert not recwarn.list


def test_a_parameter_that_a_file_lacks_has_its_default(tmp_path: Path, hrs: MethodSpec) -> None:
    """A checkpoint that is older than a parameter is what it was, with a line on what is taken for it."""
    model = registry.load("hrs").from_parameters(hrs.parameters, name="hrs").protect(own_model(), example_images(SHAPE))
    whole, older = tmp_path / "whole.safetensors", tmp_path / "older.safetensors"
    save_checkpoint(whole, model, INFO.model_copy(update={"defenses": (hrs,)}))
    said = {key: value for key, value in hrs.parameters.items() if key not in {"decision", "draws"}}
    less = hrs.model_copy(update={"parameters": said})
    save_checkpoint(older, model, INFO.model_copy(update={"defenses": (less,)}))
    with pytest.warns(UserWarning, match=r"older.safetensors does not say hrs\.(decision|draws): its default") as told:
        defended = open_defended_model(older)
    assert len(told) == 2
    assert defended.decision == "one-draw"
    assert defended.defenses == open_defended_model(whole).defenses
    assert defended.identity == open_defended_model(whole).identity


def test_a_parameter_that_has_no_default_is_missed(tmp_path: Path) -> None:
    """Where nothing can be taken for it, the file and the parameter are named."""
    (tmp_path / "own.py").write_text(OWN_DEFENSE.replace("factor: float = 1.0", "factor: float"))
    name, path = f"{tmp_path}/own.py:Scale", tmp_path / "a.safetensors"
    save_checkpoint(path, own_model(), INFO.model_copy(update={"defenses": (MethodSpec(name=name),)}))
    with pytest.raises(UserError, match=rf"^{path}: {name} needs {name}\.factor"):
        load_checkpoint(path, named=[name])


@pytest.mark.parametrize("metadata", [5, None, [], {}, True, "[]", "5", "null", "{}", '{"model": 5}', '"' * 99])
def test_metadata_of_any_kind_are_refused_in_a_line(own: Path, metadata: object) -> None:
    """Anything else instead of the description, also JSON of another type, ends in one line or is no word of ours."""
    data = own.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = {"advdef": metadata}
    text = json.dumps(header).encode()
    own.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    with pytest.raises(UserError, match=r"own\.safetensors") as refusal:
        load_checkpoint(own)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("kind", ["model", "defense"])
def test_a_file_does_not_choose_what_code_runs(tmp_path: Path, kind: str) -> None:
    """Code of a user's own that a checkpoint names is not imported until the user has named it too."""
    mark = tmp_path / "mark"
    (tmp_path / "own.py").write_text(f"open({str(mark)!r}, 'w').close()\n{OWN_DEFENSE}")
    name = f"{tmp_path}/own.py:Scale"
    update = {"model": name} if kind == "model" else {"defenses": (MethodSpec(name=name, parameters={"factor": 1.0}),)}
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, own_model(), INFO.model_copy(update=update))
    with pytest.raises(
        UserError, match=f"needs the code {name}: if you trust it, name it yourself with --{kind} {name}"
    ):
        load_checkpoint(path)
    assert not mark.exists()
    with pytest.raises(UserError, match=r"gives a Scale: it must return an nn\.Module|does not fit"):
        load_checkpoint(path, named=[name])
    assert mark.exists()


def test_tied_weights_are_kept(tmp_path: Path) -> None:
    """Two names of one tensor are both saved, which safetensors alone refuses."""
    model = own_model()
    other = nn.ModuleDict({"a": model, "b": model})
    save_checkpoint(tmp_path / "a.safetensors", other, INFO)
    tensors = safetensors.torch.load_file(tmp_path / "a.safetensors")
    assert torch.equal(tensors["a.network.fc2.bias"], tensors["b.network.fc2.bias"])


def test_only_safetensors_are_written(tmp_path: Path) -> None:
    """Another suffix is refused with the right one, and nothing is written."""
    with pytest.raises(UserError, match=r"not a.pt: give .*/a.safetensors"):
        save_checkpoint(tmp_path / "a.pt", own_model(), INFO)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [{"model": "small-cnn"}, {"classes": 4}, {"shape": SHAPE}, {"mean": list(MEAN)}])
def test_options_that_agree_are_fine(own: Path, options: dict[str, object]) -> None:
    """Saying again what the file says changes nothing."""
    assert load_checkpoint(own, **options).info == INFO  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "paper-cnn"}, "was made with model small-cnn, not paper-cnn: leave model out"),
        ({"classes": 10}, "was made with classes 4, not 10"),
        ({"shape": (1, 8, 8)}, r"was made with shape \(3, 8, 8\), not \(1, 8, 8\)"),
        ({"std": 0.5}, r"was made with std \(0.1, 0.2, 0.3\), not \(0.5, 0.5, 0.5\)"),
    ],
)
def test_options_that_contradict_are_refused(own: Path, options: dict[str, object], message: str) -> None:
    """A checkpoint of ours is used as it was made, or not at all."""
    with pytest.raises(UserError, match=message):
        load_checkpoint(own, **options)  # type: ignore[arg-type]


def with_metadata(path: Path, text: str) -> Path:
    """The same checkpoint with another description."""
    tensors = safetensors.torch.load_file(path)
    safetensors.torch.save_file(tensors, path, metadata={"advdef": text})
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "does not understand"),
        ("[]", "does not understand"),
        (INFO.model_copy(update={"version": 2}).model_dump_json(), "is a checkpoint of version 2, this is version 1"),
        (INFO.model_dump_json().replace('"classes":4', '"classes":"many"'), r"does not understand \(classes"),
        (INFO.model_dump_json().replace('"classes":4', '"classes":5'), "of another shape network.fc2.weight"),
        (INFO.model_dump_json().replace('"mean":[0.4,0.5,0.6]', '"mean":null'), "std is given alone"),
    ],
)
def test_a_wrong_description_is_named(own: Path, text: str, message: str) -> None:
    """A description that is damaged, newer or does not fit the weights is one line."""
    with pytest.raises(UserError, match=message) as caught:
        load_checkpoint(with_metadata(own, text))
    assert "\n" not in str(caught.value)


def test_cut_off_checkpoints_are_named(own: Path) -> None:
    """A checkpoint of ours that ends early, in the header or in the weights, is never loaded."""
    whole = own.read_bytes()
    header = struct.unpack("<Q", whole[:8])[0]
    for length in (header // 2, 8 + header, len(whole) - 1):
        own.write_bytes(whole[:length])
        with pytest.raises(UserError, match="is cut off or damaged"):
            load_checkpoint(own)


def test_a_foreign_file_is_loaded_as_it_is_said_to_be(foreign: Path) -> None:
    """With model, classes, shape and normalization said, the model is the network on normalized images, bit for bit."""
    with pytest.warns(Notice, match="foreign.pth: took 'state_dict'$"):
        loaded = load_checkpoint(foreign, model="small-cnn", classes=4, mean=MEAN, std=STD, shape=SHAPE)
    images = torch.rand(6, *SHAPE)
    assert torch.equal(loaded.model(images), own_model().eval()(images))
    assert not loaded.model.training
    assert loaded.sha256 == hashlib.sha256(foreign.read_bytes()).hexdigest()
    assert (loaded.info.model, loaded.info.mean, loaded.info.defenses) == ("small-cnn", MEAN, ())


def test_a_foreign_safetensors_file(tmp_path: Path) -> None:
    """Safetensors without our description are foreign, too, and one line says that no normalization is applied."""
    network = own_model().get_submodule("network")
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file(network.state_dict(), path)
    assert read_info(path, named=()) is None
    images = torch.rand(6, *SHAPE)
    with pytest.warns(
        Notice,
        match=r"a\.safetensors as small-cnn: 4 classes, images of 8 x 8, no normalization known, so none is applied: give --mean",
    ):
        loaded = load_checkpoint(path, model="small-cnn", classes=4, shape=SHAPE)
    assert torch.equal(loaded.model(images), network.eval()(images))


def test_a_foreign_file_brings_its_normalization(tmp_path: Path) -> None:
    """A Sequential of normalization and network is the whole model, as if mean and std had been given."""
    expected = own_model().eval()
    path = tmp_path / "a.pt"
    state = {f"1.{name}": tensor for name, tensor in expected.get_submodule("network").state_dict().items()}
    torch.save({"0.mean": torch.tensor(MEAN), "0.std": torch.tensor(STD).view(3, 1, 1), **state}, path)
    images = torch.rand(6, *SHAPE)
    for given in ({}, {"mean": MEAN, "std": STD}):
        with pytest.warns(
            Notice, match=r"took the names that begin with '1\.'; the normalization of 0\.mean and 0\.std$"
        ):
            loaded = load_checkpoint(path, model="small-cnn", classes=4, shape=SHAPE, **given)  # type: ignore[arg-type]
        assert torch.equal(loaded.model(images), expected(images))
        assert (loaded.info.mean, loaded.info.std) == (MEAN, STD)
    with pytest.raises(
        UserError, match=r"a\.pt has the mean 0\.4,0\.5,0\.6 in it, not 0\.1: leave --mean and --std out"
    ):
        load_checkpoint(path, model="small-cnn", classes=4, shape=SHAPE, mean=0.1, std=0.2)


def test_several_fitting_weights_are_a_warning(tmp_path: Path) -> None:
    """Where a choice was made, the user is warned, and told what else there is."""
    network = own_model().get_submodule("network").state_dict()
    torch.save({"model": {name: tensor * 0 for name, tensor in network.items()}, "ema": network}, tmp_path / "a.pt")
    with pytest.warns(Choice, match=r"a\.pt: took 'ema' \(and not 'model', which would fit too\)"):
        loaded = load_checkpoint(tmp_path / "a.pt", model="small-cnn", classes=4, shape=SHAPE)
    assert torch.equal(loaded.model.state_dict()["fc2.bias"], network["fc2.bias"])


def test_a_foreign_file_saved_again_is_ours(foreign: Path, tmp_path: Path) -> None:
    """What was said of a foreign file is all that the saved checkpoint needs."""
    with pytest.warns(Notice, match="foreign.pth: took 'state_dict'$"):
        first = load_checkpoint(foreign, model="small-cnn", classes=4, mean=0.5, std=0.25, shape=SHAPE)
    save_checkpoint(tmp_path / "a.safetensors", first.model, first.info)
    images = torch.rand(2, *SHAPE)
    assert torch.equal(load_checkpoint(tmp_path / "a.safetensors").model(images), first.model(images))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "does not say what it holds: give its model and classes and shape, as in --model torchvision:resnet18"),
        ({"shape": SHAPE, "classes": 4}, "what it holds: give --model small-cnn, which it fits, with --mean and --std"),
        ({"shape": SHAPE, "classes": 5}, r"give its model, as in --model net\.py:Net, with --mean and --std"),
        (
            {"model": "resnet18-cifar", "shape": SHAPE, "classes": 4},
            "does not fit resnet18-cifar, but small-cnn: give --mo",
        ),
        ({"model": "small-cnn", "shape": SHAPE}, "give its classes"),
        ({"model": "small-cnn", "shape": SHAPE, "classes": 0}, "classes is 0"),
        ({"model": "small-cnn", "shape": SHAPE, "classes": 5}, "does not fit small-cnn: of another shape fc2.weight"),
        ({"model": "small-cnn", "shape": (1, 8, 8), "classes": 4}, r"of another shape conv1.weight \(16, 3, 3, 3\)"),
        ({"model": "smallcnn", "shape": SHAPE, "classes": 4}, "did you mean 'small-cnn'"),
        ({"model": "small-cnn", "shape": SHAPE, "classes": 4, "mean": 0.5}, "mean is given alone"),
        ({"model": "small-cnn", "shape": SHAPE, "classes": 4, "mean": 0.5, "std": 0.0}, "std is 0"),
    ],
)
def test_a_foreign_file_of_which_too_little_is_said(foreign: Path, options: dict[str, object], message: str) -> None:
    """What is missing or does not fit is named; nothing is guessed."""
    with pytest.raises(UserError, match=message):
        load_checkpoint(foreign, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ({"shape": [3, 10**5, 10**5]}, "describes more than 16777216 pixels an image"),
        ({"classes": 10**12}, "describes more than [0-9]+ classes"),
        ({"model": "torchvision:regnet_y_128gf"}, "describes a network of at least"),
        ({"defenses": [{"name": "hrs", "parameters": {"channels": [10**6, 5]}}]}, "more than 100 parts of a defense"),
        ({"defenses": [{"name": "hrs", "changed": ["zzz"]}]}, "'zzz' is called changed and is no parameter of hrs"),
    ],
)
def test_a_file_cannot_describe_more_than_it_holds(own: Path, said: dict[str, object], line: str) -> None:
    """A small file that speaks of a huge model is refused before memory is taken for it."""
    info = json.loads(INFO.model_dump_json()) | said
    safetensors.torch.save_file(safetensors.torch.load_file(own), own, metadata={"advdef": json.dumps(info)})
    with pytest.raises(UserError, match=line):
        load_checkpoint(own)


def test_a_header_of_too_many_brackets_is_damaged(tmp_path: Path) -> None:
    """A header that no parser can follow is no fault of ours."""
    header = b'{"__metadata__":' + b"[" * 10**5 + b"]" * 10**5 + b"}"
    (tmp_path / "deep.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(UserError, match="is cut off or damaged"):
        load_checkpoint(tmp_path / "deep.safetensors")


@pytest.mark.parametrize(
    "parameters",
    [
        *({"channels": [2, 4e16]}, {"channels": [2, "4000000000"]}, {"channels": [2**60, 2]}),
        *({"draws": 10**12, "decision": "vote"}, {"draws": 1e15, "decision": "mean"}),
    ],
)
def test_no_more_is_built_than_a_file_holds(tmp_path: Path, hrs: MethodSpec, parameters: dict[str, object]) -> None:
    """Numbers as a defense reads them, of floats and words too, ask for no memory and no time that the file has not."""
    spec = hrs.model_copy(update={"parameters": hrs.parameters | parameters})
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, own_model(), INFO.model_copy(update={"defenses": (spec,)}))
    with pytest.raises(
        UserError,
        match=rf"^{path}( describes more than [0-9]+ parts of a defense|: hrs.draws is [0-9]+: give at most )",
    ):
        load_checkpoint(path)


def test_a_folder_of_the_hub(tmp_path: Path) -> None:
    """A local copy of a timm model needs no further word; another folder needs its model, as a file does."""
    torch.manual_seed(1)
    theirs = timm.create_model("test_resnet", num_classes=5, in_chans=1).eval()
    save_for_hf(theirs, tmp_path, safe_serialization=True)
    images = torch.rand(2, 1, 32, 32)
    with pytest.warns(
        Notice,
        match=r"as timm:test_resnet: 5 classes, images of 32 x 32 \(the weights are for 160 x 160: .*, normalized by mean 0\.5",
    ):
        loaded = load_checkpoint(tmp_path, shape=(1, 32, 32))
    torch.testing.assert_close(loaded.model(images), theirs((images - 0.5) / 0.5))
    assert (loaded.info.model, loaded.info.classes) == ("timm:test_resnet", 5)
    save_checkpoint(tmp_path / "ours.safetensors", loaded.model, loaded.info)
    assert torch.equal(load_checkpoint(tmp_path / "ours.safetensors").model(images), loaded.model(images))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_classes": 10**6}))
    with pytest.raises(UserError, match="describes a network of at least"):
        load_checkpoint(tmp_path, shape=(1, 32, 32))
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match="does not say what it holds: give its model and classes"):
        load_checkpoint(tmp_path, shape=(1, 32, 32))


def test_a_folder_of_shards(tmp_path: Path) -> None:
    """All shards together are the weights, and their hash is of all; a tensor twice is refused."""
    torch.manual_seed(1)
    network = own_model().get_submodule("network").eval()
    state = network.state_dict()
    shards = {"1.safetensors": list(state)[:2], "2.safetensors": list(state)[2:]}
    for file, names in shards.items():
        safetensors.torch.save_file({name: state[name] for name in names}, tmp_path / file)
    weight_map = {name: file for file, names in shards.items() for name in names}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    options = {"model": "small-cnn", "shape": SHAPE, "classes": 4, "mean": 0.0, "std": 1.0}
    loaded = load_checkpoint(tmp_path, **options)  # type: ignore[arg-type]
    assert torch.equal(loaded.model(example_images(SHAPE)), network(example_images(SHAPE)))
    safetensors.torch.save_file({name: state[name] + 1 for name in shards["2.safetensors"]}, tmp_path / "2.safetensors")
    assert load_checkpoint(tmp_path, **options).sha256 != loaded.sha256  # type: ignore[arg-type]
    safetensors.torch.save_file(state, tmp_path / "2.safetensors")
    with pytest.raises(UserError, match=r"2\.safetensors has the tensor .* of another shard again"):
        load_checkpoint(tmp_path, **options)  # type: ignore[arg-type]

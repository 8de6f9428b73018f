from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from robustbench_cli.attacks import registry as attacks
from robustbench_cli.benchmarks.checkpoints.checkpoint import CheckpointInfo, save_checkpoint
from robustbench_cli.benchmarks.checkpoints.defended_model import (
    DefendedModel,
    change_decision_rule,
    for_radius,
    load_surrogates,
    method_spec,
    open_defended_model,
)
from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec
from robustbench_cli.benchmarks.models.base.build import build_model
from robustbench_cli.benchmarks.training.model_cache import ModelCache
from robustbench_cli.core.errors import Notice, UserError
from robustbench_cli.defenses import registry as defenses
from robustbench_cli.defenses.base.decision_rules import DecisionRule
from robustbench_cli.defenses.hrs import HRS

SHAPE = (1, 8, 8)

OWN = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, *, shape, classes):
        super().__init__(nn.Flatten(), nn.Linear(64, classes))
"""


def saved(path: Path, *, seed: int = 0, **changes: Any) -> Path:
    """A checkpoint of a fresh network."""
    torch.manual_seed(seed)
    info = CheckpointInfo(**{"model": "small-cnn", "shape": SHAPE, "classes": 10} | changes)
    model = build_model(info.model, shape=SHAPE, classes=10, mean=info.mean, std=info.std)
    save_checkpoint(path, model, info)
    return path


def test_the_identity_is_that_of_the_weights(tmp_path: Path) -> None:
    """When and how a model was trained, and what file it lies in, make no other model of it; its weights do."""
    first = open_defended_model(saved(tmp_path / "first.safetensors"))
    later = saved(tmp_path / "later.safetensors", training={"seconds": 9}, versions={"torch": "3"}, dataset="digits")
    assert open_defended_model(later).identity == first.identity
    assert open_defended_model(saved(tmp_path / "other.safetensors", seed=1)).identity != first.identity
    normalized = saved(tmp_path / "normalized.safetensors", mean=(0.5,), std=(0.5,))
    assert open_defended_model(normalized).identity != first.identity


@pytest.mark.filterwarnings("ignore::robustbench_cli.core.errors.Notice")
def test_a_foreign_file_is_the_same_model_as_ours(tmp_path: Path) -> None:
    """The same weights as a state dict, told what they are, have the same identity; told otherwise, another."""
    ours = open_defended_model(saved(tmp_path / "ours.safetensors"))
    state = ours.load().state_dict()
    torch.save({"state_dict": state}, tmp_path / "theirs.pth")
    save_file({f"module.{name}": tensor for name, tensor in state.items()}, tmp_path / "theirs.safetensors")
    loading = {"model": "small-cnn", "classes": 10, "shape": SHAPE}
    for name in ("theirs.pth", "theirs.safetensors"):
        assert open_defended_model(tmp_path / name, **loading).identity == ours.identity
    other = open_defended_model(tmp_path / "theirs.pth", **loading, mean=(0.1,), std=(1.0,))
    assert other.identity != ours.identity
    assert other.loading["mean"] == (0.1,)


@pytest.mark.filterwarnings("ignore::robustbench_cli.core.errors.Notice")
def test_one_number_of_a_normalization_stands_for_all_channels(tmp_path: Path) -> None:
    """The same normalization written in two ways is one model, in a state dict and in a checkpoint of ours."""
    torch.manual_seed(0)
    network, shape = build_model("small-cnn", shape=(3, 8, 8), classes=10), (3, 8, 8)
    torch.save(network.state_dict(), tmp_path / "theirs.pth")
    loading = {"model": "small-cnn", "classes": 10, "shape": shape}
    models = [
        open_defended_model(tmp_path / "theirs.pth", **loading, mean=mean, std=(0.2,))
        for mean in ((0.3,), (0.3, 0.3, 0.3), (0.3, 0.3, 0.4))
    ]
    for name, mean in (("one", (0.3,)), ("three", (0.3, 0.3, 0.3))):
        info = CheckpointInfo(model="small-cnn", shape=shape, classes=10, mean=mean, std=(0.2,))
        save_checkpoint(tmp_path / f"{name}.safetensors", models[0].load(), info)
        models.append(open_defended_model(tmp_path / f"{name}.safetensors", mean=0.3))
    first, same, other, *ours = models
    assert {model.identity for model in (same, *ours)} == {first.identity} != {other.identity}
    assert {model.mean for model in (first, same, *ours)} == {(0.3, 0.3, 0.3)}


def test_what_was_taken_is_told_once(tmp_path: Path) -> None:
    """Opening a file of several weights tells which were taken; what loads it again, as each worker does, does not."""
    state = open_defended_model(saved(tmp_path / "ours.safetensors")).load().state_dict()
    torch.save({"model": {name: tensor * 0 for name, tensor in state.items()}, "ema": state}, tmp_path / "theirs.pt")
    with pytest.warns(Notice, match="took 'ema'"):
        defended = open_defended_model(tmp_path / "theirs.pt", model="small-cnn", classes=10, shape=SHAPE)
    assert all(torch.equal(tensor, state[name]) for name, tensor in defended.load().state_dict().items())


def test_a_users_own_model_is_told_by_its_source(tmp_path: Path) -> None:
    """The file's content counts, and not where it lies."""
    identities = []
    for name, content in (("one.py", OWN), ("two.py", OWN), ("three.py", OWN + "# edited\n")):
        (tmp_path / name).write_text(content)
        spec = f"{tmp_path / name}:Net"
        path = saved(tmp_path / f"{name}.safetensors", model=spec)
        identities.append(open_defended_model(path, named=[spec]).identity)
    assert identities[0] == identities[1] != identities[2]


def test_a_subject_says_what_it_is(tmp_path: Path, cache: Callable[..., ModelCache], hrs: MethodSpec) -> None:
    """A switching model is randomized and can be counted; a plain one is neither."""
    prepared = cache()
    plain = prepared.trained(prepared.training())
    switching = prepared.trained(prepared.training(defenses=(hrs,)), tmp_path / "hrs.safetensors")
    assert (plain.randomized, plain.cost_of_all_draws, plain.defense) == (False, None, "none")
    assert switching.randomized
    assert switching.cost_of_all_draws is not None
    assert 2 < switching.cost_of_all_draws <= 4
    assert switching.defense == "hrs(channels=[2,2])"
    assert (plain.dataset, plain.shape, plain.classes) == ("digits", SHAPE, 10)
    assert plain.identity != switching.identity


def test_another_model_is_not_loaded_in_its_place(tmp_path: Path) -> None:
    """A file that was changed since it was opened is refused rather than attacked under the old name."""
    defended = open_defended_model(saved(tmp_path / "model.safetensors"))
    assert isinstance(defended.load(), torch.nn.Module)
    saved(defended.path, seed=1)
    with pytest.raises(UserError, match=f"{defended.path} has changed since the command began: give the command again"):
        defended.load()


def test_a_method_is_data_with_all_its_parameters() -> None:
    """Defaults included, strings read as YAML, and what differs from the defaults by name."""
    kind, spec, _ = method_spec(attacks, "pgd", {"steps": "7", "random_start": True})
    assert kind.__name__ == "PGD"
    assert spec.parameters == {name: field.default for name, field in kind.model_fields.items()} | {"steps": 7}
    assert spec.changed == ("steps",)
    assert spec.source is None
    assert spec.label == "pgd(steps=7)"
    assert json.loads(spec.model_dump_json())["parameters"]["steps"] == 7
    assert method_spec(defenses, "hrs", {"channels": (5, 5)}).spec.changed == ()


def test_a_users_own_method_brings_the_hash_of_its_source(tmp_path: Path) -> None:
    """So that an edit makes another cell."""
    file = tmp_path / "own.py"
    file.write_text("from robustbench_cli.attacks.pgd import PGD\n\n\nclass Mine(PGD):\n    steps: int = 3\n")
    spec = method_spec(attacks, f"{file}:Mine", {}).spec
    assert (spec.parameters["steps"], spec.changed) == (3, ())
    assert spec.source is not None
    assert len(spec.source) == 64


def test_a_surrogate_is_opened_and_its_identity_is_kept(tmp_path: Path) -> None:
    """The same wherever the file lies; what was set is in the label, down to the parameters of the other attack."""
    first = saved(tmp_path / "first.safetensors")
    (tmp_path / "moved.safetensors").write_bytes(first.read_bytes())
    saved(tmp_path / "other.safetensors", seed=1)
    found = {}
    for name in ("first", "moved", "other"):
        parameters = {"surrogate": str(tmp_path / f"{name}.safetensors"), "attack": {"name": "di-fgsm", "steps": 4}}
        found[name] = method_spec(attacks, "transfer", parameters)
        (surrogate,) = found[name].surrogates["surrogate"]
        assert surrogate.path == tmp_path / f"{name}.safetensors"
    identities = [found[name].spec.identity for name in ("first", "moved", "other")]
    assert identities[0] == identities[1] != identities[2]
    assert found["first"].spec.surrogates == {"surrogate": open_defended_model(first).identity}
    assert found["first"].spec.label == f"transfer(surrogate={first},attack.name=di-fgsm,attack.steps=4)"
    assert method_spec(attacks, "transfer", {"surrogate": str(first)}).spec.label == f"transfer(surrogate={first})"
    assert method_spec(attacks, "pgd", {}).surrogates == {}


def test_a_surrogate_is_loaded_again_and_no_other(tmp_path: Path) -> None:
    """The model that was opened, which gives the same logits; once the file holds another one it is refused."""
    path = saved(tmp_path / "first.safetensors")
    spec = method_spec(attacks, "transfer", {"surrogate": str(path)}).spec
    images = torch.rand(3, *SHAPE)
    with torch.no_grad():
        assert torch.equal(load_surrogates(spec, ())["surrogate"](images), open_defended_model(path).load()(images))
    saved(path, seed=1)
    with pytest.raises(UserError, match="has changed since the command began"):
        load_surrogates(spec, ())


def test_an_ensemble_is_opened_and_loaded_in_its_order(tmp_path: Path) -> None:
    """Its identity is that of its models; without an ensemble, the identity is as it was before there were ensembles."""
    first, second, third = (saved(tmp_path / f"{seed}.safetensors", seed=seed) for seed in range(3))
    plain = method_spec(attacks, "transfer", {"surrogate": str(first)}).spec
    assert "ensemble" not in plain.parameters
    spec = method_spec(attacks, "transfer", {"surrogate": str(first), "ensemble": [str(second), str(third)]}).spec
    moved = second.rename(tmp_path / "moved.safetensors")
    again = method_spec(attacks, "transfer", {"surrogate": str(first), "ensemble": [str(moved), str(third)]}).spec
    assert spec.identity == again.identity != plain.identity
    images = torch.rand(3, *SHAPE)
    loaded = again.build(attacks, **load_surrogates(again, ()))
    with torch.no_grad():
        for model, path in zip(loaded.ensemble, (moved, third), strict=True):
            assert torch.equal(model(images), open_defended_model(path).load()(images))


def test_a_surrogate_may_need_code_that_the_user_has_named(tmp_path: Path) -> None:
    """And no other."""
    (tmp_path / "own.py").write_text(OWN)
    own = f"{tmp_path / 'own.py'}:Net"
    path = saved(tmp_path / "own.safetensors", model=own)
    with pytest.raises(UserError, match=f"transfer.surrogate: {path} needs the code {own}: if you trust it, name it"):
        method_spec(attacks, "transfer", {"surrogate": str(path)})
    spec = method_spec(attacks, "transfer", {"surrogate": str(path)}, named=[own]).spec
    assert load_surrogates(spec, [own])["surrogate"](torch.rand(2, *SHAPE)).shape == (2, 10)


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("missing.safetensors", "no checkpoint"),
        ("", "is a folder"),
        ("code.pt", "loading that could run code"),
        ("weights.pt", "does not say what it holds: give a checkpoint that 'advdef train' has made"),
    ],
)
def test_what_cannot_be_a_surrogate_is_named(tmp_path: Path, file: str, told: str) -> None:
    """One line, which begins with the parameter."""
    torch.save(torch.nn.Linear(2, 2), tmp_path / "code.pt")
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "weights.pt")
    with pytest.raises(UserError, match=rf"^transfer\.surrogate: .*{told}"):
        method_spec(attacks, "transfer", {"surrogate": str(tmp_path / file)})


@pytest.mark.parametrize(
    ("registry", "code", "told"),
    [
        (attacks, "class Mine: pass", "is no attack: give a class that derives from"),
        (defenses, "class Mine: pass", "is no defense: give a class that derives from"),
        (defenses, "from robustbench_cli.attacks.pgd import PGD as Mine", "is no defense"),
        (attacks, "from robustbench_cli.attacks.base.attack import FixedRadiusAttack as Mine", "lacks run"),
        (attacks, "Mine = 3", "is no attack"),
    ],
)
def test_what_is_no_method_is_named(tmp_path: Path, registry: Any, code: str, told: str) -> None:
    """Another object under a path is one line."""
    (tmp_path / "own.py").write_text(code)
    with pytest.raises(UserError, match=told):
        method_spec(registry, f"{tmp_path / 'own.py'}:Mine", {})


def test_the_record_of_the_training_is_in_the_file(cache: Callable[..., ModelCache], tmp_path: Path) -> None:
    """Data set, seed, recipe and versions are read from the metadata by any program."""
    prepared = cache(seed=3)
    defended: DefendedModel = prepared.trained(prepared.training(), tmp_path / "model.safetensors")
    with safe_open(defended.path, "pt") as file:
        told = json.loads(file.metadata()["advdef"])
    assert told["dataset"] == "digits"
    assert told["training"]["stages"][0]["recipe"]["epochs"] == 1
    assert told["versions"]["torch"] == version("torch")


@pytest.mark.parametrize("rule", ["mean", "exact", "deterministic", "frozen"])
def test_another_rule_of_decision(
    tmp_path: Path, cache: Callable[..., ModelCache], hrs: MethodSpec, rule: DecisionRule
) -> None:
    """The same weights, without another training, are what a model built with that rule is; it is a model of its own."""
    prepared = cache()
    defended = prepared.trained(prepared.training(defenses=(hrs,)), tmp_path / "hrs.safetensors")
    other = defended.with_decision(rule)
    assert other.defense == f"hrs(decision={rule},channels=[2,2])"
    assert other.identity != defended.identity
    assert other.randomized == (rule == "mean")
    assert other.path == defended.path
    images, model = torch.rand(5, *SHAPE), other.load()
    built = HRS(channels=(2, 2), decision=rule).protect(build_model("small-cnn", shape=SHAPE, classes=10), images[:1])
    built.eval().load_state_dict({f"model.{name}": tensor for name, tensor in defended.load().state_dict().items()})
    answers = []
    for each in (model, built):
        torch.manual_seed(0)
        answers.append(each(images))
    assert torch.equal(*answers)
    assert other.with_decision("one-draw").identity == defended.identity


def test_what_has_no_draws_is_the_same_by_every_rule(tmp_path: Path) -> None:
    """An undefended model has nothing to decide."""
    defended = open_defended_model(saved(tmp_path / "plain.safetensors"))
    assert defended.with_decision("deterministic").identity == defended.identity


@pytest.mark.parametrize("before", ["mean", "deterministic", "frozen"])
@pytest.mark.parametrize("rule", ["one-draw", "mean", "deterministic", "frozen"])
def test_another_rule_inside_of_what_does_not_draw(before: DecisionRule, rule: DecisionRule) -> None:
    """A rule that stands inside of a JPEG codec is exchanged there: the model is what one built with the other rule is."""

    def built(decision: DecisionRule) -> tuple[nn.Module, tuple[MethodSpec, ...]]:
        torch.manual_seed(0)
        model = build_model("small-cnn", shape=SHAPE, classes=10)
        chain = [method_spec(defenses, "gaussian-noise", {"decision": decision}), method_spec(defenses, "jpeg", {})]
        for each in chain:
            model = each.spec.build(defenses).protect(model, torch.rand(1, *SHAPE))
        return model.eval(), tuple(each.spec for each in chain)

    model, specs = built(before)
    model, said = change_decision_rule(
        rule, model, CheckpointInfo(model="small-cnn", shape=SHAPE, classes=10, defenses=specs)
    )
    expected, protection = built(rule)
    assert said.defenses == protection
    images = torch.rand(5, *SHAPE)
    answers = []
    for each in (model, expected):
        torch.manual_seed(0)
        answers.append(each(images))
    assert torch.equal(*answers)


def test_the_radius_of_a_parameter_that_a_method_excludes_at_its_default() -> None:
    """HRS has a radius only where its channels are attacked in training; then it follows the data set's usual one."""
    attacked = method_spec(defenses, "hrs", {"objective": "pgd-at"}).spec
    assert "eps" not in attacked.parameters
    assert for_radius(attacked, 0.15).parameters["eps"] == 0.15
    assert for_radius(attacked, 0.15).label == "hrs(objective=pgd-at)"
    plain = method_spec(defenses, "hrs", {}).spec
    assert for_radius(plain, 0.15) == plain

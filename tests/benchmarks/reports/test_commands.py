from __future__ import annotations

import shlex
from typing import Any

import pytest

from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec
from robustbench_cli.benchmarks.reports.commands import reproducing_command
from robustbench_cli.benchmarks.store.records import Origin, Result

from ..conftest import MakeCell, MakeOutcomes, MakeResult


@pytest.fixture
def result(make_cell: MakeCell, make_outcomes: MakeOutcomes, make_result: MakeResult) -> Any:
    """A result, of which a test says what matters."""

    def make(result: dict[str, Any] | None = None, **cell: Any) -> Result:
        outcomes = make_outcomes(clean=[1] * 4, robust=[0] * 4)
        return make_result(make_cell(**cell), outcomes, **result or {})[0]

    return make


def test_a_command_names_what_the_cell_has(result: Any) -> None:
    """tests/cli/commands/test_report.py runs such commands."""
    attack = MethodSpec(name="pgd", parameters={"steps": 3, "a": {"b": [1, 2]}}, changed=("steps", "a.b"))
    corruption = MethodSpec(name="fog", parameters={"severity": 3})
    changes = {"attack": attack, "corruption": corruption, "eot": "exact", "repeats": 10, "seed": 5, "targeted": "next"}
    made = result({"eps": "8/255"}, **changes, precision="float32", stop_when_decided=0.4)
    assert reproducing_command(made, {}) == (
        "advdef attack --checkpoint model.safetensors --dataset digits --n 4 --attack pgd --set pgd.steps=3 "
        "--set 'pgd.a.b=[1,2]' --corruption fog --severity 3 --norm linf --eps 8/255 --targeted next --eot exact --repeats 10 "
        "--precision float32 --stop-when-decided 0.4 --seed 5"
    )
    assert reproducing_command(result(eps=None), {}).count("--eps") == 0


def test_a_command_names_a_network_of_the_users(result: Any) -> None:
    """A checkpoint of this project says which network it has, but code that a user wrote runs only where the user names it."""
    assert "--checkpoint model.safetensors --model net.py:Net --dataset" in str(
        reproducing_command(result(model="net.py:Net"), {})
    )
    assert "--model" not in str(reproducing_command(result(model="small-cnn"), {}))


def test_smaller_radii_belong_to_the_command(result: Any) -> None:
    """Images that they broke are not attacked again; without them there is no command."""
    small = result()
    middle = result(eps=0.2, after=small.cell.id)
    large = result(eps=0.3, after=middle.cell.id)
    by_cell = {made.cell.id: made for made in (small, middle, large)}
    assert f"--eps {small.eps} --eps 0.2 --eps 0.3 " in str(reproducing_command(large, by_cell))
    del by_cell[small.cell.id]
    assert reproducing_command(large, by_cell) is None


def test_a_cascade_has_no_command_of_its_own(result: Any) -> None:
    """Nor has another accounting: only a suite has these."""
    first = result()
    later = result(after=first.cell.id, cascade=True)
    assert reproducing_command(later, {first.cell.id: first}) is None
    assert reproducing_command(result(accounting="single-draw"), {}) is None


@pytest.mark.parametrize("name", ["a b", "$(touch x)", "'; rm -rf /; '", "--help", "`x`\n"])
def test_a_name_stays_one_word(result: Any, name: str) -> None:
    """A shell reads it as it is."""
    made = result({"checkpoint": name, "eps": name}, dataset=name, attack=MethodSpec(name=name))
    words = shlex.split(str(reproducing_command(made, {})))
    assert words == [
        *(
            "advdef",
            "attack",
            "--checkpoint",
            name,
            "--model",
            "small-cnn",
            "--dataset",
            name,
            "--n",
            "4",
            "--attack",
            name,
        ),
        *("--norm", "linf", "--eps", name, "--seed", "0"),
    ]


def test_the_command_has_what_the_file_does_not_say(result: Any) -> None:
    """A foreign checkpoint with its network; a training of the cache, on whichever machine, without its path."""
    jpeg = MethodSpec(name="jpeg", parameters={"quality": 50}, changed=("quality",))
    foreign = {"checkpoint": "resnet.pt", "mean": (0.3,), "std": (0.37,)}
    plain = result(foreign, model="net.py:build")
    network = "advdef attack --checkpoint resnet.pt --model net.py:build --mean 0.3 --std 0.37 "
    assert str(reproducing_command(plain, {})).startswith(network + "--dataset")
    cached = "/home/x/.cache/advdef/checkpoints/digits-a-0123456789ab.safetensors"
    wrapped = result({**foreign, "checkpoint": cached}, model="net.py:build", defenses=(jpeg,))
    line = str(reproducing_command(wrapped, {plain.cell.id: plain}))
    assert line.startswith(network + "--defense jpeg --set jpeg.quality=50 --dataset")
    assert reproducing_command(wrapped, {}) is None
    trained = str(reproducing_command(result({"checkpoint": cached}, defenses=()), {}))
    assert trained.startswith("advdef attack --model small-cnn --defense none --dataset")


def test_a_training_that_is_not_the_usual_one_stands_in_the_command(result: Any) -> None:
    """Its parameters, its seed where it is not the cell's, and the checkpoint that it starts from with what was added."""
    cached = "/home/x/.cache/advdef/checkpoints/digits-a-0123456789ab.safetensors"
    origin = Origin(recipe={"epochs": 3, "schedule": "multistep", "milestones": [0.5], "seed": 0})
    trained = str(reproducing_command(result({"checkpoint": cached, "origin": origin}, defenses=()), {}))
    assert trained.startswith(
        "advdef attack --model small-cnn --defense none --set train.epochs=3 --set train.schedule=multistep "
        "--set 'train.milestones=[0.5]' --dataset"
    )
    named = Origin(recipe={"recipe": "rice-2020", "epochs": 3, "seed": 0})
    assert " --recipe rice-2020 --set train.epochs=3 --dataset" in str(
        reproducing_command(result({"checkpoint": cached, "origin": named}), {})
    )
    other = str(reproducing_command(result({"checkpoint": cached, "origin": Origin(recipe={"seed": 7})}), {}))
    assert "--set train.seed=7" in other
    chain = (MethodSpec(name="hrs"), MethodSpec(name="jpeg"))
    own = {"checkpoint": cached, "origin": Origin(base="mine.safetensors", base_defenses=1)}
    line = str(reproducing_command(result(own, defenses=chain), {}))
    assert line.startswith("advdef attack --checkpoint mine.safetensors --defense jpeg --dataset")
    foreign = {"checkpoint": cached, "origin": Origin(base="resnet.pt"), "mean": (0.3,), "std": (0.37,)}
    line = str(reproducing_command(result(foreign, model="net.py:build", defenses=chain[1:]), {}))
    assert line.startswith(
        "advdef attack --checkpoint resnet.pt --model net.py:build --mean 0.3 --std 0.37 --defense jpeg"
    )

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from robustbench_cli.cli.model_args import ModelArgs
from robustbench_cli.core.errors import UserError


def args(*, checkpoints: tuple[Path, ...] = (), **changes: Any) -> ModelArgs:
    options: dict[str, Any] = dict.fromkeys(("model", "classes", "mean", "std", "dataset", "epochs"))
    return ModelArgs(
        checkpoints=checkpoints, **options | {"defenses": (), "data_options": {}, "class_names": None} | changes
    )


def chains(model_args: ModelArgs, **parameters: dict[str, Any]) -> list[list[str]]:
    """The chains of a command line: names of defenses, and ``file`` for a checkpoint."""
    options = model_args.suite_options(parameters)
    return [[entry.name or "file" for entry in chain] for chain in options["defenses"]]


@pytest.fixture
def jpeg_checkpoint(tmp_path: Path, advdef: Callable[..., Any]) -> Path:
    """A checkpoint that has a defense."""
    path = tmp_path / "jpeg.safetensors"
    assert advdef("train", "--defense", "jpeg", "--epochs", "1", "-o", str(path), "-q").code == 0
    return path


def test_a_new_model_has_one_chain() -> None:
    """Without a defense it is ``none``; several defenses compose in their order, with their parameters."""
    assert chains(args()) == [["none"]]
    assert chains(args(defenses=("jpeg", "hrs"))) == [["jpeg", "hrs"]]
    options = args(defenses=("hrs",)).suite_options({"hrs": {"channels": [5, 5]}})
    assert options["defenses"][0][0].parameters == {"channels": [5, 5]}


def test_a_recipe_brings_its_defense(advdef: Callable[..., Any], tmp_path: Path) -> None:
    """Where the user names none; what does not fit the data or the defense is named in a warning, and --set overrides."""
    options = (
        "--recipe",
        "madry-2018",
        "--epochs",
        "1",
        "--set",
        "train.lr=0.02",
        "-o",
        str(tmp_path / "m.safetensors"),
    )
    ended = advdef("train", *options)
    assert ended.code == 0
    assert (
        "warning: recipe madry-2018 is for cifar10 and mnist, not digits: its network, augmentations, eps and step_size do "
        "not fit and are left out"
    ) in ended.err
    assert "small-cnn with pgd-at(steps=7,attack_mode=train) on digits" in ended.out
    with safe_open(tmp_path / "m.safetensors", "pt") as file:
        recipe = json.loads(file.metadata()["advdef"])["training"]["stages"][0]["recipe"]
    expected = {
        "recipe": "madry-2018",
        "epochs": 1,
        "lr": 0.02,
        "momentum": 0.9,
        "decayed": "weights",
        "milestones": [0.5, 0.75],
    }
    assert {key: recipe[key] for key in expected} == expected
    ended = advdef("train", *options, "--defense", "trades")
    assert "warning: recipe madry-2018 is for pgd-at, not trades\n" in ended.err
    ended = advdef("train", "--recipe", "madry", "-o", str(tmp_path / "x.safetensors"))
    assert (ended.code, ended.err) == (2, "advdef: error: unknown recipe 'madry': did you mean 'madry-2018'?\n")


def test_a_checkpoint_is_used_as_it_is_or_defended(jpeg_checkpoint: Path) -> None:
    """It is used as it is with no defense, with ``none`` and with its own defenses; others are put around it."""
    files = {"checkpoints": (jpeg_checkpoint,)}
    assert chains(args(**files)) == [["file"]]
    assert chains(args(**files, defenses=("none",))) == [["file"]]
    assert chains(args(**files, defenses=("jpeg",))) == [["file"]]
    assert chains(args(**files, defenses=("hrs",))) == [["file", "hrs"]]
    assert chains(args(**files, defenses=("jpeg", "hrs"))) == [["file", "jpeg", "hrs"]]
    assert chains(args(checkpoints=(jpeg_checkpoint, jpeg_checkpoint))) == [["file"], ["file"]]
    with pytest.raises(UserError, match="is trained with jpeg already: leave out --set for it"):
        chains(args(**files, defenses=("jpeg",)), jpeg={"quality": 5})


def test_the_data_set_is_the_checkpoints(jpeg_checkpoint: Path) -> None:
    """The user's comes first, and the embedded one is the default."""
    assert args().dataset_name() == "digits"
    assert args(checkpoints=(jpeg_checkpoint,)).dataset_name() == "digits"
    assert args(checkpoints=(jpeg_checkpoint,), dataset="mnist").dataset_name() == "mnist"
    options = {"channels": "3"}
    assert args(checkpoints=(jpeg_checkpoint,), data_options=options).dataset_name() == "digits?channels=3"
    assert args(data_options=options).given == "--channels"


def test_an_option_and_the_data_sets_name_agree() -> None:
    """An option of the command line and one in ``--dataset`` are equal, or neither is silently left out."""
    both = {"dataset": "digits?channels=3&image_size=16"}
    assert args(**both, data_options={"image_size": "16"}).dataset_name() == "digits?channels=3&image_size=16"
    assert args(**both, data_options={"resize": 20}).dataset_name() == "digits?channels=3&image_size=16&resize=20"
    with pytest.raises(
        UserError, match=r"^--image-size 32 and image_size=16 in the name of the data set differ: leave one"
    ):
        args(**both, data_options={"image_size": "32"}).dataset_name()


def test_model_and_training_become_options_of_a_suite() -> None:
    """``--epochs`` overrides the number that ``--set`` gives; a model is only set where the user describes one."""
    options = args(epochs=3).suite_options({"train": {"epochs": 5, "batch_size": 7}})
    assert (options["train"], options["model"]) == ({"epochs": 3, "batch_size": 7}, None)
    model = args(model="paper-cnn", mean=(0.5,)).suite_options({})["model"]
    assert (model.name, model.mean, model.std) == ("paper-cnn", (0.5,), None)


def test_messages_name_the_options_that_are_set() -> None:
    """In the order of the help page."""
    assert args().given == ""
    assert args(epochs=1, model="small-cnn", defenses=("hrs",)).given == "--model, --defense, --epochs"


def test_defenses_and_the_training_can_be_set() -> None:
    """By their names; the training is ``train``."""
    settable = args(defenses=("hrs", "jpeg")).settable()
    assert list(settable) == ["hrs", "jpeg", "train"]
    assert "epochs" in settable["train"].model_fields

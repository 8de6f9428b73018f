from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from .conftest import FAST, TINY, Advdef, error_line

MODELS = """
from torch import nn

class Probabilities(nn.Sequential):
    def __init__(self, *, shape, classes):
        super().__init__(nn.Flatten(), nn.Linear(64, classes), nn.Softmax(1))

def no_module(*, shape, classes):
    return 3

class NoMethod:
    pass
"""


def test_unknown_names_get_a_suggestion(advdef: Advdef, here: Path) -> None:
    """For attacks, defenses, data sets, models, options and parameters."""
    for options, line in [
        (("--defense", "hsr"), "unknown defense 'hsr': did you mean 'hrs'?"),
        (("--attack", "pdg"), "unknown attack 'pdg': did you mean 'pgd'?"),
        (("--attack", "eot-pdg"), "unknown attack 'pdg': did you mean 'pgd'?"),
        (("--dataset", "digit"), "unknown dataset 'digit': did you mean 'digits'?"),
        (("--model", "smal-cnn"), "unknown model 'smal-cnn': did you mean 'small-cnn'?"),
        (("--norm", "l7"), "--norm: unknown norm 'l7': did you mean 'l0', 'l1' or 'l2'?"),
        (("--epsilon", "1"), "advdef attack has no option --epsilon: did you mean '--eps'?"),
        (("--set", "pgd.stepz=3", "--attack", "pgd"), "pgd has no parameter 'stepz': did you mean 'steps'?"),
    ]:
        assert error_line(advdef("attack", *options)) == line


@pytest.mark.parametrize(
    ("eps", "line"),
    [
        ("-1", "it must be 0 or more, and finite"),
        ("-8/255", "it must be 0 or more, and finite"),
        ("nan", "it must be 0 or more, and finite"),
        ("abc", "give a number or a fraction, such as 0.03 or 8/255"),
        ("8/0", "give a number or a fraction, such as 0.03 or 8/255"),
        ("", "give a number or a fraction, such as 0.03 or 8/255"),
    ],
)
def test_a_bad_radius_is_a_usage_error(advdef: Advdef, here: Path, eps: str, line: str) -> None:
    """A negative, infinite or unreadable radius is one line, before anything is trained."""
    assert error_line(advdef("attack", f"--eps={eps}", *FAST)) == f"eps is '{eps}': {line}"
    assert list(here.iterdir()) == []


def test_a_threat_model_is_checked_before_training(advdef: Advdef, here: Path) -> None:
    """A norm without a radius, an unwritable store or a bad file name is an error before anything is trained."""
    (here / "file").write_text("")
    for options, line in [
        (("--norm", "l2"), "no default eps for l2: pass --eps, or set eps in the suite file"),
        (
            ("--norm", "l1", "--eps", "1"),
            "fgsm does not support the norm l1 (it supports linf, l2); for l1 use apgd-ce, apgd-dlr, apgd-pm, apgd-t, cw-pgd, expected-cost, malt, pgd, pma or square",
        ),
        (("--store", "file"), "--store: directory 'file' is a file"),
        (
            ("--store", "file/runs"),
            "cannot write in file/runs/cells: Not a directory; choose a writable location",
        ),
        (
            ("-o", "table.xlsx"),
            (
                "-o table.xlsx: the ending selects the format: give one of .csv, .json, .md, .tex, .html, .xml, .sarif, "
                ".evidence.json, .model-index.yaml, .eval-results.yaml"
            ),
        ),
    ]:
        ended = advdef("attack", *options, *FAST, "--seed", "77")
        assert error_line(ended) == line
        assert len(ended.err.splitlines()) == 1


class _Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch ran",)


def test_a_bad_checkpoint_is_an_error(advdef: Advdef, here: Path, checkpoint: Path) -> None:
    """A truncated or empty file, a web page, another architecture, NaN weights, or a file with code, which does not run."""
    whole = checkpoint.read_bytes()
    (here / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (here / "header.safetensors").write_bytes(whole[:50])
    (here / "empty.safetensors").write_bytes(b"")
    (here / "page.safetensors").write_text("<!DOCTYPE html><title>404</title>")
    (here / "code.pt").write_bytes(pickle.dumps(_Code()))
    torch.save({"state": _Code()}, here / "code.pth")
    torch.save({"fc.weight": torch.zeros(3, 3)}, here / "other.pth")
    with safe_open(checkpoint, "pt") as file:
        metadata = file.metadata()
    weights = load_file(checkpoint)
    weights["conv1.bias"][0] = torch.nan
    save_file(weights, here / "nan.safetensors", metadata)
    foreign = ("--model", "small-cnn", "--classes", "10", "--dataset", "digits")
    for options, line in [
        (("gone.safetensors",), "no checkpoint gone.safetensors: did you mean "),
        (("cut.safetensors",), "cut.safetensors is cut off or damaged (SafetensorError: "),
        (("header.safetensors",), "header.safetensors is cut off or damaged (SafetensorError: "),
        (("empty.safetensors",), "empty.safetensors is empty: save or download it again"),
        (("page.safetensors",), "page.safetensors is a web page, not a checkpoint: download the file itself"),
        (
            ("code.pt",),
            "code.pt holds more than tensors, and loading that could run code (posix.system): where you trust",
        ),
        (("code.pth",), "code.pth holds more than tensors, and loading that could run code (posix.system): where you"),
        (("nan.safetensors",), "nan.safetensors holds NaN or infinity in conv1.bias: its training has failed"),
        (("other.pth",), "other.pth does not say what it was trained on: give --dataset"),
        (("other.pth", "--dataset", "digits"), "other.pth does not say what it holds: give "),
        (("other.pth", *foreign), "other.pth does not fit small-cnn: missing conv1.weight, conv1.bias, conv2.weight"),
        (
            ("model.safetensors", "--model", "paper-cnn"),
            "model.safetensors was made with model small-cnn, not paper-cnn",
        ),
    ]:
        assert error_line(advdef("attack", "--checkpoint", *options, "--attack", "fgsm")).startswith(line)
    assert not (here / "ran").exists()
    assert not (here / "advdef-runs").exists() or not [*(here / "advdef-runs").rglob("*.json")]


def test_bad_data_are_an_error(advdef: Advdef, here: Path, checkpoint: Path) -> None:
    """Missing data, labels out of range, images outside [0, 1], or another shape than the model's."""
    gray, labels = np.zeros((4, 8, 8), np.uint8), np.arange(4)
    np.savez("labels.npz", images=gray, labels=[0, 1, 2, 30], classes=10)
    np.savez("classes.npz", images=gray, labels=[0, 1, 2, 15])
    np.savez("bright.npz", images=np.linspace(0, 255, 256).reshape(4, 8, 8), labels=labels)
    np.savez("large.npz", images=np.zeros((4, 9, 9), np.uint8), labels=labels)
    for dataset, line in [
        (
            "npz:gone.npz",
            "no file gone.npz: give npz:PATH, where PATH is an .npz file with the arrays images and labels",
        ),
        ("imagefolder:gone", "no folder gone: give imagefolder:PATH"),
        (
            "npz:labels.npz",
            "the test split of npz:labels.npz has the label 30 at index 3: with 10 classes, labels are 0",
        ),
        ("npz:classes.npz", "the labels of npz:classes.npz reach from 0 to 15, and model.safetensors gives 10 logits"),
        (
            "npz:bright.npz",
            "the test images of bright.npz reach from 0 to 255: divide them by 255, pixels are floats in [0, 1] (or",
        ),
        (
            "npz:large.npz",
            "model.safetensors takes images of shape (1, 8, 8), those of npz:large.npz have (1, 9, 9): name the data set",
        ),
        ("digits?image_sice=8", "data set digits has no option 'image_sice': did you mean 'image_size'?"),
    ]:
        command = ("attack", "--checkpoint", "model.safetensors", "--dataset", dataset, "--attack", "fgsm")
        assert error_line(advdef(*command)).startswith(line)


def test_images_of_another_size_are_brought_to_the_model(advdef: Advdef, here: Path, checkpoint: Path) -> None:
    """The message's own way out works, and the row names the data as they were seen."""
    np.savez("color.npz", images=np.zeros((4, 9, 9, 3), np.uint8), labels=np.arange(4))
    command = ("attack", "--checkpoint", "model.safetensors", "--dataset", "npz:color.npz", "--attack", "fgsm")
    assert error_line(advdef(*command)).endswith("bring the images to it with --channels 1 --image-size 8")
    outcome = advdef(*command, "--channels", "1", "--image-size", "8", "-o", "t.csv")
    assert outcome.code == 0, outcome.stderr
    assert "npz:color.npz?channels=1&image_size=8," in Path("t.csv").read_text(encoding="utf-8")


def test_a_checkpoint_runs_no_code(advdef: Advdef, here: Path, checkpoint: Path) -> None:
    """A checkpoint may name a data set in somebody's code; the code runs only if the user names it."""
    (here / "data.py").write_text("raise RuntimeError('it ran')")
    with safe_open(checkpoint, framework="pt") as file:
        info = json.loads(file.metadata()["advdef"]) | {"dataset": "data.py:X"}
    save_file(load_file(checkpoint), checkpoint, metadata={"advdef": json.dumps(info)})
    line = "needs the code data.py:X: if you trust it, name it yourself with --dataset data.py:X"
    assert error_line(advdef("attack", "--checkpoint", "model.safetensors", *FAST)).endswith(line)
    assert "it ran" in error_line(
        advdef("attack", "--checkpoint", "model.safetensors", "--dataset", "data.py:X", *FAST)
    )


def test_a_checkpoint_runs_the_defense_that_the_user_names(advdef: Advdef, here: Path) -> None:
    """A checkpoint with somebody's own defense is attacked as it is, if --defense names the same code."""
    (here / "own.py").write_text("from robustbench_cli.defenses.none import Undefended as Own\n")
    trained = advdef("train", "--defense", "own.py:Own", "--epochs", "1", "-o", "own.safetensors")
    assert trained.code == 0, trained.stderr
    line = "needs the code own.py:Own: if you trust it, name it yourself with --defense own.py:Own"
    command = ("attack", "--checkpoint", "own.safetensors", *FAST, "-o", "own.csv")
    assert error_line(advdef(*command)).endswith(line)
    attacked = advdef(*command, "--defense", "own.py:Own")
    assert attacked.code == 0, attacked.stderr
    assert ",own.py:Own," in Path("own.csv").read_text(encoding="utf-8")


def test_the_output_file_is_checked_first(advdef: Advdef, here: Path) -> None:
    """Before anything is trained or computed, in both commands that write a table."""
    (here / "file").write_text("")
    for command in (("attack", *FAST), ("report", "advdef-runs")):
        for name in ("file/table.csv", "table.xls"):
            line = error_line(advdef(*command, "-o", name))
            assert name.partition("/")[0] in line
    assert [*here.iterdir()] == [here / "file"]


def test_unreadable_values_are_an_error(advdef: Advdef, here: Path) -> None:
    """Thousands of digits or brackets, in an option and in a file; repeated keys; zero bytes."""
    many, deep = "9" * 5000, "[" * 5000
    for value in (many, deep):
        assert error_line(advdef("attack", "--attack", "pgd", "--set", f"steps={value}")).startswith(
            "--set pgd.steps: "
        )
    for content, line in [
        (f"seed: {many}", "x.yaml: a number that cannot be read"),
        (f"seed: {deep}", "x.yaml: the value is nested too deeply"),
        ("seed: 1\nn: 3\nseed: 2", "x.yaml: line 3: 'seed' is given twice: give it once"),
        (
            "data-dir: a\ndata_dir: b",
            "x.yaml: data_dir: 'data-dir' is given twice, with '_' and with '-': give it once",
        ),
        ('store: "a\\0b"', "x.yaml: store: is 'a\\x00b', which has a zero byte in it: leave it out"),
    ]:
        (here / "x.yaml").write_text(content)
        assert error_line(advdef("attack", "--config", "x.yaml")).startswith(line)
    for options in (("--checkpoint", "c" * 300), ("--dataset", f"npz:{'c' * 300}"), ("--attack", f"{'c' * 300}.py:X")):
        assert error_line(advdef("attack", *options)).endswith(": File name too long")


BAD_DEFENSES = """\
from torch import nn
from robustbench_cli.defenses.base.defense import Defense


class Slip(Defense):
    def protect(self, model, example):
        return nn.Sequential(model.nope, model)

class Shaped(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return self.model(images[:, :, :3])

class Forward(Defense):
    def protect(self, model, example):
        return Shaped(model)

class Nothing(Defense):
    def protect(self, model, example):
        return None
"""


def test_wrong_models_and_methods_are_an_error(advdef: Advdef, here: Path) -> None:
    """A model that gives probabilities, an object of another kind, and a name that the file does not have."""
    (here / "own.py").write_text(MODELS)
    for options, line in [
        (
            ("--model", "own.py:Probabilities"),
            "model own.py:Probabilities gives probabilities (each row sums to 1): give log",
        ),
        (("--model", "own.py:no_module"), "model own.py:no_module gives a int: it must return an nn.Module"),
        (("--model", "own.py:Gone"), "own.py has no 'Gone': "),
        (("--model", "gone.py:Net"), "no file gone.py: give package.module:object or path/to/file.py:object"),
        (("--defense", "own.py:NoMethod"), "'own.py:NoMethod' is no defense: give a class that derives from robust"),
        (("--attack", "own.py:NoMethod"), "'own.py:NoMethod' is no attack: give a class that derives from "),
    ]:
        assert error_line(advdef("attack", *options, *TINY)).startswith(line)
    assert error_line(advdef("attack", "--defense", "own.py:NoMethod", *TINY)).endswith(
        " (docs/extending.md), or, for a model that is random by itself, --model own.py:NoMethod (docs/randomized-defense.md)"
    )


def test_an_error_in_the_users_own_defense_names_its_line(advdef: Advdef, here: Path) -> None:
    """An error of protect or of the defended model is a usage error, and so is what is no module."""
    (here / "bad.py").write_text(BAD_DEFENSES)
    for name, line in [
        ("Slip", "defense bad.py:Slip fails in protect (bad.py, line 7): AttributeError: 'SmallCNN' object has no"),
        ("Forward", "bad.py fails in forward (bad.py, line 15): RuntimeError: "),
        ("Nothing", "Nothing.protect gives a NoneType: it must return an nn.Module"),
    ]:
        assert error_line(advdef("attack", "--defense", f"bad.py:{name}", *TINY)).startswith(line)


def test_a_norm_that_another_librarys_attack_lacks_is_an_error(advdef: Advdef, here: Path, checkpoint: Path) -> None:
    """The norm of its class is the only one, and attacks of the project are offered for others."""
    command = ("attack", "--checkpoint", str(checkpoint), "--attack", "torchattacks:PGD", "--norm", "l2", "--eps", "1")
    assert error_line(advdef(*command)).startswith(
        "torchattacks:PGD does not support the norm l2 (it supports linf); for l2 use "
    )

from __future__ import annotations

import json
import re
import shlex
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

Advdef = Callable[..., Any]

HRS = ("--defense", "hrs", "--set", "channels=[2,2]", "--epochs", "3")

DYING = """
import os
import signal
from robustbench_cli.benchmarks.datasets.base.split import Split
from robustbench_cli.benchmarks.datasets.digits import Digits

class Counting(Split):
    def __init__(self, split):
        super().__init__(split.labels)
        self.split = split
        self.batches = 0

    def images(self, indices):
        self.batches += 1
        if str(self.batches) == os.environ.get("DIE_AT"):
            os.kill(os.getpid(), getattr(signal, os.environ["DIE_BY"]))
        return self.split.images(indices)

class Dying(Digits):
    def load(self, name):
        split = super().load(name)
        return Counting(split) if name == "train" else split
"""


def metadata(path: Path) -> Any:
    """The metadata of a checkpoint, without the seconds of its training."""
    with safe_open(path, "pt") as file:
        content = json.loads(file.metadata()["advdef"])
    for stage in content["training"]["stages"]:
        del stage["seconds"]
        for part in stage["trained"].values():
            del part["seconds"]
    return content


def test_a_killed_training_resumes(
    advdef: Advdef, advdef_process: Advdef, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in one block and killed in the next, it ends with exactly the weights of an undisturbed training."""
    (here / "dying.py").write_text(DYING)
    command = ["train", "--dataset", "dying.py:Dying", *HRS, "-o", "killed.safetensors"]
    # An epoch has eleven batches, and a block three epochs. The signal comes in the last epoch of the first block; the
    # kill, counted from the start of that epoch, in the second epoch of the second block.
    with monkeypatch.context() as environment:
        environment.setenv("DIE_AT", "30")
        environment.setenv("DIE_BY", "SIGTERM")
        stopped = advdef(*command)
    assert stopped.code == 130
    assert stopped.err.rstrip().endswith(f"resume with: advdef {shlex.join(command)}")
    killed = advdef_process(*command, DIE_AT="27", DIE_BY="SIGKILL")
    assert killed.code == -signal.SIGKILL
    assert "block 1: 3 epochs" in killed.err
    assert not (here / "killed.safetensors").exists()
    resumed = advdef(*command)
    assert resumed.code == 0
    assert [line.partition(":")[0] for line in resumed.err.splitlines()[1:]] == ["block 2"]
    undisturbed = advdef(*command[:-1], "whole.safetensors")
    assert resumed.out.splitlines()[0].partition(":")[2] == undisturbed.out.splitlines()[0].partition(":")[2]
    first, second = load_file(here / "killed.safetensors"), load_file(here / "whole.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert metadata(here / "killed.safetensors") == metadata(here / "whole.safetensors")
    assert sorted(path.name for path in here.glob("*killed*")) == ["killed.safetensors"]


def test_a_trained_model_is_reported_in_one_line(advdef: Advdef, here: Path) -> None:
    """Stdout has the model, its accuracy and its cost, stderr the training; a second run trains nothing."""
    command = ("train", *HRS, "-o", "folder/hrs.safetensors")
    first = advdef(*command)
    assert first.code == 0
    start = "folder/hrs.safetensors: small-cnn with hrs(channels=[2,2]) on digits, randomized, clean accuracy "
    assert first.out.startswith(start)
    model, cost = first.out.splitlines()
    assert model.endswith(" on 500 test images")
    assert re.fullmatch(
        r"[0-9,]+ parameters, 2\.0 times the network's; trained in [0-9.]+ s \(block 1 [0-9.]+ s, block 2 [0-9.]+ s\); "
        r"a pass costs 1\.0 of the network's, all draws [0-9.]+",
        cost,
    )
    assert first.err.splitlines()[0] == (
        "training small-cnn with hrs(channels=[2,2]) on digits; checkpoint: folder/hrs.safetensors"
    )
    assert len(first.err.splitlines()) == 3
    content = (here / "folder" / "hrs.safetensors").read_bytes()
    second = advdef(*command)
    assert (second.out, second.err) == (first.out, "")
    assert (here / "folder" / "hrs.safetensors").read_bytes() == content
    assert advdef(*command, "--seed", "1", "-q").err == ""
    assert (here / "folder" / "hrs.safetensors").read_bytes() != content


def test_a_checkpoint_is_all_that_an_attack_needs(advdef: Advdef, here: Path) -> None:
    """The data set, the model, the normalization and the defense come from the file, also after it moves."""
    options = ("--mean", "0.3", "--std", "0.3", "--set", "train.lr=0.01", "--set", "gaussian-noise.sigma_init=0.1")
    assert (
        advdef("train", "--defense", "gaussian-noise", *options, "--epochs", "2", "-o", "noisy.safetensors").code == 0
    )
    (here / "noisy.safetensors").rename(here / "moved.safetensors")
    ended = advdef("attack", "--checkpoint", "moved.safetensors", "--attack", "fgsm", "--n", "20")
    assert ended.code == 0
    assert "gaussian-noise(sigma_init=0.1)" in ended.out
    more = ("--defense", "hrs", "--set", "channels=[2,1]", "--epochs", "1", "-o", "both.safetensors")
    assert advdef("train", "--checkpoint", "moved.safetensors", *more).code == 0
    ended = advdef("attack", "--checkpoint", "both.safetensors", "--attack", "fgsm", "--n", "20")
    assert "gaussian-noise(sigma_init=0.1)+hrs(channels=[2,1])" in ended.out


def test_training_starts_from_a_foreign_checkpoint(advdef: Advdef, here: Path, checkpoint: Path) -> None:
    """A state dict needs options that describe it; the checkpoint that comes of it needs none."""
    torch.save({"state_dict": load_file(checkpoint)}, "theirs.pth")
    options = ("--checkpoint", "theirs.pth", "--model", "small-cnn", "--classes", "10", "--dataset", "digits")
    ended = advdef("train", *options, "--defense", "gaussian-noise", "--epochs", "1", "-o", "ours.safetensors")
    assert ended.code == 0
    assert (
        ended.err.count(
            "theirs.pth: took 'state_dict'; as small-cnn: 10 classes, images of 8 x 8, no normalization known"
        )
        == 1
    )
    assert advdef("attack", "--checkpoint", "ours.safetensors", "--attack", "fgsm", "--n", "20").code == 0


def test_a_usage_error(advdef: Advdef, here: Path, checkpoint: Path) -> None:
    """A wrong ending, an unwritable folder, no defense, a diverging recipe or a value out of range is one line, exit code 2."""
    (here / "file").write_text("")
    out = ("-o", "out.safetensors", "--epochs", "1")
    for options, line in [
        (
            (*out, "--defense", "pgd-at", "--defense", "hrs", "--set", "split=conv9"),
            "no cut after 'conv9': the forward pass has no such module",
        ),
        (("-o", "out.pt"), "a checkpoint is a .safetensors file, not out.pt: give out.safetensors"),
        (("-o", "file/out.safetensors"), "cannot write in file: File exists; choose a writable location"),
        ((), "advdef train: give --output FILE"),
        (
            (*out, "--checkpoint", "model.safetensors"),
            "nothing to train: name a --defense to put around model.safetensors",
        ),
        (
            ("-o", "./model.safetensors", "--checkpoint", "model.safetensors", "--defense", "gaussian-noise"),
            "-o model.safetensors is the checkpoint that the training starts from: give another file",
        ),
        ((*out, "--set", "train.lr=-1"), "train.lr is -1: input should be greater than 0"),
        ((*out, "--set", "lr=1e9"), "training diverged in epoch 1, its loss is "),
        ((*out, "--set", "rate=1"), "--set rate: "),
        ((*out, "--defense", "hrs", "--set", "channels=0"), "hrs.channels is 0: "),
    ]:
        ended = advdef("train", *options)
        assert (ended.code, ended.out) == (2, "")
        assert ended.err.splitlines()[-1].startswith(f"advdef: error: {line}")
        assert "; checkpoint: " not in ended.err or "diverged" in line
        assert not list(here.glob("out*"))


def test_a_defense_that_trains_nothing(advdef: Advdef, here: Path, checkpoint: Path) -> None:
    """It is put around the model of a checkpoint; a budget for it is a usage error."""
    words = ("train", "--checkpoint", "model.safetensors", "--defense", "jpeg", "-o", "jpeg.safetensors")
    budget = advdef(*words, "--seconds", "5")
    assert (budget.code, budget.out) == (2, "")
    assert budget.err.endswith(
        "model.safetensors with jpeg on digits trains nothing: leave --seconds and --passes out\n"
    )
    ended = advdef(*words)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("jpeg.safetensors: model.safetensors with jpeg on digits, ")


def test_all_weights_are_kept(advdef: Advdef, here: Path) -> None:
    """The best are in the checkpoint, the others beside it. Each has a line with its accuracies, again without training."""
    options = "--dataset digits --defense pgd-at --epochs 2 -o pgd.safetensors"
    settings = "--set steps=1 --set train.held_out=0.1 --set train.ema=0.9 --set train.held_out_steps=2"
    command = ["train", *options.split(), *settings.split()]
    first, again = advdef(*command), advdef(*command)
    assert first.code == again.code == 0
    assert first.out == again.out
    pattern = r"(\w+)( \(epoch [12]\))?: clean [\d.]+ on 500 test images, held-out robust [\d.]+, held-out clean [\d.]+: (\S+)"
    lines = [re.fullmatch(pattern, line) for line in first.out.splitlines()[2:]]
    files = {line[1]: here / line[3] for line in lines if line}
    assert list(files) == ["latest", "averaged", "best"]
    assert files["best"].name == "pgd.safetensors"
    assert files["latest"].name == "pgd.latest.safetensors"
    contents = {name: metadata(path) for name, path in files.items()}
    assert len({content["training"]["key"] for content in contents.values()}) == 3
    assert contents["latest"]["training"]["weights"] == "latest"
    record = contents["best"]["training"]["stages"][0]["trained"]["adversarial training"]
    assert [point["epoch"] for point in record["curve"]] == [1, 2]
    assert not torch.equal(*(load_file(files[name])["conv1.weight"] for name in ("latest", "averaged")))
    attacked = advdef("attack", "--checkpoint", "pgd.latest.safetensors", "--attack", "fgsm", "--n", "20")
    assert attacked.code == 0
    empty = advdef("train", "--dataset", "digits", "--set", "train.held_out=0.005", "-o", "other.safetensors")
    assert empty.code == 2
    assert re.search(
        r"train.held_out=0.005 holds out no image of class \d: give a larger share, as in --set train.held_out=0.1, or 0",
        empty.err,
    )
    with safe_open(files["best"], "pt") as file:
        text = file.metadata()["advdef"]
    changed = text.replace('"weights":{"latest":', '"weights":{"/../../tmp/k":')
    assert changed != text
    save_file(load_file(files["best"]), files["best"], metadata={"advdef": changed})
    refused = advdef(*command)
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "stages.0.trained.adversarial training.weights" in refused.err


def test_a_budget(advdef: Advdef, here: Path) -> None:
    """What it chooses is said and stands in the record; the same command again trains nothing."""
    words = ("train", "--defense", "pgd-at", "--passes", "12000", "-o", "a.safetensors")
    first = advdef(*words)
    assert first.code == 0
    assert re.search(
        r"--passes 12000: 3 epochs of 77% of the images, batches of 32, learning rate 0.008, 3 steps of 0.075, "
        r"--mean 0\.306 --std 0\.\d+ \([\d,]+ passes a second\)\n",
        first.err,
    )
    assert "pgd-at(steps=3,step_size=0.075) on digits" in first.out
    record = metadata(here / "a.safetensors")["training"]
    assert (record["budget"]["passes"], record["budget"]["epochs"], record["budget"]["batch_size"]) == (12000, 3, 32)
    assert (record["stages"][0]["recipe"]["epochs"], record["stages"][0]["recipe"]["batch_size"]) == (3, 32)
    assert [path.name for path in here.iterdir() if path.name.startswith("a.")] == ["a.safetensors"]
    written = (here / "a.safetensors").read_bytes()
    again = advdef(*words)
    assert (again.code, again.out) == (0, first.out)
    assert "training" not in again.err
    assert (here / "a.safetensors").read_bytes() == written


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--seconds", "5", "--epochs", "3"), "--seconds and --epochs both say how long to train: give one of them"),
        (("--seconds", "5", "--passes", "3"), "--seconds and --passes both say how long to train: give one of them"),
        (
            ("--passes", "5", "--set", "train.epochs=3"),
            "--passes and --set train.epochs both say how long to train: give one of them",
        ),
        (("--passes", "5"), "the budget is less than a step with 64 images here: give at least --passes 65"),
    ],
)
def test_a_budget_beside_another_length(advdef: Advdef, here: Path, options: tuple[str, ...], line: str) -> None:
    """One line, and nothing is written."""
    ended = advdef("train", "--defense", "none", *options, "-o", "a.safetensors")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.endswith(f"error: {line}\n")
    assert not [path for path in here.iterdir() if path.name.startswith("a.")]


def test_learned_images_train_another_network(advdef: Advdef, here: Path) -> None:
    """They are written beside the checkpoint, and a line names the file as a data set."""
    learned = advdef(
        "train", "--defense", "advkip", "--set", "advkip.per_class=2", "--epochs", "1", "-o", "kip.safetensors"
    )
    assert learned.code == 0
    assert learned.out.splitlines()[-1] == "learned: 20 images, as training data for --dataset npz:kip.learned.npz"
    network = advdef(
        "train", "--dataset", "npz:kip.learned.npz", "--defense", "none", "--epochs", "1", "-o", "x.safetensors"
    )
    assert network.code == 0
    assert "on 500 test images" in network.out


def test_a_searched_architecture_is_a_model(advdef: Advdef, here: Path) -> None:
    """A line names it; trainings, attacks and descriptions take the name."""
    few = ("--set", "train.epoch_fraction=0.02", "--epochs", "1")
    searched = ("train", "--defense", "dsara", "--set", "steps=1", "--set", "width=1", *few, "-o", "a.safetensors")
    line = advdef(*searched).out.splitlines()[-1]
    assert line.startswith("architecture, for any other training: --model dsara:4x1,")
    name = line.rpartition(" ")[2]
    attacked = advdef("attack", "--model", name, "--defense", "fast-at", *few, "--attack", "fgsm", "--n", "4")
    assert attacked.code == 0
    assert advdef("show", "model", name).code == 0

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from .conftest import Advdef, error_line

TRAINED = """
import torch
from torch import nn

class Net(nn.Sequential):
    trained = True

    def __init__(self, *, shape, classes):
        super().__init__(nn.Flatten(), nn.Linear(64, classes))
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.linspace(-1, 1, parameter.numel()).view_as(parameter).sin())
"""


@pytest.mark.parametrize(
    "more",
    [
        ("--model", "trained.py:Net"),
        ("--model", "trained.py:Net", "--defense", "jpeg"),
        ("--model", "trained.py:Net", "--defense", "feature-squeezing"),
        ("--checkpoint", "model.safetensors"),
        ("--checkpoint", "model.safetensors", "--defense", "jpeg"),
    ],
    ids=" ".join,
)
def test_no_training_needs_no_training_images(
    advdef: Advdef, here: Path, checkpoint: Path, more: tuple[str, ...]
) -> None:
    """Test images are enough for a trained model, also inside a defense that trains nothing."""
    (here / "trained.py").write_text(TRAINED)
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8), dtype=np.uint8)
    np.savez(here / "test.npz", images=images, labels=np.arange(20) % 10)
    ended = advdef("attack", "--dataset", "npz:test.npz", *more, "--attack", "fgsm", "--n", "20", "-q")
    assert (ended.code, "error" in ended.err) == (0, False)


def test_an_audit_needs_no_training_images(advdef: Advdef, here: Path, checkpoint: Path) -> None:
    """It leaves out what compares with them, prints what its PGD left, and four images are too few for a verdict."""
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8), dtype=np.uint8)
    np.savez(here / "four.npz", images=images, labels=np.arange(4), classes=10)
    ended = advdef("audit", "--checkpoint", "model.safetensors", "--dataset", "npz:four.npz", "--strict", "-q")
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert re.search(r"\n  eps 8/255: clean \S+, robust \S+ \[\S+, \S+\] under PGD with 40 steps\n", ended.out)
    assert re.search(r"left out: .*transfer-beats-gradient.* \(the training images are not known\)", ended.out)
    assert "suspicious: few-images: under PGD with 40 steps" in ended.out


@pytest.mark.parametrize(
    "more",
    [
        ("--model", "small-cnn"),
        ("--model", "trained.py:Net", "--defense", "pgd-at"),
        # It looks for its threshold on clean training images.
        ("--model", "trained.py:Net", "--set", "false_positive_rate=0.05", "--defense", "feature-squeezing"),
        ("--checkpoint", "model.safetensors", "--defense", "pgd-at"),
    ],
    ids=" ".join,
)
def test_training_needs_training_images(advdef: Advdef, here: Path, checkpoint: Path, more: tuple[str, ...]) -> None:
    """A training with test images only is an error of one line."""
    (here / "trained.py").write_text(TRAINED)
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8), dtype=np.uint8)
    np.savez(here / "test.npz", images=images, labels=np.arange(20) % 10)
    refused = error_line(advdef("attack", "--dataset", "npz:test.npz", *more, "--attack", "fgsm", "--n", "20"))
    assert "test.npz has nothing to train on: add the arrays train_images and train_labels" in refused


def test_an_error_of_the_model_comes_before_missing_training_images(advdef: Advdef, here: Path) -> None:
    """And who wants to attack weights that exist reads how."""
    own = """
    class Wide(nn.Sequential):
        def __init__(self, width):
            super().__init__(nn.Flatten(), nn.Linear(64, 10))

    class Broken(nn.Module):
        def __init__(self):
            raise ValueError("no weights here")

    class Plain(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Flatten(), nn.Linear(64, 10))
    """
    (here / "own.py").write_text(f"from torch import nn\n{textwrap.dedent(own)}")
    np.savez(here / "test.npz", images=np.zeros((20, 8, 8), dtype=np.uint8), labels=np.arange(20) % 10)
    for name, message in (
        ("Wide", "own.py:Wide needs 'width', which nothing gives"),
        ("Broken", "own.py:Broken cannot be built: ValueError: no weights here"),
        (
            "Plain",
            "to attack weights that exist, give --checkpoint, or set trained = True on a model that loads its own",
        ),
    ):
        refused = error_line(advdef("attack", "--dataset", "npz:test.npz", "--model", f"own.py:{name}", "--n", "20"))
        assert message in refused
        assert ("nothing to train on" in refused) == (name == "Plain")


def test_weights_with_more_classes_than_the_data_read_how_labels_are_numbered(advdef: Advdef, here: Path) -> None:
    """The number of classes alone would let ten classes meet three folders that are numbered otherwise."""
    (here / "own.py").write_text(
        "from torch import nn\ndef net(classes, shape):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))\n"
    )
    for channels, name in ((1, "gray"), (3, "color")):
        torch.save({"1.weight": torch.randn(10, 64 * channels), "1.bias": torch.zeros(10)}, here / f"{name}.pt")
    for name in ("cat", "dog", "eel"):
        (here / "fold" / name).mkdir(parents=True)
        for number in range(4):
            pixels = np.full((8, 8, 3), 40 * number, dtype=np.uint8)
            Image.fromarray(pixels).save(here / "fold" / name / f"{number}.png")
    np.savez(here / "one.npz", images=np.zeros((20, 8, 8), dtype=np.uint8), labels=np.arange(20) % 10 + 1)
    common = ("--model", "own.py:net", "--attack", "fgsm", "--n", "8", "--eps", "0.1")
    folders = ("attack", "--checkpoint", "color.pt", "--dataset", "imagefolder:fold", *common)
    numbers = "numbers its classes in alphabetical order (cat 0, dog 1, eel 2): if the model numbers them otherwise"
    assert numbers in error_line(advdef(*folders))
    told = advdef(*folders, "--classes", "10")
    assert (told.code, numbers in told.err) == (0, True)
    of_one = ("attack", "--checkpoint", "gray.pt", "--dataset", "npz:one.npz", *common)
    # The first 8 images have the labels 1 to 8, which ten classes have too.
    for more in ((), ("--classes", "10")):
        told = advdef(*of_one, *more)
        line = "advdef: error: npz:one.npz has labels from 1 to 10, and labels begin at 0: subtract 1 from each"
        assert (told.code, told.err.splitlines()[-1]) == (2, line)

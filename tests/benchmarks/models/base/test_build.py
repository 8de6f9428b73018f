from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.benchmarks.models.base.build import (
    Normalize,
    build_model,
    check_model,
    example_images,
    is_trained,
    normalized,
)
from robustbench_cli.core.errors import UserError

OWN = """
import torch
from torch import nn

class Mine(nn.Module):
    def __init__(self, *, shape, classes):
        super().__init__()
        self.fc = nn.Linear(shape[0] * shape[1] * shape[2], classes)

    def forward(self, images):
        return self.fc(images.flatten(1))

class Ready(Mine):
    trained = True

class Bare(nn.Module):
    def __init__(self):
        super().__init__()

def number(*, shape, classes):
    return 5

def failing(*, shape, classes):
    raise KeyError("no such width")

def soft(*, shape, classes):
    return nn.Sequential(Mine(shape=shape, classes=classes), nn.Softmax(dim=1))
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A user's file with models in it."""
    file = tmp_path / "own_models.py"
    file.write_text(OWN)
    return file


def test_normalization_is_inside() -> None:
    """The model on [0, 1] images is the network on (images - mean) / std."""
    torch.manual_seed(0)
    model = build_model("small-cnn", shape=(3, 8, 8), classes=4, mean=(0.4, 0.5, 0.6), std=(0.1, 0.2, 0.3))
    torch.manual_seed(0)
    network = build_model("small-cnn", shape=(3, 8, 8), classes=4)
    images = torch.rand(5, 3, 8, 8)
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.1, 0.2, 0.3])
    expected = network((images - mean[:, None, None]) / std[:, None, None])
    assert torch.equal(model(images), expected)
    assert {"normalize.mean", "normalize.std", "network.conv1.weight"} <= model.state_dict().keys()


def test_one_number_for_all_channels() -> None:
    """A single mean and std hold for every channel."""
    images = torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(Normalize(mean=0.5, std=(0.25,), channels=3)(images), (images - 0.5) * 4)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        (0.5, 0.0, "std is 0: give a number above 0"),
        (0.5, (0.2, -0.1, 0.2), "std is -0.1"),
        (0.5, float("nan"), "std is nan"),
        (0.5, float("inf"), "std is inf"),
        (float("nan"), 0.5, "mean is nan"),
        (125.3, 63.0, r"mean is 125.3: give it on the \[0, 1\] pixel scale \(divided by 255"),
        ((0.5, 0.5), 0.5, "mean has 2 numbers: the images have 3 channels, give one or 3"),
        (0.5, (), "std has 0 numbers"),
        (0.5, None, "mean is given alone"),
        (None, 0.5, "std is given alone"),
    ],
)
def test_wrong_normalization(mean: float | None, std: float | None, message: str) -> None:
    """Every wrong mean or std is named in one line."""
    with pytest.raises(UserError, match=message):
        normalized(nn.Identity(), mean=mean, std=std, channels=3)


def test_a_users_own_model(own: Path) -> None:
    """A class in a user's file is built with the images' shape and the number of classes."""
    model = build_model(f"{own}:Mine", shape=(1, 8, 8), classes=4)
    assert model.state_dict()["fc.weight"].shape == (4, 64)
    assert model.training


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("Bare", r"fails on images of shape \(1, 8, 8\): NotImplementedError"),
        ("number", "gives a int: it must return an nn.Module"),
        ("failing", "cannot be built: KeyError: 'no such width'"),
        ("soft", "gives probabilities .* remove the softmax"),
        ("Mime", "did you mean 'Mine'"),
    ],
)
def test_what_is_no_model_is_refused(own: Path, word: str, message: str) -> None:
    """An object that does not make a model is refused in one line."""
    with pytest.raises(UserError, match=message) as caught:
        build_model(f"{own}:{word}", shape=(1, 8, 8), classes=4)
    assert "\n" not in str(caught.value)


def test_layers_that_are_built_lazily(tmp_path: Path) -> None:
    """Layers that take their shapes from the first images have them once the model is built."""
    source = """
from torch import nn

def lazy(*, shape, classes):
    return nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(classes))
"""
    (tmp_path / "own.py").write_text(source)
    model = build_model(f"{tmp_path / 'own.py'}:lazy", shape=(3, 8, 8), classes=7)
    assert [tuple(parameter.shape) for parameter in model.parameters() if parameter.dim() > 1] == [
        (4, 3, 3, 3),
        (7, 4 * 6 * 6),
    ]
    assert model.training


def test_trained_models_say_so(own: Path) -> None:
    """A model comes with trained weights where its callable has a true attribute of that name."""
    assert is_trained(f"{own}:Ready")
    assert not is_trained(f"{own}:Mine")
    assert not is_trained("torchvision:resnet18")


def test_unknown_model_and_argument_where_none_is_taken() -> None:
    """An unknown name gets the nearest known one; a name of ours that takes nothing after it says so."""
    with pytest.raises(UserError, match="unknown model 'smal-cnn': did you mean 'small-cnn'"):
        build_model("smal-cnn", shape=(1, 8, 8), classes=10)
    with pytest.raises(UserError, match="model small-cnn:2 takes nothing after its name, not ':2'"):
        build_model("small-cnn:2", shape=(1, 8, 8), classes=10)


class Answers(nn.Module):
    """Gives the same answer to any images."""

    def __init__(self, answer: object) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, images: Tensor) -> object:
        return self.answer


GOOD = torch.tensor([[1.0, -2.0, 3.0], [0.0, 5.0, 1.0]])


def test_good_logits_pass_and_tell_the_classes() -> None:
    """Logits (N, K) give K, and the mode and the parameters' needs are as before."""
    model = nn.Sequential(Answers(GOOD), nn.Dropout(0.5), nn.Linear(3, 3))
    assert check_model(model, example_images((1, 8, 8)), torch.tensor([0, 2, 1]), classes=3) == 3
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((GOOD, GOOD), "gives a tuple: it must return one tensor of logits"),
        (GOOD[0], r"gives torch.float32 of shape \(3,\) for 2 images: it must give float logits \(2, 3\)"),
        (GOOD[:1], r"shape \(1, 3\) for 2 images"),
        (GOOD[:, :1], r"shape \(2, 1\)"),
        (GOOD.long(), "gives torch.int64"),
        (GOOD[:, :2], "gives 2 logits an image, the data have 3 classes"),
        (GOOD.where(GOOD > 1e9, -torch.inf), "-inf for every class for image 0: "),
        (GOOD.where(GOOD < 5, torch.nan), "NaN or infinite logits for image 1: "),
        (GOOD.where(GOOD < 5, torch.inf), "NaN or infinite logits for image 1: "),
        (GOOD.softmax(dim=1), "gives probabilities .* remove the softmax"),
    ],
)
def test_what_is_no_logits_is_refused(answer: object, message: str) -> None:
    """Each way to miss the contract of a model is named in one line."""
    with pytest.raises(UserError, match=f"^the model .*{message}|^the model {message}"):
        check_model(Answers(answer), example_images((1, 8, 8)), classes=3)


def test_the_layer_that_is_the_first_to_give_nan_is_named() -> None:
    """Of several that hand it on, with the image that it does so for."""
    model = nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(64, 5), nn.Threshold(0.0, torch.nan)), nn.Linear(5, 3))
    nn.init.constant_(model[1][0].weight, 1.0)
    nn.init.constant_(model[1][0].bias, -32.0)
    images = torch.tensor([1.0, 1.0, 0.0]).view(3, 1, 1, 1).expand(3, 1, 8, 8)
    with pytest.raises(
        UserError, match=r"logits for image 2, first in its layer 1\.1 \(Threshold\): check its weights"
    ):
        check_model(model, images)


def test_log_probabilities_and_one_row_of_probabilities_pass() -> None:
    """Only what is a probability in every row is refused; log-probabilities attack as logits do."""
    check_model(Answers(GOOD.log_softmax(dim=1)), example_images((1, 8, 8)), classes=3)
    check_model(Answers(torch.stack([GOOD[0].softmax(dim=0), GOOD[1]])), example_images((1, 8, 8)), classes=3)


def test_labels_beyond_the_logits_are_refused() -> None:
    """Labels that the model can never give are refused."""
    with pytest.raises(UserError, match="labels reach from 0 to 3, and the model gives 3 logits per image"):
        check_model(Answers(GOOD), example_images((1, 8, 8)), torch.tensor([0, 3]))


def test_a_failing_model_is_one_line() -> None:
    """A model that does not take the images says which shape it failed on."""
    with pytest.raises(UserError, match=r"the model fails on images of shape \(1, 8, 8\): RuntimeError: ") as caught:
        check_model(nn.Sequential(nn.Flatten(), nn.Linear(3, 2)), example_images((1, 8, 8)))
    assert "\n" not in str(caught.value)


def test_example_images_differ_and_are_pixels() -> None:
    """Two different images in [0, 1], the same each time."""
    images = example_images((3, 4, 5))
    assert images.shape == (2, 3, 4, 5)
    assert (images.min(), images.max()) == (0, 1)
    assert not torch.equal(images[0], images[1])
    assert torch.equal(images, example_images((3, 4, 5)))


@pytest.mark.parametrize("masked", [1, 18])
def test_masked_classes_may_be_minus_infinity(masked: int) -> None:
    """All classes but two are masked, or one is: such logits are kept to be right, and NaN beside them is not."""
    logits = torch.arange(40.0).view(2, 20)
    logits[:, 20 - masked :] = -torch.inf

    class Fixed(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return logits

    assert check_model(Fixed(), torch.zeros(2, 1, 4, 4)) == 20
    logits[1, 0] = torch.nan
    with pytest.raises(UserError, match="NaN or infinite logits for image 1"):
        check_model(Fixed(), torch.zeros(2, 1, 4, 4))


@pytest.mark.parametrize(
    ("keywords", "line"),
    [
        ({"spec": nn.Identity()}, "the model is a Identity: it is built already"),
        ({"spec": None}, "the model is a NoneType: give its name"),
        ({"shape": (1, 8)}, r"shape is \(1, 8\): give \(C, H, W\)"),
        ({"shape": 28}, "shape is 28: give"),
        ({"shape": (1, 8, -8)}, "a side of the shape is -8"),
        ({"shape": (1, 8.0, 8)}, "a side of the shape is 8.0"),
        ({"classes": 1}, "classes is 1: give the number of classes, at least 2"),
        ({"classes": "ten"}, "classes is 'ten'"),
        ({"mean": "0.5", "std": 0.5}, "mean is '0.5': give a number|mean has 3 numbers"),
        ({"num_classes": 3}, "build_model has no parameter 'num_classes': did you mean 'classes'?"),
    ],
)
def test_wrong_arguments_are_one_line(keywords: dict[str, Any], line: str) -> None:
    """From Python, what is no name, no shape and no number of classes is told so."""
    given = {"spec": "small-cnn", "shape": (1, 8, 8), "classes": 3, **keywords}
    with pytest.raises(UserError, match=f"^({line})") as refusal:
        build_model(given.pop("spec"), **given)
    assert "\n" not in str(refusal.value)


def test_numbers_of_every_kind_are_taken() -> None:
    """Shapes and classes as computations give them, and a mean and std as arrays or tensors, build the same model."""
    torch.manual_seed(0)
    expected = build_model("small-cnn", shape=(3, 8, 8), classes=3, mean=(0.25, 0.5, 0.75), std=0.5).state_dict()
    for shape, classes, mean in (
        (torch.zeros(3, 8, 8).shape, np.int64(3), np.array([0.25, 0.5, 0.75])),
        ([3, 8, 8], torch.tensor(3), torch.tensor([0.25, 0.5, 0.75])),
        (np.array([3, 8, 8]), 3, [0.25, 0.5, 0.75]),
    ):
        torch.manual_seed(0)
        model = build_model("small-cnn", shape=shape, classes=classes, mean=mean, std=np.float32(0.5))  # type: ignore[arg-type]
        found = model.state_dict()
        assert all(torch.equal(found[name], expected[name]) for name in expected)

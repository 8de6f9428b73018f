from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision

from robustbench_cli.benchmarks.models.base.build import build_model, is_trained
from robustbench_cli.core.errors import UserError

OWN = """
from functools import partial, wraps

import torch
from torch import nn

seen = []

def net(channels=3, classes=4):
    return nn.Sequential(nn.Conv2d(channels, 2, 3), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8, classes))

class Net(nn.Sequential):
    def __init__(self, channels=3, classes=4):
        super().__init__(*net(channels, classes))

def nothing():
    return net()

def ours(*, shape, classes):
    return net(shape[0], classes)

def positional(classes, shape):
    return net(shape[0], classes)

def only_positional(in_chans, num_classes, /):
    return net(in_chans, num_classes)

def defaults_before(width=5, num_classes=1000, in_channels=3):
    return net(in_channels, num_classes)

class NumClasses(Net):
    def __init__(self, num_classes=10):
        super().__init__(classes=num_classes)

class Channels(Net):
    def __init__(self, in_channels, num_classes=10, *, depth=20):
        super().__init__(in_channels, num_classes)

class NoParameters(Net):
    def __init__(self):
        super().__init__()

class Family:
    @classmethod
    def small(cls, num_classes):
        return net(classes=num_classes)

family = Family.small

class Makes:
    def __call__(self, num_classes):
        return net(classes=num_classes)

makes = Makes()

# torchvision: what **kwargs takes is the network's matter.
def in_torchvisions_style(*, weights=None, progress=True, **kwargs):
    class Inside(Net):
        def __init__(self, block=None, num_classes=1000):
            super().__init__(classes=num_classes)
    return Inside(**kwargs)

# timm: the same, with channels.
def in_timms_style(pretrained=False, **kwargs):
    class Inside(Net):
        def __init__(self, num_classes=1000, in_chans=3, drop_rate=0.0):
            super().__init__(in_chans, num_classes)
    return Inside(**kwargs)

def of_a_dictionary(**options):
    return net(options["shape"][0], options["classes"])

def swallows(*args, **kwargs):
    return net()

def unknown(function):
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)
    return wrapper

@unknown
def wrapped(*, shape, classes):
    return net(shape[0], classes)

@unknown
def wrapped_nothing():
    return net()

def stars(*numbers):
    assert numbers == (4,)
    return net()

half = partial(defaults_before, 7)
fixed = partial(defaults_before, num_classes=4)
of_partial = partial(partial(Channels, depth=3), num_classes=4)
wrong = partial(defaults_before, num_classes=5)

instance = net()
fresh = net()
fresh.trained = False

class Ready(NumClasses):
    trained = True

ready = partial(Ready)

def needs(width, num_classes):
    return net()

def two(num_classes):
    return net(classes=num_classes), "preprocessing"

def makes_a_class(num_classes):
    return Net

def state(num_classes):
    return net(classes=num_classes).state_dict()

def meta(num_classes):
    with torch.device("meta"):
        return net(classes=num_classes)

def double(num_classes):
    return net(classes=num_classes).double()

def broken(**kwargs):
    raise FileNotFoundError("weights.pt")

class Output(Net):
    def forward(self, images):
        return {"logits": super().forward(images)}

class Features(Net):
    def forward(self, images):
        return self[0](images)

number, text = 5, "resnet18"
"""


@pytest.fixture
def own(tmp_path: Path) -> str:
    """A user's file with models of every style in it."""
    file = tmp_path / "own_factories.py"
    file.write_text(OWN)
    return str(file)


@pytest.mark.parametrize(
    ("word", "channels"),
    [
        *(
            (word, channels)
            for channels in (1, 3)
            for word in (
                "ours",
                "positional",
                "only_positional",
                "defaults_before",
                "Channels",
                "in_timms_style",
                "of_a_dictionary",
                "wrapped",
                "half",
                "fixed",
                "of_partial",
            )
        ),
        *(
            (word, 3)
            for word in (
                "nothing",
                "NumClasses",
                "NoParameters",
                "family",
                "makes",
                "in_torchvisions_style",
                "swallows",
                "stars",
                "wrapped_nothing",
                "instance",
                "ready",
                "Net",
            )
        ),
    ],
)
def test_models_of_every_style(own: str, word: str, channels: int) -> None:
    """Whatever a factory is, it is given what it takes, and what it makes takes the images."""
    torch.manual_seed(0)
    model = build_model(f"{own}:{word}", shape=(channels, 8, 8), classes=4)
    assert model(torch.rand(2, channels, 8, 8)).shape == (2, 4)
    torch.manual_seed(0)
    again = build_model(f"{own}:{word}", shape=(channels, 8, 8), classes=4)
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), again.parameters(), strict=True))


def test_a_call_that_is_tried_uses_up_no_random_numbers(own: str) -> None:
    """The weights are those that the function itself draws, however many calls were tried before."""
    torch.manual_seed(3)
    found = build_model(f"{own}:of_a_dictionary", shape=(3, 8, 8), classes=4)
    torch.manual_seed(3)
    expected = build_model(f"{own}:ours", shape=(3, 8, 8), classes=4)
    assert all(torch.equal(one, other) for one, other in zip(found.parameters(), expected.parameters(), strict=True))


def test_functions_of_torchvision_are_models() -> None:
    """A published function is named as it is: its **kwargs takes the number of classes."""
    model = build_model("torchvision.models:resnet18", shape=(3, 32, 32), classes=7)
    assert isinstance(model, torchvision.models.ResNet)
    assert model.fc.out_features == 7
    assert build_model("torchvision.models:squeezenet1_1", shape=(3, 32, 32), classes=7)(
        torch.rand(1, 3, 32, 32)
    ).shape == (1, 7)


def test_an_instance_is_copied_and_has_its_weights(own: str) -> None:
    """A named nn.Module keeps its weights, is trained already unless it says else, and stays as it is."""
    one = build_model(f"{own}:instance", shape=(3, 8, 8), classes=4)
    other = build_model(f"{own}:instance", shape=(3, 8, 8), classes=4, mean=0.5, std=0.5)
    assert torch.equal(one[0].weight, other[1][0].weight)
    with torch.no_grad():
        one[0].weight.zero_()
    assert build_model(f"{own}:instance", shape=(3, 8, 8), classes=4)[0].weight.abs().sum() > 0
    assert is_trained(f"{own}:instance")
    assert not is_trained(f"{own}:fresh")
    assert is_trained(f"{own}:ready")
    assert not is_trained(f"{own}:NumClasses")


@pytest.mark.parametrize(
    ("word", "channels", "line"),
    [
        ("nothing", 1, r"fails on images of shape \(1, 8, 8\): RuntimeError: Given groups=1"),
        ("in_torchvisions_style", 1, r"fails on images of shape \(1, 8, 8\): RuntimeError"),
        ("wrong", 3, "gives 5 logits an image, the data have 4 classes"),
        (
            "needs",
            3,
            r"needs 'width', which nothing gives: set it by functools\.partial; a model is a class or a function",
        ),
        ("two", 3, r"gives a tuple: it must return an nn\.Module"),
        ("makes_a_class", 3, r"gives the class Net: it must return an nn\.Module"),
        ("state", 3, "gives a OrderedDict: it must return"),
        ("meta", 3, "has weights on the meta device"),
        ("double", 3, r"has weights in float64: give them in float32, as model\.float\(\) has them"),
        ("broken", 3, r"cannot be built: FileNotFoundError: weights\.pt"),
        ("Output", 3, r"gives a dict: it must return one tensor of logits \(N, K\)"),
        (
            "Features",
            3,
            r"gives torch\.float32 of shape \(2, 2, 6, 6\) for 2 images: it must give float logits \(2, 4\)",
        ),
        (
            "number",
            3,
            "is a int: a model is a class or a function with no parameters or any of shape, classes, num_classes,",
        ),
        ("text", 3, "is a str: a model is a class"),
    ],
)
def test_what_is_no_model_is_one_line(own: str, word: str, channels: int, line: str) -> None:
    """The line names the model and says what is wrong with it."""
    with pytest.raises(UserError) as refusal:
        build_model(f"{own}:{word}", shape=(channels, 8, 8), classes=4)
    assert str(refusal.value).startswith(f"model {own}:{word} ")
    assert "\n" not in str(refusal.value)
    with pytest.raises(UserError, match=line):
        build_model(f"{own}:{word}", shape=(channels, 8, 8), classes=4)

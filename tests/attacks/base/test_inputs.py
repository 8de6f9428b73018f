from __future__ import annotations

from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.attack import FixedRadiusAttack
from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.inputs import (
    checked_count,
    checked_device,
    checked_eot,
    checked_images,
    checked_labels,
    checked_logits,
    checked_model,
    checked_radii,
    parse_radius,
)
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import Threat, distance
from robustbench_cli.attacks.cw import CW
from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.core.errors import UserError

IMAGES = torch.rand(4, 3, 6, 5, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 1])


class Model(nn.Sequential):
    """A small network, deterministic and differentiable."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(48, 3))


class NoiseLayer(nn.Module):
    """Adds normal noise to the images."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images + 0.1 * torch.randn_like(images))


def attacked(model: nn.Module, images: Any, labels: Any, **keywords: Any) -> Tensor:
    """The result of a few steps of PGD."""
    return PGD(steps=3)(model, images, labels, **{"eps": 8 / 255, **keywords})


EXPECTED = attacked(Model(), IMAGES, LABELS)


@pytest.mark.parametrize(
    "images",
    [
        IMAGES.numpy(),
        IMAGES.numpy().astype(">f4"),
        [image.numpy() for image in IMAGES],
        list(IMAGES),
        IMAGES.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
        IMAGES.flip(3).numpy()[..., ::-1],
        IMAGES.clone().requires_grad_(),
        IMAGES.clone().requires_grad_() * 1,
        nn.Parameter(IMAGES),
    ],
    ids=lambda images: type(images).__name__,
)
def test_images_of_every_kind(images: Any) -> None:
    """Any container of the same pixels gives the same tensor, without a graph."""
    perturbed = attacked(Model(), images, LABELS)
    assert torch.equal(perturbed, EXPECTED)
    assert not perturbed.requires_grad


@pytest.mark.parametrize(
    "labels",
    [
        LABELS.tolist(),
        tuple(LABELS.tolist()),
        list(LABELS),
        LABELS[:, None],
        LABELS.numpy(),
        *(LABELS.to(kind) for kind in (torch.uint8, torch.int8, torch.int16, torch.int32)),
        *(LABELS.numpy().astype(kind) for kind in ("u2", "u4", "u8", ">i8", "i4")),
    ],
    ids=str,
)
def test_labels_of_every_integer_type(labels: Any) -> None:
    """The integer type of the labels does not matter."""
    assert torch.equal(attacked(Model(), IMAGES, labels), EXPECTED)


@pytest.mark.parametrize(
    "eps",
    [
        "8/255",
        " 8 / 255 ",
        Fraction(8, 255),
        np.float64(8 / 255),
        np.array(8 / 255),
        torch.tensor(8 / 255, dtype=torch.float64),
        [8 / 255] * 4,
        ["8/255"] * 4,
        np.full(4, 8 / 255),
        torch.full((4,), 8 / 255, dtype=torch.float64),
    ],
    ids=repr,
)
def test_radii_of_every_kind(eps: Any) -> None:
    """A number, a fraction as text, and one radius per image are equivalent."""
    assert torch.equal(attacked(Model(), IMAGES, LABELS, eps=eps), EXPECTED)


def test_pixels_of_eight_bits() -> None:
    """uint8 pixels are divided by 255."""
    pixels = (IMAGES * 255).round().to(torch.uint8)
    expected = attacked(Model(), pixels.float() / 255, LABELS)
    assert torch.equal(attacked(Model(), pixels, LABELS), expected)
    assert torch.equal(attacked(Model(), pixels.numpy(), LABELS), expected)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_images_in_double_precision(norm: Norm) -> None:
    """A float32 model gets float32 images, but the ball is that of the float64 images; float16 becomes float32."""
    images = IMAGES.double() * 0.99 + 1e-9
    perturbed = attacked(Model(), images, LABELS, norm=norm)
    assert perturbed.dtype == torch.float64
    assert (distance(perturbed, images, norm) <= 8 / 255).all()
    assert distance(perturbed, images, norm).min() > 1 / 255
    assert attacked(Model().double(), images, LABELS, norm=norm).dtype == torch.float64
    assert attacked(Model().double(), IMAGES, LABELS, norm=norm).dtype == torch.float32
    assert attacked(Model(), IMAGES.half(), LABELS).dtype == torch.float32


def test_the_callers_things_come_back_as_they_were() -> None:
    """Modes, gradient flags, gradients, weights, images, labels and torch's generators do not change."""
    model = Model().train()
    model[4].eval()
    model[0].weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images, labels = IMAGES.clone().requires_grad_(), LABELS.clone()
    torch.manual_seed(5)
    perturbed = attacked(model, images, labels)
    assert torch.rand(()) == torch.rand((), generator=torch.Generator().manual_seed(5))
    assert [module.training for module in model] == [True, True, True, True, False]
    assert [parameter.requires_grad for parameter in model.parameters()] == [False, True, True, True]
    assert all(parameter.grad is None for parameter in model.parameters()) and images.grad is None
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(images, IMAGES) and images.requires_grad and torch.equal(labels, LABELS)
    assert torch.equal(perturbed, EXPECTED)


class WritesIntoItsInput(Model):
    """Normalizes in place."""

    def forward(self, images: Tensor) -> Tensor:
        if not images.requires_grad:
            images.sub_(0.5)
            return super().forward(images)
        return super().forward(images - 0.5)


def test_a_model_that_writes_into_its_input_leaves_the_callers_images() -> None:
    """Tensors and arrays are copied before the model gets them."""
    tensor, array = IMAGES.clone(), IMAGES.numpy().copy()
    for images in (tensor, array):
        attacked(WritesIntoItsInput(), images, LABELS)
    assert torch.equal(tensor, IMAGES) and np.array_equal(array, IMAGES.numpy())


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_a_caller_without_gradients(mode: Any) -> None:
    """An attack computes gradients under ``no_grad`` and in inference mode, and for tensors made there."""
    model = Model()
    with mode():
        assert torch.equal(attacked(model, IMAGES.clone(), LABELS.clone()), EXPECTED)
        images = IMAGES.clone()
    assert torch.equal(attacked(model, images, LABELS), EXPECTED)


class Asking(FixedRadiusAttack):
    """Records the number of draws."""

    norms: ClassVar[tuple[Norm, ...]] = ("linf",)
    draws: ClassVar[list[int]] = []

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        self.draws.append(source.draws)
        return images


def test_an_attack_alone_adapts_to_a_randomized_model() -> None:
    """As in an evaluation, the default is ten draws per gradient."""
    Asking.draws.clear()
    for model, keywords in (
        (NoiseLayer(), {}),
        (NoiseLayer(), {"eot": "auto"}),
        (NoiseLayer(), {"eot": np.int64(3)}),
        (Model(), {}),
    ):
        Asking()(model, IMAGES, LABELS, eps=0.1, **keywords)
    assert Asking.draws == [10, 10, 3, 1]


MODEL = Model()


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"images": IMAGES * 255}, "the images reach from .* to 2.*: divide them by 255, pixels are floats in"),
        ({"images": IMAGES.numpy() * 255}, "the images reach from .* to 2.*: divide them by 255"),
        (
            {"images": (IMAGES - 0.5) / 0.25},
            r"the images reach from -1\.9.* to 1\.9.*: give pixels in \[0, 1\], and put the",
        ),
        ({"images": IMAGES / IMAGES.max() * 1.00002}, r"the images reach from .* to 1\.0000.*: cut them to \[0, 1\]"),
        ({"images": IMAGES * torch.nan}, "the images hold NaN"),
        ({"images": IMAGES / 0}, "the images reach from .* to inf: give pixels in"),
        ({"images": (IMAGES * 255).long()}, r"the images are of type int64: give floats in \[0, 1\], or uint8"),
        ({"images": IMAGES > 0.5}, "the images are of type bool"),
        ({"images": IMAGES * 1j}, "the images are of type complex64"),
        ({"images": IMAGES[0]}, r"the images have the shape \(3, 6, 5\): give .*, and one image is images\[None\]"),
        ({"images": IMAGES.flatten(1)}, r"the images have the shape \(4, 90\): give \(N, C, H, W\)"),
        ({"images": IMAGES[:0], "labels": []}, r"the images have the shape \(0, 3, 6, 5\): give .* at least 1"),
        ({"images": []}, r"the images have the shape \(0,\)"),
        ({"images": [[1, 2], [3]]}, "the images are no array of numbers"),
        ({"images": [IMAGES[0], IMAGES[0, :1]]}, "the images are no tensor"),
        ({"images": "images.npy"}, "the images are 'images.npy': give numbers"),
        ({"images": None}, "the images are None: give numbers"),
        ({"images": IMAGES.to_sparse()}, "the images are a tensor of another kind"),
        (
            {"images": IMAGES.permute(0, 2, 3, 1)},
            r"the model fails on images of shape \(6, 5, 3\): RuntimeError: .*; the channels seem to come last: give \(N, C,",
        ),
        ({"labels": LABELS[:3]}, r"4 images need as many labels: these have the shape \(3,\)"),
        ({"labels": 3}, r"4 images need as many labels: these have the shape \(\)"),
        ({"labels": LABELS.float()}, "the labels are of type float32: give whole numbers from 0"),
        ({"labels": LABELS > 0}, "the labels are of type bool"),
        (
            {"labels": torch.eye(3)[LABELS]},
            r"the labels have the shape \(4, 3\): give one class per image, as in labels\.argmax",
        ),
        ({"labels": ["cat"] * 4}, "the labels are of type <U3: give numbers"),
        ({"labels": [0, 1, -1, 2]}, "the labels reach down to -1: classes are counted from 0"),
        (
            {"labels": [0, 1, 3, 2]},
            "the labels reach from 0 to 3, and the model gives 3 logits per image: labels must be 0 to 2",
        ),
        (
            {"labels": np.array([2**63] * 4, dtype=np.uint64)},
            "the labels reach up to 9223372036854775808: give smaller",
        ),
        ({"eps": 8}, r"eps is 8: in linf it is at most 1, on the \[0, 1\] pixel scale, as in eps='8/255'"),
        ({"eps": "8"}, "eps is 8: in linf it is at most 1"),
        ({"eps": 1000}, r"eps is 1000: in linf it is at most 1, on the \[0, 1\] pixel scale$"),
        ({"eps": np.inf, "norm": "l2"}, "eps is infinite"),
        ({"eps": "8/0"}, "eps is '8/0': give a number or a fraction, such as 0.03 or '8/255'"),
        ({"eps": "large"}, "eps is 'large': give a number or a fraction"),
        ({"eps": "1_0/255"}, "eps is '1_0/255': give a number or a fraction"),
        ({"eps": "-1/255"}, "eps must be a number that is not negative: it is -0.0039"),
        ({"eps": True}, "eps is True: give a number"),
        ({"eps": 1j}, "eps is 1j: give a number"),
        ({"eps": {}}, "eps are .*: give numbers"),
        ({"eps": [0.1, 0.2]}, r"4 images need one eps or as many: these have the shape \(2,\)"),
        ({"eps": None}, "PGD needs a radius: give eps"),
        ({"norm": "Linf"}, "PGD does not know the norm Linf: did you mean 'linf'?"),
        ({"norm": np.inf}, "PGD does not know the norm inf: did you mean 'linf'?"),
        ({"norm": 2}, "PGD does not know the norm 2: did you mean 'l2'?"),
        ({"norm": "l0"}, "PGD does not know the norm l0: it knows linf, l2, l1"),
        ({"eot": 0}, "eot is 0: give 'auto', 'exact', 'frozen' or a number of draws"),
        ({"eot": "all"}, "eot is 'all': give 'auto'"),
        ({"seed": -1}, "seed is -1: give a whole number, at least 0"),
        ({"seed": None}, "seed is None"),
        ({"batch_size": 0}, "batch_size is 0: give a whole number, at least 1"),
        ({"batch_size": 2.5}, r"batch_size is 2\.5"),
        ({"epsilon": 0.1}, "PGD has no parameter 'epsilon': did you mean 'eps'?"),
        ({"epsilons": 0.1}, "PGD has no parameter 'epsilons': did you mean 'eps'?"),
        ({"target": True}, "PGD has no parameter 'target': did you mean 'targeted'?"),
        ({"model": Model}, "the model is the class Model: give an instance of it"),
        ({"model": lambda images: images}, r"the model is a function: give a torch\.nn\.Module"),
        ({"model": IMAGES}, "the model is a Tensor"),
        ({"model": "resnet18"}, "the model is a str"),
        ({"model": type("Checkpoint", (), {"model": MODEL})()}, r"the model is a Checkpoint: give its \.model"),
        ({"model": Model().to("meta")}, "the model has weights on the meta device"),
        (
            {"model": Model().half()},
            r"the model fails on images .*; its weights are float16 and images float32: give model\.float",
        ),
        (
            {"model": nn.Conv2d(3, 4, 3)},
            r"the model gives torch.float32 of shape \(2, 4, 4, 3\) for 2 images: it must give float",
        ),
        ({"model": nn.Sequential(nn.Flatten(), nn.Linear(90, 1))}, r"the model gives torch.float32 of shape \(2, 1\)"),
        ({"model": nn.Flatten(0)}, r"the model gives torch.float32 of shape \(180,\)"),
    ],
)
def test_each_wrong_input_is_one_line(changed: dict[str, Any], line: str) -> None:
    """The line says what is wrong and what would be right, before the attack starts."""
    arguments = {"model": MODEL, "images": IMAGES, "labels": LABELS, "eps": 8 / 255, **changed}
    with pytest.raises(UserError, match=f"^({line})") as refusal:
        PGD(steps=3)(arguments.pop("model"), arguments.pop("images"), arguments.pop("labels"), **arguments)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("key", "way"),
    [("eps", "eps"), ("epsilon", "eps"), ("norm", "norm"), ("targeted", "targeted"), ("batch_size", "batch_size")],
)
def test_what_belongs_to_the_call_is_no_parameter(key: str, way: str) -> None:
    """In Python the line shows the call, on the command line the option."""
    with pytest.raises(UserError) as refusal:
        PGD(**{key: 1})
    assert str(refusal.value) == (
        f"PGD has no parameter '{key}': it goes into the call, as in PGD()(model, images, labels, {way}=...)"
    )
    with pytest.raises(UserError, match=f"^pgd has no parameter '{key}': give --{way.replace('_', '-')}$"):
        PGD.from_parameters({key: 1}, name="pgd")


def test_the_smallest_perturbation_takes_the_same_inputs() -> None:
    """A minimal-norm attack needs no radius, and accepts one as text."""
    attack = CW(steps=5, binary_search_steps=1)
    whole = attack(MODEL, IMAGES.numpy(), LABELS.tolist())
    assert torch.equal(whole, attack(MODEL, IMAGES, LABELS))
    assert torch.equal(attack(MODEL, IMAGES, LABELS, eps="0/255"), IMAGES)


def test_the_pieces_by_themselves() -> None:
    """What other functions of the Python interface are built from."""
    assert checked_images(np.zeros((1, 1, 2, 2))).dtype == torch.float64
    assert torch.equal(checked_images(IMAGES.tolist()), IMAGES.double())
    assert checked_labels(np.array([[1], [0]]), 2).tolist() == [1, 0]
    assert checked_radii(0.5, 2, norm="linf").tolist() == [0.5, 0.5]
    assert checked_radii(3, 2, norm="l2").tolist() == [3, 3]
    assert str(checked_radii("-0", 1, norm="linf").tolist()) == "[0.0]"
    assert parse_radius("8/255") == 8 / 255
    assert checked_eot("exact") == "exact"
    assert checked_count(np.uint8(3), "n") == 3
    assert checked_device("cpu") == torch.device("cpu")
    assert checked_model(MODEL) is MODEL
    for wrong in ("gpu", "cuda:99", None, 3.5):
        with pytest.raises(UserError, match="give cpu, cuda or cuda:N"):
            checked_device(wrong)  # type: ignore[arg-type]


def test_gray_images_for_a_color_model_have_a_way_out() -> None:
    """The message of the convolution is followed by the option that repeats the gray channel."""
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.LazyLinear(3))
    with pytest.raises(UserError, match="takes 3 channels, these images have 1: give --channels 3, or the keyword"):
        checked_logits(model, torch.rand(2, 1, 6, 5), name="the model")

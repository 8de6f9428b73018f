from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.attack import FixedRadiusAttack, MinimalNormAttack
from robustbench_cli.attacks.base.gradients.eot import EOT
from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import Threat, distance
from robustbench_cli.core.errors import UserError

IMAGES = torch.rand(4, 1, 3, 3, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 0, 1])


class Brightness(nn.Module):
    """Class 1 where the mean is above 1/2."""

    def forward(self, images: Tensor) -> Tensor:
        mean = images.flatten(1).mean(1)
        return torch.stack([0.5 - mean, mean - 0.5], 1)


class Far(FixedRadiusAttack):
    """Goes further than it may."""

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        return images + 5


class FixedPerturbation(MinimalNormAttack):
    """Finds a perturbation of a given length for each image, of which some have no answer."""

    norms: ClassVar[tuple[Norm, ...]] = ("l2",)

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        moved = images.clone()
        moved[:, 0, 0, 0] = (images[:, 0, 0, 0] + torch.tensor([0.1, 0.2, 0.3, torch.nan])).where(
            images[:, 0, 0, 0] < 0.5, images[:, 0, 0, 0] - torch.tensor([0.1, 0.2, 0.3, torch.nan])
        )
        return moved


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_attack_that_goes_too_far_is_brought_back(norm: Norm) -> None:
    """What is returned lies in each image's own ball and in the box, whatever the attack did."""
    eps = torch.tensor([0.0, 0.1, 0.2, 1.0 if norm == "linf" else 5.0])
    perturbed = Far()(Brightness(), IMAGES, LABELS, norm=norm, eps=eps)
    assert (distance(perturbed, IMAGES, norm) <= eps.double()).all()
    assert ((perturbed >= 0) & (perturbed <= 1)).all()
    assert torch.equal(perturbed[0], IMAGES[0])
    assert torch.equal(perturbed[3], torch.ones_like(IMAGES[3]))


def test_a_minimal_norm_attack_is_read_at_its_radius() -> None:
    """What it found beyond the radius is replaced by the image, and so is what is no image; the rest stays as found."""
    whole = FixedPerturbation()(Brightness(), IMAGES, LABELS)
    assert distance(whole, IMAGES, "l2").tolist() == pytest.approx([0.1, 0.2, 0.3, 0], abs=1e-6)
    within = FixedPerturbation()(Brightness(), IMAGES, LABELS, eps=torch.tensor([0.5, 0.15, 0.31, 1.0]))
    expected = whole.clone()
    expected[1] = IMAGES[1]
    assert torch.equal(within, expected)


@pytest.mark.parametrize(
    ("keywords", "line"),
    [
        ({"eps": 0.1, "norm": "l0"}, "Far does not know the norm l0: it knows linf, l2"),
        ({}, "Far needs a radius: give eps"),
        ({"eps": -0.1}, "eps must be a number that is not negative: it is -0.1"),
        ({"eps": float("nan")}, "eps must be a number that is not negative: it is nan"),
        ({"eps": torch.tensor([0.1, -0.2, 0.1, 0.1])}, "eps must be a number that is not negative: it is -0.2"),
        ({"eps": torch.tensor([0.1, 0.2])}, r"4 images need one eps or as many: these have the shape \(2,\)"),
        ({"eps": 0.1, "images": IMAGES * 255}, "the images reach from .* to 242.9.*: divide them by 255"),
        ({"eps": 0.1, "images": IMAGES * torch.nan}, "the images hold NaN"),
        ({"eps": 0.1, "labels": LABELS[:3]}, r"4 images need as many labels: these have the shape \(3,\)"),
    ],
)
def test_wrong_input_is_one_line(keywords: dict[str, object], line: str) -> None:
    """From Python, too, a mistake is told in one line, before anything is computed."""
    arguments = {"images": IMAGES, "labels": LABELS, **keywords}
    with pytest.raises(UserError, match=f"^{line}"):
        Far()(Brightness(), arguments.pop("images"), arguments.pop("labels"), **arguments)  # type: ignore[arg-type]


def test_an_attack_without_known_norms_cannot_be_defined() -> None:
    """A class that says nothing, or nonsense, of its norms fails where it is written."""
    for norms in ((), ("l3",)):
        with pytest.raises(TypeError, match="Mine must declare its norms"):
            type(
                "Mine", (Far,), {"norms": norms, "__annotations__": {"norms": ClassVar[tuple]}, "__module__": __name__}
            )


def test_the_model_is_asked_whether_it_is_randomized() -> None:
    """A randomized model gets as many draws a gradient as were asked for, a deterministic one a single one."""
    sources: list[tuple[int, bool]] = []

    class Asking(Far):
        def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
            assert isinstance(source, EOT)
            sources.append((source.draws, source.exhaustive))
            return images

    class NoiseLayer(Brightness):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images + 0.1 * torch.randn_like(images))

    for model in (Brightness(), NoiseLayer()):
        Asking()(model, IMAGES, LABELS, eps=0.1, eot=7)
    assert sources == [(1, True), (7, False)]

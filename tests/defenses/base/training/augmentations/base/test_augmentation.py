from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.training.augmentations.base.augmentation import (
    Augmentation,
    augment,
    build_augmentations,
    describe_augmentations,
    mix,
    read_augmentations,
)

OWN = """
from robustbench_cli.defenses.base.training.augmentations.base.augmentation import Augmentation

class Darker(Augmentation):
    '''Halves the pixels.'''

    paper = "none"

    def run(self, images, labels):
        return images / 2, labels
"""


class Smaller(Augmentation):
    """Changes the size."""

    def run(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return images[:, :, 1:], labels


class ToFirst(Augmentation):
    """Gives all images the label of the first, where labels are probabilities."""

    mixes_labels = True

    def run(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        assert labels.shape == (len(images), 4)
        return images, labels[:1].expand_as(labels)


def test_forms_of_augmentations() -> None:
    """Names, mappings, one of them or a list of both give the same, in order; ``none`` is an empty list."""
    flip, crop = {"name": "flip", "p": 0.5}, {"name": "crop", "padding": 2}
    assert read_augmentations("flip") == read_augmentations(["flip"]) == read_augmentations(flip) == (flip,)
    assert read_augmentations([crop, "flip"]) == (crop, flip)
    assert [entry["name"] for entry in read_augmentations("flip, crop")] == ["flip", "crop"]  # type: ignore[union-attr]
    assert read_augmentations("none") == read_augmentations("") == read_augmentations([]) == ()
    assert read_augmentations(None) is None
    assert read_augmentations((crop, flip)) == (crop, flip)
    built = build_augmentations((crop, flip))
    assert [type(part).__name__ for part in built] == ["Crop", "Flip"]
    assert built[0].model_dump() == {"padding": 2}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("crop,none", "unknown augmentation 'none'"),
        ("crops", "unknown augmentation 'crops': did you mean 'crop'"),
        ({"name": "crop", "pading": 2}, "crop has no parameter 'pading': did you mean 'padding'"),
        ([3], "3 is no augmentation: give a name"),
        ([{"padding": 2}], "is no augmentation: give a name"),
        (3, "give names, such as crop,flip"),
    ],
)
def test_mistakes(value: object, message: str) -> None:
    """Each is a usage error that says what would be right."""
    with pytest.raises(UserError, match=message):
        read_augmentations(value)


def test_own_code_is_part_of_the_description(tmp_path: Path) -> None:
    """A user's own augmentation runs, and a change of its code changes its description."""
    descriptions = []
    for number in (1, 2):
        file = tmp_path / f"own{number}.py"
        file.write_text(f"{OWN}# {number}\n")
        (entry,) = entries = read_augmentations(f"{file}:Darker")  # type: ignore[misc]
        (description,) = describe_augmentations(entries)  # type: ignore[arg-type]
        descriptions.append(description["source"])
        images, _ = build_augmentations([entry])[0].run(torch.ones(1, 1, 2, 2), torch.zeros(1))
        assert images.max() == 0.5
    assert len({*descriptions}) == 2
    assert describe_augmentations([{"name": "flip", "p": 0.5}]) == [{"name": "flip", "p": 0.5}]


def test_labels_become_probabilities_once() -> None:
    """The first augmentation that mixes labels gets one-hot labels, and those after it get what it returns."""
    images, labels = torch.zeros(3, 1, 2, 2), torch.tensor([2, 0, 1])
    _, targets = augment([ToFirst(), ToFirst()], images, labels, 4)
    assert targets.tolist() == [[0, 0, 1, 0]] * 3
    assert augment([], images, labels, 0)[1] is labels


def test_a_change_of_the_size_is_refused() -> None:
    """The message names the augmentation and both shapes."""
    with pytest.raises(UserError, match=r"augmentation Smaller makes images \(2, 1, 3, 4\) of \(2, 1, 4, 4\)"):
        augment([Smaller()], torch.zeros(2, 1, 4, 4), torch.zeros(2), 0)


def test_mix() -> None:
    """Rows are weighted means with a weight for each row."""
    mixed = mix(torch.zeros(3, 2), torch.ones(3, 2), torch.tensor([0, 0.25, 1]))
    assert mixed.tolist() == [[0, 0], [0.25, 0.25], [1, 1]]

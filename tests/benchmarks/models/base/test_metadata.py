from __future__ import annotations

import pytest

from robustbench_cli.benchmarks.models.base.metadata import ModelMetadata

IMAGENET = ModelMetadata(
    classes=1000, mean=(0.485, 0.456), std=(0.229, 0.224), image_size=(224, 160), origin="https://host/net.pth"
)


@pytest.mark.parametrize(
    ("metadata", "given", "line"),
    [
        (
            IMAGENET,
            False,
            "10 classes, images of 224 x 160, normalized by mean 0.485,0.456 and std 0.229,0.224; weights: https://host/net.pth",
        ),
        (
            IMAGENET,
            True,
            "10 classes, images of 224 x 160, normalized by the given mean and std; weights: https://host/net.pth",
        ),
        (ModelMetadata(normalizes=True), False, "10 classes, images of 224 x 160, normalized by the network itself"),
        (
            ModelMetadata(classes=5, image_size=(64, 64), normalizes=True),
            False,
            "10 classes, images of 224 x 160 (the weights are for 64 x 64: give --image-size 64 to resize), normalized by the network itself",
        ),
        (
            ModelMetadata(classes=10),
            False,
            "10 classes, images of 224 x 160, no normalization known, so none is applied: give --mean and --std if training used one",
        ),
    ],
)
def test_what_is_assumed_is_one_line(metadata: ModelMetadata, given: bool, line: str) -> None:
    """It names the classes and the size that run, the normalization or its absence, and the weights."""
    assert metadata.assumptions(shape=(3, 224, 160), classes=10, normalization_is_given=given) == line

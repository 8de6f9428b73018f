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
            "1,000 classes, images of 224 x 160, normalized by mean 0.485,0.456 and std 0.229,0.224; weights: https://host/net.pth",
        ),
        (
            IMAGENET,
            True,
            "1,000 classes, images of 224 x 160, normalized by the given mean and std; weights: https://host/net.pth",
        ),
        (ModelMetadata(normalizes=True), False, "normalized by the network itself"),
        (
            ModelMetadata(classes=10),
            False,
            "10 classes, no normalization known, so none is applied: give --mean and --std if training used one",
        ),
    ],
)
def test_what_is_assumed_is_one_line(metadata: ModelMetadata, given: bool, line: str) -> None:
    """It names the classes, the size, the normalization or its absence, and the weights."""
    assert metadata.assumptions(normalization_is_given=given) == line

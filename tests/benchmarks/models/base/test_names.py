from __future__ import annotations

from pathlib import Path

import pytest

from robustbench_cli.benchmarks.models.base.names import read_class_names, with_weights
from robustbench_cli.core.errors import UserError


def test_weights_become_part_of_the_name() -> None:
    """The same weights twice are no contradiction."""
    assert with_weights("torchvision:resnet18", None) == "torchvision:resnet18"
    assert with_weights("torchvision:resnet18", "DEFAULT") == "torchvision:resnet18@DEFAULT"
    assert with_weights("torchvision:resnet18@DEFAULT", "DEFAULT") == "torchvision:resnet18@DEFAULT"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("torchvision:resnet18@V1", "names its weights already, and they are not DEFAULT"),
        ("small-cnn", "model small-cnn has no published weights, and 'DEFAULT' names some: give a checkpoint"),
        ("mine.py:Net", "model mine.py:Net has no published weights"),
    ],
)
def test_weights_that_cannot_be(spec: str, message: str) -> None:
    """A second name of weights is refused, and so are weights of a model that nobody published."""
    with pytest.raises(UserError, match=message):
        with_weights(spec, "DEFAULT")


def test_class_names_are_the_lines_of_a_file(tmp_path: Path) -> None:
    """A model has at least two classes."""
    path = tmp_path / "names.txt"
    path.write_text("cat\ndog\n")
    assert read_class_names(path) == ("cat", "dog")
    path.write_text("cat\n")
    with pytest.raises(UserError, match="has 1 names: give one class name per line, at least 2"):
        read_class_names(path)

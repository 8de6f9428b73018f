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
    """In their order, as an editor on any system saves them."""
    path = tmp_path / "names.txt"
    path.write_bytes("\ufeffcat\r\ngreat gray owl \r\nÉpagneul\r\n\r\n".encode())
    assert read_class_names(path) == ("cat", "great gray owl", "Épagneul")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"cat\n\ndog\n", "line 2 is empty: give one class name per line"),
        (b"cat\n", "has 1 names: give one class name per line, at least two"),
        (b"", "has 0 names"),
        (b"\xff\xfe\x00", "is no text in UTF-8"),
    ],
)
def test_a_file_of_class_names_with_a_mistake(tmp_path: Path, content: bytes, message: str) -> None:
    """An empty line would shift the labels of the classes after it."""
    path = tmp_path / "names.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_class_names(path)


def test_a_file_of_class_names_that_is_missing(tmp_path: Path) -> None:
    """The line says what the file has to be."""
    with pytest.raises(UserError, match=r"cannot be read .*: give a text file with one class name per line"):
        read_class_names(tmp_path / "names.txt")

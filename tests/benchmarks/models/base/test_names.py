from __future__ import annotations

import pytest

from robustbench_cli.benchmarks.models.base.names import with_weights
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

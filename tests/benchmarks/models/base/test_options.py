from __future__ import annotations

import pytest

from robustbench_cli.benchmarks.models import registry
from robustbench_cli.benchmarks.models.base.build import build_model
from robustbench_cli.core.errors import UserError


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("wrn-28-10:swish", "model wrn-28-10 has no option 'swish'"),
        ("wrn-28-10:", "model wrn-28-10 has no option ''"),
        ("preact-resnet18:no-final-bn,raw-shortcuts", "no option 'raw-shortcuts': did you mean 'raw-shortcut'"),
        ("resnet18-cifar:silu", "takes nothing after its name, not ':silu'"),
    ],
)
def test_unknown_options(spec: str, message: str) -> None:
    """An option that a model does not have is an error that names those it has."""
    with pytest.raises(UserError, match=message):
        build_model(spec, shape=(3, 32, 32), classes=10)


def test_a_checkpoint_may_name_options() -> None:
    """A name with several options comes back from a file."""
    spec = "preact-resnet18:raw-shortcut,no-final-bn"
    assert registry.trusted(spec, file="a.safetensors") == spec

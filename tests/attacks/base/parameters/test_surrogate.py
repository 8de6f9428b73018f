from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import Field
from pydantic_core import PydanticSerializationError
from torch import nn

from robustbench_cli.attacks.base.parameters.surrogate import (
    Ensemble,
    Surrogate,
    ensemble_parameters,
    surrogate_parameters,
)
from robustbench_cli.core.errors import UserError
from robustbench_cli.core.settings import Settings


class WithModel(Settings):
    """A method with a model and other parameters."""

    paper: ClassVar[str] = "none"

    steps: int = Field(3, description="steps")
    other: Surrogate = Field(description="a model")
    spare: Surrogate | None = Field(None, description="a model or none")
    others: Ensemble = Field((), description="any number of models")
    folder: Path = Field(Path("here"), description="a path that is no model's")


def test_the_parameters_that_are_models_are_known() -> None:
    """Their type distinguishes them from other parameters, including paths."""
    assert surrogate_parameters(WithModel) == ("other", "spare")
    assert ensemble_parameters(WithModel) == ("others",)


def test_words_are_a_file_and_a_module_is_itself() -> None:
    """A file survives JSON as it was written; a module is not copied and cannot be written as JSON."""
    module = nn.Linear(2, 2)
    assert WithModel(other=module).other is module
    for path in ("a/b.safetensors", Path("a/b.safetensors")):
        method = WithModel(other=path)
        assert method.other == Path("a/b.safetensors")
        assert method.model_dump(mode="json")["other"] == "a/b.safetensors"
        assert method.model_dump(mode="json")["spare"] is None
        assert WithModel(other=path, spare=path).model_dump(mode="json")["spare"] == "a/b.safetensors"
    with pytest.raises(PydanticSerializationError, match="a model in memory, Linear, has no file"):
        WithModel(other=module).model_dump(mode="json")


@pytest.mark.parametrize("value", [3, None, ["a"], nn.Linear])
def test_what_is_neither_is_refused(value: object) -> None:
    """Also the class of a module."""
    with pytest.raises(UserError, match=r"method\.other is .*: give the file of a checkpoint"):
        WithModel.from_parameters({"other": value}, name="method")

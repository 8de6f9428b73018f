from __future__ import annotations

from typing import ClassVar

import pytest
from torch import nn

from robustbench_cli.benchmarks.models.base.metadata import ModelMetadata
from robustbench_cli.benchmarks.models.base.source import ModelSource, config_for, model_source
from robustbench_cli.core.errors import UserError


class Zoo(ModelSource):
    """A source with one network."""

    prefix: ClassVar[str] = "zoo"

    @property
    def metadata(self) -> ModelMetadata:
        return ModelMetadata(origin="file 1")

    def untrained(self, *, shape: tuple[int, int, int], classes: int) -> nn.Module:
        return nn.Flatten()

    def pretrained(self, *, shape: tuple[int, int, int]) -> nn.Module:
        return nn.Flatten()


def test_a_name_has_weights_after_an_at_sign() -> None:
    """Only then the network is trained; its name in full has both."""
    with_weights, without = Zoo("net@v1", config={"depth": 2}), Zoo("net")
    assert (with_weights.name, with_weights.weights, with_weights.trained) == ("net", "v1", True)
    assert (without.name, without.weights, without.trained) == ("net", None, False)
    assert (with_weights.spec, without.spec) == ("zoo:net@v1", "zoo:net")
    assert (with_weights.config, without.config) == ({"depth": 2}, {})
    assert with_weights.fingerprint == "file 1"


@pytest.mark.parametrize("argument", [None, "", "@v1", "net@"])
def test_a_name_is_needed(argument: str | None) -> None:
    """The message has the form of a full name."""
    with pytest.raises(UserError, match=r"model zoo needs a network's name: give zoo:NAME\[@WEIGHTS\]"):
        Zoo(argument)


def test_only_sources_are_sources() -> None:
    """Other models are built from their own code."""
    source = model_source("torchvision:resnet18")
    assert source is not None
    assert source.spec == "torchvision:resnet18"
    assert model_source("small-cnn") is None


def test_the_names_of_the_classes_are_part_of_a_zero_shot_model() -> None:
    """The user's come before the data set's; another model takes none, and ignores those of the data set."""
    model, names, of_data = "open-clip:ViT-B-32", ("cat", "dog"), ("a", "b")
    assert config_for(model, class_names=names, data_names=of_data) == {"class_names": ["cat", "dog"]}
    assert config_for(model, class_names=None, data_names=of_data) == {"class_names": ["a", "b"]}
    with pytest.raises(UserError, match="open-clip:ViT-B-32 needs the names of the classes: give --class-names FILE"):
        config_for(model, class_names=None, data_names=None)
    assert config_for("small-cnn", class_names=None, data_names=of_data) == {}
    assert config_for(None, class_names=None, data_names=of_data) == {}
    for other in ("small-cnn", None):
        with pytest.raises(UserError, match="does not depend on the names of the classes: give none"):
            config_for(other, class_names=names, data_names=None)

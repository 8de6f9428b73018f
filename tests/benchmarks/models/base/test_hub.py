from __future__ import annotations

import json
from typing import TYPE_CHECKING

import huggingface_hub
import pytest

from robustbench_cli.benchmarks.models.base.hub import HubRepository
from robustbench_cli.core.errors import UserError

if TYPE_CHECKING:
    from ...fake_hub import FakeHub

NAME = "owner/net"
REPOSITORY = HubRepository(NAME)


def test_a_file_is_downloaded_once_and_again_when_it_changed(hub: FakeHub) -> None:
    """Also the commit is known without a download; a file that the repository lacks is none."""
    hub.files[NAME, "model.safetensors"] = b"first"
    assert REPOSITORY.commit(["model.safetensors"]) == "1" * 40
    assert hub.downloads == []
    for _ in range(2):
        assert REPOSITORY.weights().read_bytes() == b"first"
    assert hub.downloads == ["model.safetensors"]
    hub.files[NAME, "model.safetensors"], hub.commit = b"second", "2" * 40
    assert REPOSITORY.weights().read_bytes() == b"second"
    assert REPOSITORY.commit(["model.safetensors"]) == "2" * 40
    assert REPOSITORY.file("nothing.bin") is None


def test_without_the_network_the_cache_serves(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not in the cache is one line, at once."""
    hub.files[NAME, "model.safetensors"] = b"first"
    REPOSITORY.weights()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert REPOSITORY.weights().read_bytes() == b"first"
    assert REPOSITORY.commit(["model.safetensors"]) == "1" * 40
    with pytest.raises(
        UserError, match=r"hf-hub:owner/net: the Hub cannot be reached, and its config\.json is not in the"
    ):
        REPOSITORY.file("config.json")


def test_shards_are_downloaded_with_their_index(hub: FakeHub) -> None:
    """All of them lie in the folder that is returned; a missing one is named."""
    names = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    hub.files[NAME, "model.safetensors.index.json"] = json.dumps({"weight_map": names}).encode()
    hub.files[NAME, "model-1.safetensors"] = b"1"
    with pytest.raises(UserError, match=r"lacks model-2\.safetensors, which its model\.safetensors\.index\.json names"):
        REPOSITORY.weights()
    hub.files[NAME, "model-2.safetensors"] = b"2"
    folder = REPOSITORY.weights()
    assert sorted(file.name for file in folder.iterdir()) == [*names.values(), "model.safetensors.index.json"]


@pytest.mark.parametrize(
    ("refusal", "message"),
    [
        ((403, "GatedRepo"), "is gated: accept its terms on https://huggingface.co/owner/net, then log in with"),
        ((401, "RepoNotFound"), "there is no such repository, or it is private: check the name, or log in with"),
        ((500, ""), r"cannot be downloaded|cannot be reached"),
    ],
)
def test_a_repository_that_gives_nothing(hub: FakeHub, refusal: tuple[int, str], message: str) -> None:
    """Each refusal of the Hub is one line."""
    hub.files[NAME, "config.json"] = b"{}"
    hub.refusals[NAME] = refusal
    with pytest.raises(UserError, match=message):
        REPOSITORY.file("config.json")


def test_names_that_do_not_exist(hub: FakeHub) -> None:
    """A repository, a revision, weights; and what is no name of a repository."""
    hub.files[NAME, "README.md"] = b""
    with pytest.raises(UserError, match="hf-hub:owner/nothing: there is no such repository"):
        HubRepository("owner/nothing").file("config.json")
    with pytest.raises(UserError, match="hf-hub:owner/net@v9: this repository has no revision v9"):
        HubRepository(NAME, "v9").file("config.json")
    with pytest.raises(UserError, match=r"hf-hub:owner/net has no weights that can be read \(model\.safetensors, "):
        REPOSITORY.weights()
    with pytest.raises(UserError, match="hf-hub:net is no repository of the Hub: give hf-hub:OWNER/NAME"):
        HubRepository("net").weights()

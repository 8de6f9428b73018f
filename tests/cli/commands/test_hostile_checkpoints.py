"""A checkpoint chooses neither what code runs nor what is read or downloaded, under every command that opens one."""

from __future__ import annotations

import itertools
import json
import shlex
import socket
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from robustbench_cli.benchmarks.models.base.build import build_model

from .conftest import FAST, Advdef, error_line

COMMANDS = [
    *(
        "attack --checkpoint k.safetensors --attack fgsm",
        "certify --checkpoint k.safetensors --sigma 0.25 --samples 10",
    ),
    *(
        "audit --checkpoint k.safetensors",
        "train --checkpoint k.safetensors --defense gaussian-noise -o new.safetensors",
    ),
    *("attack --checkpoint k.safetensors --defense jpeg", "attack --checkpoint k.safetensors --defense mine.py:Mine"),
    *("reprogram --checkpoint k.safetensors --task digits", "attack --checkpoint k.safetensors --decision mean"),
    *("sweep suite.yaml", "sweep suite.yaml --status", "check suite.yaml", "attack --config options.yaml"),
    "attack --attack transfer --set transfer.surrogate=k.safetensors --checkpoint model.safetensors",
]
"""Every kind of command that opens a checkpoint."""


def checkpoint_with(path: Path, **fields: object) -> None:
    """A checkpoint of a small network with other fields in its description."""
    info = {"version": 1, "model": "small-cnn", "dataset": "digits", "shape": [1, 8, 8], "classes": 10, **fields}
    state = build_model("small-cnn", shape=(1, 8, 8), classes=10).state_dict()
    save_file({name: tensor.clone() for name, tensor in state.items()}, path, metadata={"advdef": json.dumps(info)})


@pytest.fixture
def folder(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with code that leaves a mark, which is also on the module path, and files that lead to a checkpoint."""
    monkeypatch.syspath_prepend(here)
    (here / "evil.py").write_text(f"open({str(here / 'ran')!r}, 'w').close()\nclass E: pass\n")
    (here / "mine.py").write_text("from robustbench_cli.defenses.jpeg import JPEG as Mine\n")
    (here / "suite.yaml").write_text("attacks: [fgsm]\nn: 2\ndefenses: [{checkpoint: k.safetensors}]\n")
    (here / "options.yaml").write_text(yaml.safe_dump({"checkpoint": "k.safetensors"}))
    checkpoint_with(here / "model.safetensors")
    return here


@pytest.mark.parametrize("command", COMMANDS)
def test_code_that_only_the_file_names_does_not_run(advdef: Advdef, folder: Path, command: str) -> None:
    """The refusal comes before the import, whether a path or a module is named, as the model or as a defense."""
    for kind, name in itertools.product(("model", "defense"), ("{folder}/evil.py:E", "evil:E")):
        code = name.format(folder=folder)
        checkpoint_with(
            folder / "k.safetensors",
            **({"model": code} if kind == "model" else {"defenses": [{"name": code, "parameters": {}}]}),
        )
        ended = advdef(*shlex.split(command))
        assert not (folder / "ran").exists(), (command, code)
        assert "evil" not in sys.modules
        if not command.startswith("check"):
            assert f"k.safetensors needs the code {code}: if you trust it, name it" in ended.err, ended
            assert ended.code == 2


@pytest.mark.parametrize("name", ["npz:/etc/passwd", "hf:evil/evil", "imagefolder:/", "webdataset:/dev/zero"])
def test_a_checkpoint_does_not_choose_what_is_read(advdef: Advdef, folder: Path, name: str) -> None:
    """The message has the option to type, and typing it reads what the user named."""
    checkpoint_with(folder / "k.safetensors", dataset=name)
    for command in (("attack", *FAST), ("certify", "--sigma", "0.25", "--samples", "10"), ("audit",)):
        line = error_line(advdef(*command, "--checkpoint", "k.safetensors"))
        assert line.endswith(f"does not choose what is read from a path or the Hub: give --dataset {name}")
    assert advdef("attack", *FAST, "--checkpoint", "k.safetensors", "--dataset", "digits", "-q").code == 0


def test_a_checkpoint_of_the_hub_needs_no_network(
    advdef: Advdef, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A description that lacks the network's config is refused; nothing is looked up."""

    def refuse(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    torch.manual_seed(0)
    checkpoint_with(folder / "k.safetensors", model="hf-hub:evil/evil")
    assert "hf-hub:evil/evil" in error_line(advdef("attack", *FAST, "--checkpoint", "k.safetensors"))

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from robustbench_cli.cli.config_file import long_name

from .conftest import changed


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", {}),
        ("eps: 8/255", {"eps": [["8/255", 8 / 255]]}),
        ("eps: [2/255, 0.1]", {"eps": [["2/255", 2 / 255], ["0.1", 0.1]]}),
        ("model: abc", {"model": ["abc"]}),
        ("data-dir: d\nbatch_size: 8", {"data_dir": "d", "batch_size": 8}),
        ("eot: 4\nstrict: true", {"eot": 4, "strict": True}),
        ("strict: false", {}),
        (
            "set: {hrs.channels: [5, 5], steps: 3, optimizer: sgd}",
            {"settings": [["hrs", "channels", "[5, 5]"], [None, "steps", "3"], [None, "optimizer", "sgd"]]},
        ),
        ("set: [steps=3]", {"settings": [[None, "steps", "3"]]}),
    ],
)
def test_a_file_sets_options(
    compute: Callable[..., Any], tmp_path: Path, content: str, expected: dict[str, Any]
) -> None:
    """A YAML file has the options' long names as keys; an option that may be given several times takes a list or one value."""
    file = tmp_path / "options.yaml"
    file.write_text(content)
    assert changed(compute("--config", str(file))) == expected


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"sed: 1", ": unknown key 'sed': did you mean 'seed'?"),
        (b"config: a.yaml", ": unknown key 'config': known: batch-size, "),
        (b"seed: 1.5", ": seed: '1.5' is no whole number: give digits, such as 10"),
        (b"seed: [1, 2]", ": seed: is [1, 2]: give one value"),
        (b"seed:", ": seed: is null: give one value"),
        (b"eps: [-1]", ": eps: eps is '-1': it must be 0 or more, and finite"),
        (b"strict: 1", ": strict: is 1: give true or false"),
        (b"device: gpu", ": device: 'gpu' is no device: give auto, cpu, cuda or cuda:N"),
        (b"- seed", ": give a mapping of options, such as 'seed: 1', not a list"),
        (b"seed: [1", ", line 1: not YAML: "),
        (b"\xff\xfe\x00", " is not a text file in UTF-8 (invalid start byte at byte 0)"),
    ],
)
def test_a_file_that_is_wrong(compute: Callable[..., Any], tmp_path: Path, content: bytes, line: str) -> None:
    """A wrong file gets one line with the file, the key and what would be right."""
    file = tmp_path / "options.yaml"
    file.write_bytes(content)
    ended = compute("--config", str(file))
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"advdef: error: {file}{line}")
    assert ended.err.count("\n") == 1


def test_an_option_is_named_by_its_long_name() -> None:
    """Without dashes, whatever the function calls it; an argument has only its own name."""
    assert long_name(click.Option(["-o", "--out-file", "path"])) == "out-file"
    assert long_name(click.Argument(["stores"])) == "stores"

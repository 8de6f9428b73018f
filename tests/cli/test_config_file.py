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


def project(folder: Path, content: str) -> None:
    (folder / "pyproject.toml").write_text(content)


def test_a_project_sets_options(compute: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The nearest pyproject.toml with a table of ours counts; what the command does not know belongs to another one."""
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    project(tmp_path, "[tool.advdef]\nseed = 9\nstore = 'runs'\n")
    project(
        tmp_path / "a",
        "[tool.advdef]\nseed = 3\nstore = 'r'\nset = {pgd.steps = 5}\nlist = {}\nfail-under = ['clean_accuracy=0.1']\n"
        "[tool.advdef.compute]\neps = [0.1]\nmodel = ['own.py:Mine', 'small-cnn']\ndata-dir = 'data'\n",
    )
    project(inner, "[project]\nname = 'x'\n")
    assert changed(compute()) == {
        "seed": 3,
        "settings": [["pgd", "steps", "5"]],
        "eps": [["0.1", 0.1]],
        "model": [str(tmp_path / "a/own.py:Mine"), "small-cnn"],
        "data_dir": str(tmp_path / "a/data"),
        "store": str(tmp_path / "a/r"),
    }


def test_a_project_comes_after_all_other_sources(
    compute: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Command line, environment, file of --config, project."""
    monkeypatch.chdir(tmp_path)
    project(tmp_path, "[tool.advdef]\nseed = 1\nbatch-size = 1\nstore = 's'\ndata_dir = 'd'\n")
    (tmp_path / "c.yaml").write_text("seed: 2\nbatch_size: 2\nstore: t\n")
    monkeypatch.setenv("ADVDEF_BATCH_SIZE", "3")
    monkeypatch.setenv("ADVDEF_SEED", "3")
    assert changed(compute("--config", "c.yaml", "--seed", "4")) == {
        "seed": 4,
        "batch_size": 3,
        "store": "t",
        "data_dir": "d",
    }


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("[tool.advdef]\nsed = 1", ": tool.advdef: unknown key 'sed': did you mean 'seed'?"),
        ("[tool.advdef]\nseed = 1.5", ": tool.advdef: seed: '1.5' is no whole number: give digits, such as 10"),
        ("[tool.advdef.compute]\nsuite = 'a'", ": tool.advdef.compute: unknown key 'suite': "),
        ("[tool.advdef]\ncompute = 1", ": tool.advdef: compute is 1: give a table of options of 'advdef compute'"),
        ("[tool]\nadvdef = 1", ": tool.advdef is 1: give a table of options, such as seed = 1"),
        ("[tool.advdef\n", ": not TOML: "),
        ("tool = 1", ": not TOML: "),
    ],
)
def test_a_project_that_is_wrong(
    compute: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, line: str
) -> None:
    """One line with the file, the key and what would be right; the help is shown all the same."""
    monkeypatch.chdir(tmp_path)
    project(tmp_path, content)
    ended = compute()
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"advdef: error: {tmp_path / 'pyproject.toml'}{line}")
    assert compute("--help").code == 0


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("output", "['in.csv', '../outside.md']", "output: '../outside.md' is outside the project's folder: "),
        ("output", "'/abs/x.csv'", "output: '/abs/x.csv' is outside the project's folder: "),
        ("output", "'a/../../x.csv'", "output: 'a/../../x.csv' is outside the project's folder: "),
        ("output", "'linked/x.csv'", "output: 'linked/x.csv' is outside the project's folder: "),
        ("output", "'circle'", "output: 'circle' is outside the project's folder: "),
        ("plots", "'..'", "plots: '..' is outside the project's folder: "),
        ("save_images", "'../images'", "save_images: '../images' is outside the project's folder: "),
        ("store", "'../runs'", "store: '../runs' is outside the project's folder: give a path inside it"),
        ("stores", "['in', '/abs/runs']", "stores: '/abs/runs' is outside the project's folder: "),
        ("to", "'tensorboard:../../tb'", "to: 'tensorboard:../../tb' is outside the project's folder: "),
        (
            "to",
            "['tensorboard:tb', 'mlflow:http://x.example']",
            "to: 'mlflow:http://x.example' may send results away: ",
        ),
        ("to", "'wandb:project'", "to: 'wandb:project' may send results away: give tensorboard:DIR, or give it on"),
    ],
)
def test_a_project_writes_inside_its_folder(
    advdef: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: str, told: str
) -> None:
    """A project of others does not choose where a command writes, nor by a link, nor to whom it sends rows."""
    folder = tmp_path / "project"
    (folder / "inner").mkdir(parents=True)
    (folder / "linked").symlink_to(tmp_path)
    (folder / "circle").symlink_to("circle")
    project(folder, f"[tool.advdef.{'attack' if key == 'save_images' else 'report'}]\n{key} = {value}\n")
    for here in (folder, folder / "inner"):
        monkeypatch.chdir(here)
        ended = advdef("attack" if key == "save_images" else "report", "--format", "csv")
        assert (ended.code, ended.out) == (2, "")
        assert told in ended.err
        assert ended.err.count("\n") == 1
        assert sorted(path.name for path in tmp_path.iterdir()) == ["project"]


def test_outputs_inside_a_project_are_in_its_folder(
    advdef: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From any folder below it, a path stays the same; a command line may write anywhere."""
    (tmp_path / "inner").mkdir()
    project(tmp_path, "[tool.advdef.report]\noutput = 'x.csv'\n")
    monkeypatch.chdir(tmp_path / "inner")
    assert "no store at advdef-runs" in advdef("report").err
    assert "no store at advdef-runs" in advdef("report", "-o", "../../y.csv").err
    (tmp_path / "x.csv").mkdir()
    assert f"{tmp_path / 'x.csv'}" in advdef("report").err
    project(tmp_path, "[tool.advdef.report]\nto = 'tensorboard:runs'\n")
    advdef("report")
    assert (tmp_path / "runs").is_dir()
    assert not (tmp_path / "inner/runs").exists()


def test_a_report_reads_the_store_of_the_project(
    advdef: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is where an attack writes. Command line and environment come first; data sets may lie outside."""
    project(tmp_path, "[tool.advdef]\nstore = 'runs'\ndata-dir = '../data'\n")
    monkeypatch.chdir(tmp_path)
    for words in (("report",), ("audit",), ("store", "verify")):
        assert "no store at runs:" in advdef(*words).err
        assert "no store at other:" in advdef(*words, "other").err
    assert "no store at named:" in advdef("audit", "--store", "named").err
    assert "give one of them" in advdef("report", "a", "--store", "b").err
    monkeypatch.setenv("ADVDEF_STORE", "set")
    assert "no store at set:" in advdef("report").err

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from robustbench_cli.cli.config_file import long_name
from robustbench_cli.cli.dispatch import advdef as group

from .conftest import changed


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], {}),
        (["--eps", "8/255", "--eps", "0.3"], {"eps": [["8/255", 8 / 255], ["0.3", 0.3]]}),
        (["--eot", "10"], {"eot": 10}),
        (["--eot", "exact"], {"eot": "exact"}),
        (["--eot", "frozen"], {"eot": "frozen"}),
        (
            ["--set", "steps=7", "--set", "hrs.channels=[5, 5]", "--set", "my.py:Mine.rate = a=b"],
            {"settings": [[None, "steps", "7"], ["hrs", "channels", "[5, 5]"], ["my.py:Mine", "rate", "a=b"]]},
        ),
        (["--batch-size", "16"], {"batch_size": 16}),
        (["--batch-size", "auto"], {}),
        (["--device", "cuda:1"], {"device": "cuda:1"}),
        (["--store", "x", "--data-dir", "y", "--seed", "5"], {"store": "x", "data_dir": "y", "seed": 5}),
    ],
)
def test_values_are_read(compute: Callable[..., Any], words: list[str], expected: dict[str, Any]) -> None:
    """Each type of option reads what the contract says it reads."""
    assert changed(compute(*words)) == expected


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--eps", "-0.1"], "eps is '-0.1': it must be 0 or more, and finite"),
        (["--eps", "8/0"], "eps is '8/0': give a number or a fraction, such as 0.03 or 8/255"),
        (["--eot", "0"], "--eot: '0' is no number of draws: give 1, 10, ..., 'exact' or 'frozen'"),
        (["--eot", "exakt"], "--eot: 'exakt' is no number of draws: give 1, 10, ..., 'exact' or 'frozen'"),
        (
            ["--set", "steps"],
            "--set: 'steps' sets nothing: give KEY=VALUE or NAME.KEY=VALUE, such as pgd.steps=100",
        ),
        (["--set", ".a=1"], "--set: '.a=1' sets nothing: give KEY=VALUE or NAME.KEY=VALUE, such as pgd.steps=100"),
        (["--batch-size", "0"], "--batch-size: '0' is no batch size: give 'auto' or the number of images"),
        (["--device", "gpu"], "--device: 'gpu' is no device: give auto, cpu, cuda or cuda:N"),
        (["--seed", "1.5"], "--seed: '1.5' is no whole number: give digits, such as 10"),
        (["--seed", "-1"], "--seed: -1 is not in the range 0<=x<=4294967295"),
        (["--config", "none.yaml"], "--config: file 'none.yaml' does not exist"),
    ],
)
def test_values_that_cannot_be_read(compute: Callable[..., Any], words: list[str], line: str) -> None:
    """A value that is not allowed gets one line that says which option and what would be right."""
    ended = compute(*words)
    assert (ended.code, ended.out, ended.err) == (2, "", f"advdef: error: {line}\n")


def test_the_environment_sets_every_option(compute: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """An option's variable is ADVDEF_ and its long name; several values stand between spaces, settings between `;`."""
    values = {
        "ADVDEF_EPS": "2/255 0.1",
        "ADVDEF_EOT": "exact",
        "ADVDEF_SET": "hrs.channels=[5, 5];steps=3",
        "ADVDEF_MODEL": "a b",
        "ADVDEF_STRICT": "1",
        "ADVDEF_OUTPUT": "o.csv",
        "ADVDEF_STORE": "s",
        "ADVDEF_DEVICE": "cpu",
        "ADVDEF_SEED": "4",
        "ADVDEF_DATA_DIR": "d",
        "ADVDEF_BATCH_SIZE": "9",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    assert changed(compute()) == {
        "eps": [["2/255", 2 / 255], ["0.1", 0.1]],
        "eot": "exact",
        "settings": [["hrs", "channels", "[5, 5]"], [None, "steps", "3"]],
        "model": ["a", "b"],
        "strict": True,
        "output": "o.csv",
        "store": "s",
        "device": "cpu",
        "seed": 4,
        "data_dir": "d",
        "batch_size": 9,
    }


def test_a_wrong_value_of_the_environment_names_the_variable(
    compute: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line on a wrong value says that it came from the environment."""
    monkeypatch.setenv("ADVDEF_DEVICE", "gpu")
    assert compute().err == "advdef: error: ADVDEF_DEVICE: 'gpu' is no device: give auto, cpu, cuda or cuda:N\n"


def test_a_variable_of_no_option_is_told(advdef: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A slip in a variable's name gets a line and the nearest name, even with -q; another command's variable gets none."""
    told = advdef("list", "models")
    for name in ("ADVDEF_EPSILON", "ADVDEF_DATADIR", "ADVDEF_MAX_DROP", "ADVDEF_QUIET"):
        monkeypatch.setenv(name, "1")
    ended = advdef("list", "models")
    assert (ended.code, ended.out) == (0, told.out)
    assert ended.err.splitlines() == [
        "advdef: warning: unknown variable ADVDEF_DATADIR in the environment: did you mean 'ADVDEF_DATA_DIR'?",
        "advdef: warning: unknown variable ADVDEF_EPSILON in the environment: did you mean 'ADVDEF_EPS'?",
    ]


def test_the_command_line_wins_over_environment_file_and_default(
    compute: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of the places that set an option the one nearest to the person counts."""
    file = tmp_path / "options.yaml"
    file.write_text("seed: 1\n")
    assert changed(compute()) == {}
    monkeypatch.setenv("ADVDEF_CONFIG", str(file))
    assert changed(compute()) == {"seed": 1}
    monkeypatch.setenv("ADVDEF_SEED", "2")
    assert changed(compute()) == {"seed": 2}
    assert changed(compute("--seed", "3")) == {"seed": 3}


@pytest.mark.parametrize(("device", "expected"), [("cpu", "cpu"), ("auto", "cpu")])
def test_the_device_of_a_machine_without_cuda(monkeypatch: pytest.MonkeyPatch, device: str, expected: str) -> None:
    """Where there is no CUDA device, auto is the CPU."""
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert common(device).torch_device() == torch.device(expected)


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CUDA device that the machine does not have is refused with what it has."""
    import torch

    from robustbench_cli.core.errors import UserError

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"^no device cuda: torch .* sees no CUDA device here$"):
        common("cuda").torch_device()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert common("auto").torch_device() == torch.device("cuda")
    assert common("cuda:1").torch_device() == torch.device("cuda:1")
    with pytest.raises(UserError, match=r"^no device cuda:2: cuda:0 to cuda:1 and cpu are here$"):
        common("cuda:2").torch_device()


def common(device: str) -> Any:
    """The shared options with a device."""
    from robustbench_cli.cli.options import Common

    return Common(store=Path("s"), device=device, seed=0, data_dir=None, batch_size=None)


def test_every_option_of_every_command_has_its_variable() -> None:
    """One rule names the variables."""
    import click

    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        for option in command.params:
            if isinstance(option, click.Option):
                assert option.envvar == f"ADVDEF_{long_name(option).upper().replace('-', '_')}"
            else:
                assert option.envvar is None


def test_every_command_file_is_named_as_its_command() -> None:
    """The name that is typed, the file's and the one in the help are the same."""
    import click

    context = click.Context(group)
    names = group.list_commands(context)
    assert {"env", "list", "show"} <= set(names)
    assert [group.get_command(context, name).name for name in names] == names  # type: ignore[union-attr]


def test_a_command_without_results_says_that_the_store_changes_nothing(
    advdef: Callable[..., Any], add_command: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store on the command line is a warning; one in the environment is meant for other commands too."""
    add_command(
        "stateless",
        """
        from robustbench_cli.cli.options import command, computing_options
        @command("stateless")
        @computing_options(stores_results=False)
        def stateless(common): ...
        """,
    )
    line = "advdef: warning: --store changes nothing: this command stores no results\n"
    assert advdef("stateless", "--store", "x").err == line
    monkeypatch.setenv("ADVDEF_STORE", "x")
    assert advdef("stateless").err == ""


@pytest.mark.parametrize(("given", "warns"), [(("--n", "600"), True), ((), False), (("--n", "500"), False)])
def test_too_many_images_are_a_warning(
    advdef: Callable[..., Any], add_command: Callable[[str, str], Path], given: tuple[str, ...], warns: bool
) -> None:
    """Only where the user gives the number: the default asks for none in particular."""
    add_command(
        "counting",
        """
        from robustbench_cli.cli.options import command, computing, first_images, is_given, warn_of_fewer_images
        @command("counting")
        @first_images("help", default=1000)
        @computing
        def counting(common, n):
            if is_given("n"):
                warn_of_fewer_images(n, 500, "digits")
        """,
    )
    line = "advdef: warning: --n 600: digits has 500 test images, and all of them are used\n"
    assert advdef("counting", *given).err == (line if warns else "")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((), [[], False]),
        (("--jobs", "2"), [["cpu", "cpu"], False]),
        (("--jobs", "1", "--split"), [["cpu"], True]),
        (("--gpus", "1,0"), [["cuda:1", "cuda:0"], False]),
        (("--gpus", "0,2", "--per-gpu", "2", "--split"), [["cuda:0", "cuda:2"] * 2, True]),
    ],
)
def test_processes_have_their_devices(
    advdef: Callable[..., Any],
    add_command: Callable[[str, str], Path],
    monkeypatch: pytest.MonkeyPatch,
    given: tuple[str, ...],
    expected: list[object],
) -> None:
    """A CPU for each job, or a GPU for each of the processes on it; this process where nothing is said."""
    add_command(
        "spread",
        """
        import json
        from robustbench_cli.cli import console
        from robustbench_cli.cli.options import command, computing, process_options
        @command("spread")
        @process_options(split=False)
        @computing
        def spread(common, processes):
            console.report(json.dumps([processes.devices(common), processes.split]))
        """,
    )
    monkeypatch.setattr("torch.cuda.is_available", lambda: "--gpus" in given)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    assert json.loads(advdef("spread", *given).out) == expected
    for wrong, message in (
        (("--jobs", "2", "--gpus", "0"), "--jobs and --gpus both say how many processes there are"),
        (("--jobs", "2", "--per-gpu", "2"), "--per-gpu is for --gpus"),
    ):
        ended = advdef("spread", *wrong)
        assert ended.code == 2
        assert message in ended.err

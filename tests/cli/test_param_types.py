from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from robustbench_cli.cli.options import Command
from robustbench_cli.cli.param_types import BATCH_SIZE, DEVICE, EOT_TYPE, EPS, JOBS

KINDS: dict[str, Any] = {
    "range": click.IntRange(min=1),
    "whole": int,
    "share": click.FloatRange(min=0, min_open=True),
    "number": float,
    "batch": BATCH_SIZE,
    "jobs": JOBS,
    "eot": EOT_TYPE,
    "eps": EPS,
}


def read(kind: str, words: str) -> Any:
    """What a command gets for an option of a kind, or how it is refused."""
    found: list[Any] = []
    option = click.Option(["--x"], type=KINDS[kind])
    command = Command("test", params=[option], callback=lambda x: found.append(x))
    ended = CliRunner().invoke(command, ["--x", words], standalone_mode=False)
    return found[0] if found else ended.exception


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "words",
    ["1_0", "٣", "0x10", "1e400", "1e-400", "nan", "inf", "", "1 0", "1:30", "0b1", "--5", "²", "1,5", "x"],
)
def test_no_number_is_read_otherwise_than_it_looks(kind: str, words: str) -> None:
    """What Python reads as a number and nobody writes as one is refused, with the option's name."""
    refusal = read(kind, words)
    assert isinstance(refusal, click.BadParameter | ValueError)
    assert "\n" not in str(refusal)


@pytest.mark.parametrize(
    ("kind", "words", "value"),
    [
        *(("range", "10", 10), ("range", "007", 7), ("whole", "-3", -3), ("whole", "+3", 3), ("batch", "16", 16)),
        *(("share", "0.25", 0.25), ("share", "1e-3", 1e-3), ("number", "-.5", -0.5), ("number", "0e-999", 0.0)),
        *(("share", "5.", 5.0), ("eot", "10", 10), ("eot", "exact", "exact"), ("batch", "auto", None)),
    ],
)
def test_numbers_are_read(kind: str, words: str, value: float | str | None) -> None:
    """Decimal numbers are what Python says they are."""
    assert read(kind, words) == value


@pytest.mark.parametrize("words", ["cuda:٣", "cuda:1_0", "cuda:-1", "cuda:"])
def test_a_devices_number_is_plain_too(words: str) -> None:
    """Only digits count devices."""
    with pytest.raises(click.BadParameter, match="is no device"):
        DEVICE.convert(words, None, None)


def test_auto_is_a_process_for_each_core_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cores of this process, which may be fewer than those of the machine; of the machine where a system does not say."""
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {1, 4, 5}, raising=False)
    assert [read("jobs", text) for text in ("auto", "2")] == [3, 2]
    assert isinstance(read("jobs", "0"), click.BadParameter)
    monkeypatch.delattr("os.sched_getaffinity")
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    assert read("jobs", "auto") == 6


UNKNOWN = [
    ("attack", "--attack", "eot-pdg", "unknown attack 'pdg': did you mean 'pgd'?"),
    ("attack", "--defense", "hsr", "unknown defense 'hsr': did you mean 'hrs'?"),
    ("attack", "--dataset", "digitz?channels=3", "unknown dataset 'digitz': did you mean 'digits'?"),
    (
        "attack",
        "--model",
        "resnet18",
        "unknown model 'resnet18': did you mean 'torchvision:resnet18' or 'resnet18-cifar'?",
    ),
    ("attack", "--suite", "standrd", "unknown suite 'standrd': did you mean 'standard'?"),
    ("certify", "--checkpoint", "gone.pt", "no checkpoint gone.pt: its folder has no file of weights"),
]


def test_an_unknown_name_is_refused_without_torch(tmp_path: Path) -> None:
    """Its import takes seconds; ``sys.modules`` shows whether it was needed."""
    code = (
        "import sys\n"
        "from robustbench_cli.cli.main import main\n"
        f"for words in {[entry[:-1] for entry in UNKNOWN]!r}:\n"
        "    print(main(words), 'torch' in sys.modules)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert ended.stdout.splitlines() == ["2 False"] * len(UNKNOWN)
    for line, (*_, message) in zip(ended.stderr.splitlines(), UNKNOWN, strict=True):
        assert line.startswith(f"advdef: error: {message}")

"""The attack ``transfer`` on the command line: its surrogate, its usage errors and its card."""

from __future__ import annotations

import csv
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Advdef = Callable[..., Any]

ATTACK = ("attack", "--checkpoint", "model.safetensors", "--attack", "transfer", "--n", "20")


def test_images_of_one_checkpoint_attack_another(advdef: Advdef, here: Path, checkpoint: Path) -> None:
    """The row's label names the surrogate and its attack; the same surrogate in another file is the same cell."""
    assert advdef("train", "--epochs", "2", "--seed", "1", "-o", "other.safetensors", "-q").code == 0
    shutil.copy("other.safetensors", "moved.safetensors")
    options = ("--set", "transfer.attack={name: ti-fgsm, steps: 5}", "-o", "table.csv")
    first = advdef(*ATTACK, "--set", "transfer.surrogate=other.safetensors", *options)
    assert first.code == 0, first.err
    (row,) = csv.DictReader(Path("table.csv").read_text().splitlines())
    assert row["attack"] == "transfer(surrogate=other.safetensors,attack.name=ti-fgsm,attack.steps=5)"
    assert float(row["robust_accuracy"]) < float(row["clean_accuracy"])
    assert row["eot"] == "1"
    # Two epochs leave the logits of the surrogate close together.
    assert row["flags"] in {"", "tiny-logits"}
    second = advdef(*ATTACK, "--set", "surrogate=moved.safetensors", *options)
    assert "1/1 cells cached in advdef-runs" in second.err
    assert Path("moved.safetensors").write_bytes(checkpoint.read_bytes())
    third = advdef(*ATTACK, "--set", "surrogate=moved.safetensors", *options)
    assert third.code == 0
    assert "already" not in third.err
    several = advdef(*ATTACK, "--set", "surrogate=other.safetensors", "--set", "ensemble=[moved.safetensors]", *options)
    assert several.code == 0, several.err
    (row,) = csv.DictReader(Path("table.csv").read_text().splitlines())
    assert row["attack"].startswith(
        "transfer(surrogate=other.safetensors,ensemble=[moved.safetensors],attack.name=ti-fgsm"
    )
    missing = advdef(*ATTACK, "--set", "surrogate=other.safetensors", "--set", "ensemble=[none.safetensors]")
    assert (missing.code, missing.err.split(":")[2:4]) == (2, [" transfer.ensemble", " no checkpoint none.safetensors"])


def test_a_bad_surrogate_is_a_usage_error(advdef: Advdef, here: Path) -> None:
    """It is one line with exit code 2, before the attacked model is trained or anything is stored."""
    Path("code.pt").write_bytes(pickle.dumps(print))
    assert advdef("train", "--dataset", "digits", "--epochs", "1", "-o", "other.safetensors", "-q").code == 0
    for options, message in (
        ((), "transfer needs transfer.surrogate: checkpoint of the surrogate model"),
        (("--set", "surrogate=none.safetensors"), "transfer.surrogate: no checkpoint none.safetensors"),
        (("--set", "surrogate=code.pt"), "transfer.surrogate: code.pt "),
        (
            ("--set", "surrogate=other.safetensors", "--set", "attack=cw"),
            "transfer.attack is 'cw': give a gradient-based",
        ),
        (
            ("--set", "surrogate=other.safetensors", "--norm", "l2", "--eps", "1"),
            "transfer does not support the norm l2",
        ),
    ):
        ended = advdef("attack", "--defense", "hrs", "--attack", "transfer", *options)
        assert (ended.code, ended.out) == (2, "")
        (line,) = ended.err.splitlines()
        assert line.startswith(f"advdef: error: {message}")
    assert not Path("advdef-runs").exists() or not any(Path("advdef-runs").rglob("*.json"))


@pytest.mark.parametrize("output_format", ["table", "json"])
def test_show_describes_it(advdef: Advdef, here: Path, output_format: str) -> None:
    """The card has its purpose and says that the surrogate is required."""
    shown = advdef("show", "attack", "transfer", "--format", output_format)
    assert shown.code == 0
    text = " ".join(shown.out.split())
    assert "on the attacked model, which is never queried" in text
    assert "(required)" in text if output_format == "table" else '"required": true' in text
    assert "mi-fgsm" in text

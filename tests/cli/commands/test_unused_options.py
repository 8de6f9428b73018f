from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.parametrize("more", [("--epochs", "3"), ("--set", "train.lr=0.1"), ("--epochs", "3", "--defense", "jpeg")])
def test_training_options_without_a_training_give_a_warning(
    checkpoint: Path, advdef: Callable[..., Any], more: tuple[str, ...]
) -> None:
    """Where a checkpoint is used as it is, options of the training are not ignored silently."""
    ended = advdef("attack", "--checkpoint", str(checkpoint), "--n", "4", "--attack", "fgsm", "-q", *more)
    assert ended.code == 0
    option = "--epochs" if "--epochs" in more else "--set train.lr"
    assert ended.err.count(f"advdef: warning: {option} changes nothing: {checkpoint} is used as it is") == 1


@pytest.mark.parametrize(
    ("more", "option"),
    [
        (("--decision", "vote"), "--decision"),
        (("--eot", "10"), "--eot"),
        (("--repeats", "3"), "--repeats"),
        (("--attack", "eot-fgsm"), "--attack eot-fgsm"),
    ],
)
def test_options_of_draws_without_a_randomized_model_give_a_warning(
    checkpoint: Path, advdef: Callable[..., Any], more: tuple[str, str], option: str
) -> None:
    """Where every model is deterministic, options of draws are not ignored silently; where one is randomized, they count."""
    command = ("attack", "--checkpoint", str(checkpoint), "--n", "4", "-q", *more)
    command += () if "--attack" in more else ("--attack", "fgsm")
    line = f"advdef: warning: {option} changes nothing: no model here is randomized"
    assert advdef(*command).err.count(line) == 1
    ended = advdef(*command, "--defense", "gaussian-noise", "--defense", "none", "--set", "train.epochs=1")
    assert (ended.code, "changes nothing" in ended.err) == (0, False), ended


def test_draws_that_cannot_be_counted_are_refused_before_the_training(advdef: Callable[..., Any]) -> None:
    """Gaussian noise has no last draw: known from the untrained model."""
    ended = advdef("attack", "--defense", "gaussian-noise", "--attack", "fgsm", "--eot", "exact")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("advdef: error: eot is exact, and the draws of this model cannot be counted")
    assert "training" not in ended.err


@pytest.mark.parametrize("attacks", [("--attack", "eot-fgsm"), ("--suite", "autoattack-compat")])
def test_draws_that_all_attacks_set_are_not_replaced_silently(
    checkpoint: Path, advdef: Callable[..., Any], attacks: tuple[str, str]
) -> None:
    """--eot counts for the attacks that set no draws, and there is none."""
    ended = advdef("attack", "--checkpoint", str(checkpoint), *attacks, "--eot", "20")
    assert (ended.code, ended.out) == (2, "")
    assert (
        ended.err
        == f"advdef: error: --eot 20 changes nothing: {' '.join(attacks)} sets the draws of every attack: leave it out\n"
    )

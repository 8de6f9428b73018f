from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from robustbench_cli.benchmarks.checkpoints.checkpoint import load_checkpoint
from robustbench_cli.benchmarks.datasets.base.load import load_dataset
from robustbench_cli.benchmarks.datasets.base.slice import first_examples
from robustbench_cli.benchmarks.evaluation.evaluate import evaluate
from robustbench_cli.benchmarks.execution import worker
from robustbench_cli.cli.model_args import DECISIONS
from robustbench_cli.defenses.base.decision_rules import DecisionRule

from .conftest import FAST, TINY, Advdef, error_line

AS_IT_IS = ("--attack", "fgsm", "--n", "40")
"""``FAST`` for a checkpoint, without the options of a training."""

COLUMNS = (
    "dataset,model,checkpoint,defense,attack,norm,eps,targeted,eot,n,repeats,seed,"
    "clean_accuracy,clean_accuracy_low,clean_accuracy_high,robust_accuracy,robust_accuracy_low,robust_accuracy_high,"
    "robust_accuracy_vote,robust_accuracy_every_draw,attack_success_rate,mean_l2,mean_linf,des,flags,"
    "forwards,backwards,seconds,device,cell"
)

SLOW = """
import os
import signal
import sys
from robustbench_cli.attacks.fgsm import FGSM

class Slow(FGSM):
    def run(self, *given):
        if "WAIT" in os.environ:
            print("waiting", file=sys.stderr, flush=True)
            signal.pause()
        return super().run(*given)

class Broken(FGSM):
    def run(self, *given):
        raise RuntimeError("no way")
"""


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    return list(csv.DictReader(path.read_text().splitlines()))


def test_a_defense_is_enough_on_a_fresh_machine(
    advdef_process: Advdef, advdef: Advdef, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an empty folder with an empty cache, it trains once, says so, and runs the three default attacks."""
    command = ("attack", "--defense", "hrs", "--epochs", "1", "--n", "10", "--set", "channels=[2,2]")
    command = (*command, "--set", "train.lr=1e-6")
    command = (*command, "--set", "cw.steps=3", "--set", "pgd.steps=3", "--set", "cw-pgd.steps=3")
    monkeypatch.setenv("XDG_CACHE_HOME", str(here / "cache"))
    first = advdef_process(*command, "-o", "table.csv")
    assert first.code == 0, first.err
    (cached,) = (here / "cache" / "advdef" / "checkpoints").iterdir()
    assert f"training small-cnn with hrs(channels=[2,2]) on digits; checkpoint: {cached}" in first.err.splitlines()
    rows = table(here / "table.csv")
    assert [(row["attack"], row["eot"]) for row in rows] == [
        ("pgd(steps=3)", "exact"),
        ("cw-pgd(steps=3)", "exact"),
        ("worst-case", ""),
        ("cw(steps=3)", "exact"),
    ]
    assert {row["repeats"] for row in rows} == {"10"}
    second = advdef(*command)
    assert second.out == first.out
    note, warning = second.err.splitlines()
    assert note == "3/3 cells cached in advdef-runs"
    # The learning rate is too low to learn anything.
    assert "hrs(channels=[2,2]) classifies clean images no better than chance (10 classes)" in warning


def test_the_table_is_all_of_stdout(advdef: Advdef, here: Path, checkpoint: Path) -> None:
    """Progress and notes go to stderr."""
    ended = advdef("attack", "--checkpoint", "model.safetensors", *AS_IT_IS)
    assert ended.code == 0
    lines = ended.out.splitlines()
    assert lines[0].rstrip() == "dataset digits, model small-cnn, n 40, seed 0"
    assert lines[2].split() == ["defense", "attack", "threat", "eot", "clean", "robust", "success", "l2", "passes"]
    assert lines[4].split()[:4] == ["none", "fgsm", "linf", "0.15"]
    assert len(ended.err.splitlines()) == 1
    assert ended.err.startswith("none fgsm linf eps 0.15: clean ")


def test_a_reused_row_has_the_names_of_the_command(advdef: Advdef, here: Path, checkpoint: Path) -> None:
    """The same images under another name are not attacked again, and the table names what the user gave."""
    images = first_examples(load_dataset("digits").split("test"), 20)
    for name in ("a", "b"):
        np.savez(here / f"{name}.npz", images=images.images.numpy(), labels=images.labels.numpy())
    shutil.copy("model.safetensors", "moved.safetensors")
    options = ("--n", "20", "--eps", "0.1", "--attack", "fgsm", "-o", "table.csv")
    assert advdef("attack", "--checkpoint", "model.safetensors", "--dataset", "npz:a.npz", *options).code == 0
    again = advdef("attack", "--checkpoint", "moved.safetensors", "--dataset", "npz:b.npz", *options)
    assert again.code == 0, again.err
    (row,) = table(here / "table.csv")
    assert (row["dataset"], row["checkpoint"]) == ("npz:b.npz", "moved.safetensors")
    assert len(list((here / "advdef-runs" / "cells").glob("*.json"))) == 1


def test_the_csv_has_the_columns_of_the_contract(advdef: Advdef, here: Path, checkpoint: Path) -> None:
    """In its order. JSON has the same names and the same numbers."""
    command = ("attack", "--checkpoint", "model.safetensors", "--eps", "8/255", *AS_IT_IS, "--attack", "pgd")
    assert advdef(*command, "-o", "table.csv", "-o", "table.json", "-q").err == ""
    assert (here / "table.csv").read_text().startswith(f"{COLUMNS},")
    rows, objects = table(here / "table.csv"), json.loads((here / "table.json").read_text())
    assert [list(entry) for entry in objects] == [list(row) for row in rows]
    assert [row["eps"] for row in rows] == ["8/255"] * 3
    for row, entry in zip(rows, objects, strict=True):
        for column in ("clean_accuracy", "robust_accuracy", "mean_l2", "seconds", "forwards"):
            assert float(row[column]) == entry[column]
        assert entry["des"] is None
    fgsm = next(row for row in rows if row["attack"] == "fgsm")
    expected = accuracies_by_hand(here / "model.safetensors", n=40, eps=8 / 255)
    assert [float(fgsm["clean_accuracy"]), float(fgsm["robust_accuracy"])] == pytest.approx(expected, abs=1e-9)


def accuracies_by_hand(checkpoint: Path, *, n: int, eps: float) -> list[float]:
    """The shares of the first test images that the model gets right, clean and after FGSM, written out in torch."""
    model = load_checkpoint(checkpoint).model.eval()
    data = first_examples(load_dataset("digits").split("test"), n)
    images = data.images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(model(images), data.labels), images)
    perturbed = (images + eps * gradient.sign()).clamp(0, 1)
    return [float((model(batch).argmax(dim=1) == data.labels).double().mean()) for batch in (images, perturbed)]


def test_nothing_is_computed_twice(
    advdef: Advdef, here: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second command with one more radius runs only that radius; another batch size or path changes nothing."""
    run: list[float] = []

    def counted(*arguments: Any, **keywords: Any) -> Any:
        run.append(keywords["options"].eps)
        return evaluate(*arguments, **keywords)

    monkeypatch.setattr(worker, "evaluate", counted)
    command = ("attack", "--checkpoint", "model.safetensors", *FAST, "--eps", "0.1")
    first = advdef(*command)
    second = advdef("attack", "--checkpoint", str(checkpoint), *FAST, "--eps", "0.1", "--batch-size", "7")
    assert (first.code, second.code, second.out) == (0, 0, first.out)
    advdef(*command, "--eps", "1/5")
    assert run == [0.1, 0.2]
    advdef(*command, "--seed", "1")
    advdef(*command, "--n", "39")
    assert run == [0.1, 0.2, 0.1, 0.1]


@pytest.mark.usefixtures("forked_workers")
def test_processes_share_the_images(advdef: Advdef, here: Path, checkpoint: Path) -> None:
    """Two processes give the rows of one, at two radii and of a search too; they are what a user of several cores asks for."""
    command = [
        "attack",
        "--checkpoint",
        "model.safetensors",
        "--attack",
        "fgsm",
        "--attack",
        "fmn",
        "--set",
        "fmn.steps=5",
    ]
    rows = []
    for store, processes in (("one", ()), ("two", ("--jobs", "2"))):
        options = ("--n", "210", "--eps", "0.1", "--eps", "0.2", "--store", store, "-o", f"{store}.csv")
        assert advdef(*command, *options, *processes).code == 0
        written = csv.DictReader((here / f"{store}.csv").read_text().splitlines())
        rows.append([{**row, "seconds": ""} for row in written])
    for one, two in zip(*rows, strict=True):
        assert {key for key in one if one[key] != two[key]} <= {"mean_l2", "mean_linf"}
        assert float(one["mean_l2"]) == pytest.approx(float(two["mean_l2"]), rel=1e-6)
    assert len(rows[0]) == 6


@pytest.mark.usefixtures("forked_workers")
def test_processes_without_work_are_noted(advdef: Advdef, here: Path, checkpoint: Path) -> None:
    """Twenty images are one batch, which one of two processes computes; 210 images are work for both."""
    command = ("attack", "--checkpoint", "model.safetensors", "--attack", "fgsm", "--jobs", "2")
    noted = (
        "2 processes but work for 1: 1 cell to compute, and processes share a cell in batches of at least 100 images"
    )
    assert noted in advdef(*command, "--n", "20").err
    assert "2 processes but" not in advdef(*command, "--n", "210").err


def test_zero_radius_leaves_the_clean_accuracy(advdef: Advdef, here: Path) -> None:
    """At eps 0 the robust accuracy of a switching defense equals the clean one for any attack, and so do the intervals."""
    options = (
        "--defense",
        "hrs",
        "--set",
        "channels=[2,2]",
        "--eps",
        "0",
        "--norm",
        "l2",
        "--epochs",
        "2",
        "--n",
        "30",
    )
    options = (
        *options,
        "--attack",
        "pgd",
        "--attack",
        "eot-pgd",
        "--attack",
        "cw",
        "--set",
        "cw.steps=3",
        "--set",
        "pgd.steps=2",
    )
    assert advdef("attack", *options, "-o", "table.csv").code == 0
    rows = table(here / "table.csv")
    assert [row["attack"] for row in rows] == ["pgd(steps=2)", "pgd(steps=2)", "cw(steps=3)", "worst-case"]
    assert [row["eot"] for row in rows] == ["exact", "10", "exact", ""]
    for row in rows:
        for end in ("", "_low", "_high"):
            assert row[f"robust_accuracy{end}"] == row[f"clean_accuracy{end}"]
        assert float(row["attack_success_rate"]) == 0


def test_an_attack_on_single_draws_is_flagged(advdef: Advdef, here: Path) -> None:
    """--eot 1 on a randomized defense runs, and the row has the flag no-eot."""
    command = (
        "attack",
        "--defense",
        "hrs",
        "--set",
        "channels=[2,2]",
        "--epochs",
        "2",
        "--n",
        "20",
        "--attack",
        "fgsm",
    )
    flagged = advdef(*command, "--eot", "1", "-o", "table.csv")
    assert flagged.code == 0
    assert table(here / "table.csv")[0]["flags"] == "no-eot"
    assert "no-eot: the attack followed one draw at a time" in flagged.out
    assert "no-eot" not in advdef(*command).out
    # A cascade is not for such a defense; the suite of the attack alone is.
    (here / "cascade.yaml").write_text("{cascade: true, attacks: [fgsm]}")
    cascade = advdef(*command[:-2], "--suite", "cascade.yaml").err
    assert "hrs(channels=[2,2]) is randomized, and a cascade is for deterministic defenses" in cascade
    assert "cascade is for" not in advdef(*command[:-2], "--suite", "randomized", "--set", "square.queries=2").err


def test_several_models_are_compared(advdef: Advdef, here: Path, checkpoint: Path) -> None:
    """A defense around a checkpoint gets a Defense Efficiency Score against the checkpoint itself."""
    base = ("--checkpoint", "model.safetensors", *FAST)
    assert advdef("attack", *base).code == 0
    assert advdef("attack", *base, "--defense", "gaussian-noise", "--repeats", "4").code == 0
    assert advdef("report", "-o", "table.csv", "-q").code == 0
    rows = table(here / "table.csv")
    assert [(row["defense"], row["repeats"], row["des"] != "") for row in rows] == [
        ("none", "1", False),
        ("gaussian-noise", "4", True),
    ]


def test_a_checkpoint_is_attacked_as_it_is(advdef: Advdef, here: Path, checkpoint: Path) -> None:
    """``--defense none`` adds nothing, and a defense that the checkpoint already has is not added again."""
    plain = advdef("attack", "--checkpoint", "model.safetensors", *FAST)
    named = advdef("attack", "--checkpoint", "model.safetensors", "--defense", "none", *FAST)
    assert named.out == plain.out
    noisy = ("--defense", "gaussian-noise", "--set", "sigma_init=0.1")
    assert advdef("train", *noisy, "--epochs", "1", "-o", "noisy.safetensors").code == 0
    ended = advdef(
        "attack", "--checkpoint", "noisy.safetensors", "--defense", "gaussian-noise", *FAST, "-o", "table.csv"
    )
    assert ended.code == 0
    assert table(here / "table.csv")[0]["defense"] == "gaussian-noise(sigma_init=0.1)"
    refused = error_line(advdef("attack", "--checkpoint", "noisy.safetensors", *noisy, *FAST))
    assert refused.startswith(
        "noisy.safetensors is trained with gaussian-noise(sigma_init=0.1) already: leave out --set"
    )


def test_every_attack_obeys_the_norm_or_is_an_error(advdef: Advdef, here: Path, checkpoint: Path) -> None:
    """For any attack and norm, the row has that norm and radius, or one line names the attacks that support it."""
    from robustbench_cli.attacks import registry
    from robustbench_cli.attacks.base.norm import NORMS

    outside = {"transfer", "ai-gan", "reprogramming"}
    (here / "model.yaml").write_text("checkpoint: model.safetensors")
    for name in sorted({*registry.names()} - outside):
        for norm in sorted({*NORMS} - {*registry.load(name).norms}):
            refused = error_line(
                advdef("attack", "--config", "model.yaml", "--attack", name, "--norm", norm, "--eps", "1", "--n", "2")
            )
            assert refused.startswith(f"{name} does not support the norm {norm} (it supports "), (name, norm)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            ("--attack", "cw", "--norm", "linf", "--eps", "8/255"),
            "cw does not support the norm linf (it supports l2); for linf use cw-linf",
        ),
        (
            ("--attack", "cw", "--norm", "linf"),
            "cw does not support the norm linf (it supports l2); for linf use cw-linf",
        ),
        (
            ("--attack", "cw-linf", "--norm", "l2"),
            "cw-linf does not support the norm l2 (it supports linf); for l2 use cw",
        ),
        (
            ("--attack", "pgd", "--attack", "ddn", "--norm", "l1", "--eps", "1"),
            "ddn does not support the norm l1 (it supports l2); for l1 use fab, fab-t or fmn",
        ),
        (
            ("--attack", "pgd", "--attack", "cw", "--eps", "8/255"),
            "--eps 8/255 is a radius in linf, the usual norm of these attacks: cw does not support the norm linf (it supports l2); for linf use cw-linf; or give --norm",
        ),
        (("--norm", "l0", "--eps", "3"), "pgd does not support the norm l0 (it supports linf, l2, l1)"),
    ],
)
def test_a_given_norm_is_never_ignored(
    advdef: Advdef, here: Path, checkpoint: Path, options: tuple[str, ...], line: str
) -> None:
    """An attack that does not support it is an error that names those that do."""
    refused = error_line(advdef("attack", "--checkpoint", "model.safetensors", *options, "--n", "2"))
    assert refused.startswith(line)


def test_default_attacks_run_in_the_norms_that_they_support(advdef: Advdef, here: Path, checkpoint: Path) -> None:
    """With --norm, only the default attacks that support it run; without it each runs in its own norm."""
    command = ("attack", "--checkpoint", "model.safetensors", "--n", "3", "-o", "table.csv")
    ended = advdef(*command, "--norm", "linf")
    assert (ended.code, {row["norm"] for row in table(here / "table.csv")}) == (0, {"linf"})
    assert "cw is left out: cw does not support the norm linf (it supports l2); for linf use cw-linf" in ended.err
    ended = advdef(*command, "--eps", "0.1")
    assert {row["norm"] for row in table(here / "table.csv")} == {"linf", "l2"}
    assert "cw does not support linf: it runs in l2, at any distance" in ended.err
    assert "does not support" not in advdef(*command, "--attack", "pgd", "--attack", "cw").err


@pytest.mark.parametrize("targeted", ["next", "random", "least-likely", "all"])
def test_targeted_attacks_run(advdef: Advdef, here: Path, checkpoint: Path, targeted: str) -> None:
    """The success rate counts the images that reach their target."""
    command = ("attack", "--checkpoint", "model.safetensors", *FAST, "--targeted", targeted)
    assert advdef(*command, "-o", "table.csv").code == 0
    (row,) = table(here / "table.csv")
    assert row["targeted"] == targeted
    assert 0 <= float(row["attack_success_rate"]) <= 1


def test_failed_cells_do_not_stop_the_others(advdef: Advdef, here: Path, checkpoint: Path) -> None:
    """Exit code 3, a line for each failed cell, the table of the others on stdout, and a traceback with ``-v``."""
    (here / "own.py").write_text(SLOW)
    command = ("attack", "--checkpoint", "model.safetensors", "--attack", "own.py:Broken", *FAST)
    ended = advdef(*command)
    assert ended.code == 3
    assert " fgsm " in ended.out
    assert "Broken" not in ended.out
    failed, resume = ended.err.splitlines()[-2:]
    assert failed.endswith("(none own.py:Broken) failed: RuntimeError: no way")
    assert "what was finished is stored; resume with: advdef attack" in resume
    assert "Traceback" not in ended.err
    assert "Traceback" in advdef(*command, "-v").err
    assert "Traceback" in advdef(*command, "-q", "-v").err
    alone = advdef("attack", "--checkpoint", "model.safetensors", "--attack", "own.py:Broken", *TINY)
    assert (alone.code, alone.out) == (3, "")
    assert "RuntimeError: no way" in advdef("report").err


def test_an_interrupted_run_keeps_the_finished_cells(advdef: Advdef, here: Path, checkpoint: Path) -> None:
    """SIGINT gives exit code 130, only complete results in the store, and the command that resumes."""
    (here / "own.py").write_text(SLOW)
    command = [
        "attack",
        "--checkpoint",
        "model.safetensors",
        "--attack",
        "fgsm",
        "--attack",
        "own.py:Slow",
        "--n",
        "40",
    ]
    running = subprocess.Popen(
        [sys.executable, "-m", "robustbench_cli", *command],
        env=os.environ | {"WAIT": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Processes that run in the background ignore SIGINT, and their children do too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no threads start here
    )
    assert running.stderr is not None
    lines = []
    while "waiting" not in (line := running.stderr.readline()):
        lines.append(line)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert (running.returncode, out) == (130, "")
    assert "interrupted: " in err
    assert err.rstrip().endswith(f"resume with: advdef {' '.join(command)}")
    assert "Traceback" not in err
    assert len([*(here / "advdef-runs" / "cells").glob("*.json")]) == 1
    assert not [*(here / "advdef-runs" / "cells").glob(".*")]
    ended = advdef(*command)
    assert ended.code == 0
    assert ended.err.splitlines()[0] == "1/2 cells cached in advdef-runs"
    assert len(ended.err.splitlines()) == 2


def test_a_damaged_result_is_an_error(advdef: Advdef, here: Path, checkpoint: Path) -> None:
    """The same command names the file to remove, and runs the cell once it is removed."""
    command = ("attack", "--checkpoint", "model.safetensors", *FAST)
    first = advdef(*command)
    (path,) = (here / "advdef-runs" / "cells").glob("*.json")
    path.write_text("{")
    ended = advdef(*command)
    assert (ended.code, ended.out) == (3, "")
    failed, resume = ended.err.splitlines()[-2:]
    assert f"{path.relative_to(here)} is damaged" in failed
    assert "resume with: advdef attack" in resume
    path.unlink()
    second = advdef(*command)
    assert second.code == 0
    assert figures(second.out) == figures(first.out)


def figures(table: str) -> list[str]:
    """The lines of the table without their times."""
    return StringIO(table).readlines()[4].split()[:-1]


def test_a_suite_is_a_cascade(advdef: Advdef, here: Path) -> None:
    """Each attack of ``--suite quick`` runs on the unbroken images of the one before; with ``--attack`` it is an error."""
    ended = advdef("attack", "--suite", "quick", *TINY, "-o", "t.csv")
    assert ended.code == 0
    rows = list(csv.DictReader(StringIO(Path("t.csv").read_text(encoding="utf-8"))))
    assert [row["attack"] for row in rows] == ["cw-pgd(steps=20)", "'+pgd(steps=20)", "worst-case"]
    first, second, worst = (float(row["robust_accuracy"]) for row in rows)
    assert first >= second == worst
    ended = advdef("attack", "--suite", "quick", "--attack", "pgd", *TINY)
    assert ended.code == 2
    assert "--suite" in ended.err
    ended = advdef("attack", "--suite", "quik", *TINY)
    assert (ended.code, ended.err) == (
        2,
        "advdef: error: unknown suite 'quik': did you mean 'quick'? (or give the path of a .yaml file)\n",
    )


def test_decision_rules_and_a_frozen_draw(advdef: Advdef, here: Path, checkpoint: Path) -> None:
    """A randomized model has one row per rule and a deterministic one a single row; ``--eot frozen`` is flagged."""
    options = (
        "--defense",
        "noise-injection",
        "--set",
        "sigma=0.3",
        "--attack",
        "pgd",
        "--set",
        "pgd.steps=3",
        "--n",
        "20",
    )
    rules = ("--decision", "one-draw", "--decision", "deterministic", "--decision", "frozen")
    base = ("--checkpoint", str(checkpoint))
    assert advdef("attack", *base, *options, *rules, "--eps", "0.1", "-o", "rules.csv").code == 0
    rows = table(here / "rules.csv")
    assert [(row["defense"], row["eot"], row["repeats"]) for row in rows] == [
        ("noise-injection(sigma=0.3)", "10", "10"),
        ("noise-injection(decision=deterministic,sigma=0.3)", "1", "1"),
        ("noise-injection(decision=frozen,sigma=0.3)", "1", "1"),
    ]
    assert len({row["cell"] for row in rows}) == 3
    assert len({row["checkpoint"] for row in rows}) == 1
    assert advdef("attack", *base, *options, "--eot", "frozen", "--eps", "0.1", "-o", "frozen.csv").code == 0
    (row,) = table(here / "frozen.csv")
    assert (row["eot"], row["repeats"], row["flags"]) == ("frozen", "10", "no-eot")
    assert float(row["robust_accuracy"]) >= float(rows[0]["robust_accuracy"]) - 0.05
    assert advdef("attack", *base, *FAST[:2], "--n", "20", *rules, "--eps", "0.1", "-o", "plain.csv").code == 0
    assert [row["defense"] for row in table(here / "plain.csv")] == ["none"]


def test_the_choices_of_decision_are_the_decision_rules() -> None:
    """The values of ``--decision`` are those of the parameter of a defense."""
    assert get_args(DecisionRule) == DECISIONS


def test_normalizations_of_one_file_are_distinguished(advdef: Advdef, here: Path, checkpoint: Path) -> None:
    """By the columns ``mean``, ``std`` and the checkpoint's hash in files, and by a text on the terminal and in gates."""
    save_file({name: tensor.clone() for name, tensor in load_file(checkpoint).items()}, here / "foreign.safetensors")
    options = ("--model", "small-cnn", "--classes", "10", "--dataset", "digits", "--attack", "fgsm", "--n", "40")
    foreign = ("--checkpoint", "foreign.safetensors", *options)
    for more in ((), ("--mean", "0.5", "--std", "0.25"), ("--mean", "0.4", "--std", "0.25")):
        assert advdef("attack", *foreign, *more, "-q").code == 0
    assert advdef("report", "-o", "table.csv", "-q").code == 0
    rows = table(here / "table.csv")
    assert sorted((row["mean"], row["std"]) for row in rows) == [("", ""), ("0.4", "0.25"), ("0.5", "0.25")]
    assert len({row["checkpoint_sha256"] for row in rows}) == 3
    assert [*rows[0]][28:34] == ["device", "cell", "eps_value", "mean", "std", "checkpoint_sha256"]
    assert {float(row["eps_value"]) for row in rows} == {0.15}
    lines = [line.split() for line in advdef("report").out.splitlines()]
    assert ["none", "0.5", "0.25", "fgsm"] in [line[:4] for line in lines]
    assert ["none", "-", "-", "fgsm"] in [line[:4] for line in lines]
    ended = advdef("report", "--where", "mean=0.5", "--fail-under", "robust_accuracy=1")
    assert "digits small-cnn (mean 0.5 std 0.25) none fgsm linf eps 0.15 n 40: robust_accuracy" in ended.err
    gate = ("--baseline", "table.csv", "--max-drop", "robust_accuracy=0", "--strict")
    assert advdef("report", *gate).code == 0


def test_changed_weights_of_one_file_are_distinguished(advdef: Advdef, here: Path, checkpoint: Path) -> None:
    """Two models with one file name in one store have the first characters of their hashes in the table."""
    command = ("attack", "--checkpoint", "model.safetensors", *FAST, "-q")
    assert advdef(*command).code == 0
    assert advdef("train", "--epochs", "1", "-o", "other.safetensors", "-q").code == 0
    (here / "other.safetensors").rename(checkpoint)
    assert advdef(*command).code == 0
    assert "sha256" in advdef("report").out
    assert "sha256" not in advdef(*command).out


def test_a_file_name_that_is_not_utf_8_is_reported(advdef: Advdef, here: Path, checkpoint: Path) -> None:
    """Every output format escapes its bytes; where the name cannot be stored, one line says so."""
    name = os.fsdecode(b"caf\xe9.safetensors")
    checkpoint.rename(here / name)
    command = ("attack", "--checkpoint", name, *FAST, "-q")
    assert advdef(*command, "--store", os.fsdecode(b"runs\xe9"), "-o", os.fsdecode(b"t\xe9.csv")).code == 0
    assert table(here / os.fsdecode(b"t\xe9.csv"))[0]["checkpoint"] == "caf\\xe9.safetensors"
    assert advdef("report", os.fsdecode(b"runs\xe9"), "--format", "json").code == 0
    ended = advdef("attack", "--checkpoint", name, "--attack", "transfer", "--set", f"surrogate={name}", "--n", "3")
    assert (ended.code, len(ended.err.splitlines())) == (2, 1)
    assert "is not UTF-8" in ended.err


MEDDLING = """
import sys, warnings
import torch
from torch import nn

class Net(nn.Sequential):
    trained = True

    def __init__(self, *, shape, classes):
        super().__init__(nn.Flatten(), nn.Linear(64, classes))

    def forward(self, images):
        logits = super().forward(images)
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        warnings.simplefilter("error")
        sys.stdout.close()
        return logits
"""


def test_a_model_that_changes_global_state_is_attacked(advdef_process: Callable[..., Any], here: Path) -> None:
    """Every forward pass changes torch's default type, gradients and warnings, and closes stdout."""
    (here / "own.py").write_text(MEDDLING)
    ended = advdef_process("attack", "--model", "own.py:Net", "--attack", "pgd", "--attack", "ddn", "--n", "5", "-q")
    assert (ended.code, " ddn " in ended.out, "error" in ended.err) == (0, True, False), ended


@pytest.mark.parametrize(("n", "warned"), [(("--n", "1000000"), True), ((), False), (("--n", "500"), False)])
def test_more_images_than_the_data_set_has(
    checkpoint: Path, advdef: Callable[..., Any], n: tuple[str, ...], warned: bool
) -> None:
    """A number of images above the data set's gives a warning, and the row has the actual number."""
    ended = advdef("attack", "--checkpoint", str(checkpoint), "--attack", "fgsm", *n, "-q", "-o", "a.csv")
    assert ended.code == 0
    line = "advdef: warning: --n 1000000: digits has 500 test images, and all of them are used\n"
    assert ended.err == (line if warned else "")
    (row,) = csv.DictReader(Path("a.csv").read_text().splitlines())
    assert row["n"] == "500"


def test_an_attack_of_another_library_is_a_row_like_any_other(
    advdef: Advdef, advdef_process: Advdef, here: Path, checkpoint: Path
) -> None:
    """Its parameters are set and shown, its cell resumes, and a report of the store imports nothing of the library."""
    command = (
        "attack",
        "--checkpoint",
        str(checkpoint),
        "--attack",
        "torchattacks:PGD",
        "--attack",
        "foolbox:L2DeepFoolAttack",
    )
    command = (*command, "--set", "torchattacks:PGD.steps=2", "--set", "candidates=3", "--n", "20")
    ended = advdef(*command, "-o", "table.csv")
    assert ended.code == 0, ended.err
    rows = table(here / "table.csv")
    assert [(row["attack"], row["norm"]) for row in rows] == [
        ("torchattacks:PGD(steps=2)", "linf"),
        ("foolbox:L2DeepFoolAttack(candidates=3)", "l2"),
    ]
    assert all(float(row["robust_accuracy"]) < float(row["clean_accuracy"]) for row in rows)
    # Two steps, the scoring of 20 images before and after them, and what measures the model.
    assert 80 <= int(rows[0]["forwards"]) <= 160
    assert int(rows[0]["backwards"]) >= 40
    assert "2/2 cells cached" in advdef(*command).err
    (here / "torchattacks.py").write_text("raise SystemExit('imported')")
    reported = advdef_process("report")
    assert reported.code == 0
    assert "torchattacks:PGD(steps=2)" in reported.out


def test_a_gate_may_be_decided_early(advdef: Advdef, here: Path, checkpoint: Path) -> None:
    """The row says how many images were attacked; it is a cell of its own, and what cannot stop early is refused."""
    command = ("attack", "--checkpoint", "model.safetensors", "--eps", "0.3", "--n", "300", "-q")
    stop = ("--attack", "pgd", "--stop-when-decided", "0.9")
    ended = advdef(*command, *stop, "--fail-under", "robust_accuracy=0.9", "-o", "table.csv")
    assert ended.code == 1, ended.err
    assert "decides only" not in ended.err
    other = advdef(*command, *stop, "--fail-under", "robust_accuracy=0.1")
    assert "it decides only --fail-under robust_accuracy=0.9" in other.err
    found = list(csv.DictReader(StringIO((here / "table.csv").read_text())))
    assert [(row["attack"], row["n"], row["stop_when_decided"]) for row in found] == [("pgd", "50", "0.9")]
    assert advdef(*command, "--attack", "fgsm", "--stop-when-decided", "0.9").code == 0
    assert (
        advdef("report", "--compare", "attack").err.strip().endswith("no two rows can be compared: the images differ")
    )
    for words, line in [
        (("--attack", "cw-linf"), "stop_when_decided is for attacks within a radius, and cw-linf searches once"),
        # Each may pass the limit where the per-image worst case of both fails it.
        (("--attack", "fgsm", "--attack", "pgd"), "not what 2 attacks (fgsm, pgd) leave together: give one attack"),
        (("--suite", "standard"), "stop_when_decided judges each attack alone"),
        (("--attack", "pgd", "--save-images", "images"), "--save-images saves all images"),
    ]:
        refused = advdef(*command, *words, "--stop-when-decided", "0.9")
        assert (refused.code, len(refused.err.splitlines())) == (2, 1), refused.err
        assert line in refused.err
    assert advdef(*command, "--attack", "pgd", "--stop-when-decided", "40").code == 2

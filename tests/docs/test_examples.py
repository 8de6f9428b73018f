"""The commands of the pages run as they stand, on fewer images and in one epoch, in a folder with the files that a page names."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision

from .test_pages import PAGES, ROOT, blocks, commands_of

NOT_RUN = {
    r"^demo": ".ci/run runs it, from the wheel",
    r"timm:|hf-hub:|open-clip:|robustbench:|--weights|cifar10|imagenet": "needs a download; tests/benchmarks has made-up files",
    r"imagefolder:": "test_first_imagenet_model.py has the photographs",
    r"--gpus": "needs GPUs",
    r"^sweep mine\.yaml": "tests/cli/commands/test_sweep.py runs sweeps in several processes and shares",
    r"--jobs auto": "tests/cli/commands/test_attack.py splits cells",
    r"--suite corruptions|--corruption all|corruption=mean|mean_corruption|corruption-baseline": (
        "75 cells or more; tests/cli/commands runs the suite on a few"
    ),
    r"7d136626f70f": "cells of a store that nobody else has",
    r"gate\.yaml|--set train\.epochs=10": "test_pipelines.py runs the whole page",
    r"smoothed|bounded|ibp|at\.safetensors .*--eps 0\.01": "tests/cli/commands/test_certify.py certifies such models",
}
"""Commands that are only parsed, by a pattern, and the reason."""

SMALLER = {"fashion-mnist": "digits", "standard": "quick"}
"""Words that are replaced: data that train in seconds, and a suite without 5,000 queries."""

COMMANDS = {page: [words for block in blocks(page, "sh") for words in commands_of(block)] for page in PAGES}


def reason(words: list[str]) -> str | None:
    """Why a command is not run."""
    return next((text for pattern, text in NOT_RUN.items() if re.search(pattern, shlex.join(words))), None)


def smaller(words: list[str]) -> list[str]:
    """The command on two images, in one epoch, with the smallest budget."""
    small = [SMALLER.get(word, word) for word in words]
    for option, value in (("--n", "2"), ("--epochs", "1"), ("--seconds", "5"), ("--passes", "8000")):
        if option in small:
            small[small.index(option) + 1] = value
    if small[0] == "audit" and "--checkpoint" in small and "--budget" not in small:
        small += ["--budget", "quick"]
    return small


def shrink(environment: pytest.MonkeyPatch) -> None:
    """Takes two images and one epoch, where a command does not say how many."""
    environment.setenv("ADVDEF_EPOCHS", "1")
    environment.setenv("ADVDEF_N", "2")


@pytest.fixture
def store(
    advdef: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A store with two models under two attacks at two radii, which is computed once."""
    store = tmp_path_factory.getbasetemp() / "store-of-pages"
    if not store.exists():
        for defense in ("none", "hrs"):
            with monkeypatch.context() as context:
                shrink(context)
                words = ("--attack", "pgd", "--attack", "cw-pgd", "--eps", "0.05", "--eps", "0.15")
                ended = advdef("attack", "--defense", defense, *words, "--store", str(store))
            assert ended.code == 0, ended.err
    return store


def make_files(page: Path, folder: Path, advdef: Callable[..., Any], store: Path) -> None:
    """The files that a page shows, and those that it says are the reader's."""
    for name, text in re.findall(r"```python\n# (\S+\.py)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        (folder / name).write_text(text, encoding="utf-8")
    text = "\n".join(shlex.join(words) for words in COMMANDS[page])
    # A page whose first command is an attack fills its store itself.
    first = next(words[0] for words in COMMANDS[page] if reason(words) is None)
    usual = set() if first in {"attack", "train"} else {"advdef-runs"}
    for name in {"STORE", "other-runs"} & {*shlex.split(text)} | usual:
        shutil.copytree(store, folder / name)
    theirs = {*re.findall(r"--checkpoint (\w+\.safetensors)", text)} - {*re.findall(r"-o (\S+)", text)}
    for name in theirs:
        assert advdef("train", "--defense", "gaussian-noise", "-o", name).code == 0
    if "main.csv" in text:
        attacked = advdef(
            *("attack", "--checkpoint", "model.safetensors", "--attack", "pgd", "--attack", "cw-pgd"),
            *("--eps", "8/255", "--store", "main-runs", "-o", "main.csv"),
        )
        assert attacked.code == 0, attacked.err
    if "mine.yaml" in text:
        (folder / "mine.yaml").write_text("attacks: [pgd, {suite: quick}]\n", encoding="utf-8")
    if "resnet.pt" in text:
        torch.save(torchvision.models.resnet18(num_classes=10).state_dict(), folder / "resnet.pt")
        images, labels = np.zeros((12, 3, 32, 32), np.float32), np.arange(12) % 10
        np.savez(folder / "mydata.npz", images=images, labels=labels)


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if any(reason(words) is None for words in COMMANDS[page])],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_the_commands_of_a_page_run(
    page: Path, advdef: Callable[..., Any], store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each command ends with 0, or with 1 where it is a gate; what one stores, the next one finds."""
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as context:
        shrink(context)
        make_files(page, tmp_path, advdef, store)
    for words in COMMANDS[page]:
        if reason(words) is not None:
            continue
        with monkeypatch.context() as context:
            if words[0] in {"attack", "train"} or "--budget" in smaller(words):
                shrink(context)
            if {"--seconds", "--passes"} & {*words}:
                context.delenv("ADVDEF_EPOCHS")
            ended = advdef(*smaller(words))
        gate = any(word.startswith(("--fail-", "--max-", "--strict")) for word in words)
        assert ended.code in ({0, 1} if gate else {0}), f"{shlex.join(words)}: {ended.err}"
        if "-o" in words:
            assert (tmp_path / words[words.index("-o") + 1]).exists()


@pytest.mark.parametrize("pattern", NOT_RUN)
def test_a_command_that_is_not_run_is_on_a_page(pattern: str) -> None:
    """A reason without a command goes."""
    assert any(re.search(pattern, shlex.join(words)) for found in COMMANDS.values() for words in found)

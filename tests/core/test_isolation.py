from __future__ import annotations

import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

from robustbench_cli.core.isolation import isolate_passes, isolated


def meddle() -> None:
    """Changes all that a user's code may change of the process."""
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    torch.set_num_threads(torch.get_num_threads() + 1)
    warnings.simplefilter("error")


class Meddling(nn.Linear):
    """A layer that does so in each pass."""

    fails = False

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = super().forward(images)
        meddle()
        if self.fails:
            raise RuntimeError("no way")
        return logits


def state() -> tuple[object, ...]:
    """What is to be as it was."""
    filters = tuple(warnings.filters)
    return torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads(), filters


def test_what_code_changes_is_as_it_was() -> None:
    """Also where it fails."""
    before = state()
    with isolated():
        meddle()
        assert state() != before
    assert state() == before
    with pytest.raises(ZeroDivisionError), isolated():
        meddle()
        raise ZeroDivisionError
    assert state() == before


@pytest.mark.parametrize("fails", [False, True])
def test_each_pass_leaves_all_as_it_was(fails: bool) -> None:
    """And has a gradient; a copy of the model does so too."""
    model = isolate_passes(Meddling(3, 2))
    model.fails = fails
    before = state()
    images = torch.ones(1, 3, requires_grad=True)
    if fails:
        with pytest.raises(RuntimeError, match="no way"):
            model(images)
    else:
        model(images).sum().backward()
        assert images.grad is not None
    assert state() == before
    with torch.no_grad():
        if not fails:
            model(images)
        assert not torch.is_grad_enabled()


@pytest.mark.parametrize("how", ["os.close(1); os.close(2)", "sys.stdout.close(); sys.stderr.close()"])
def test_streams_that_code_closes_are_open_again(how: str) -> None:
    """By their number and by their name."""
    code = f"""
import os, sys
from robustbench_cli.core.isolation import isolated
with isolated():
    {how}
print("report", flush=True)
print("note", file=sys.stderr, flush=True)
os.write(1, b"more")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "report\nmore", "note\n")

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from robustbench_cli.benchmarks.checkpoints.checkpoint import load_checkpoint


def test_torchrun_trains_like_one_process(advdef: Callable[..., Any], tmp_path: Path) -> None:
    """The weights of a deterministic model are equal up to rounding; the checkpoint and the report come once."""
    words = ["train", "--dataset", "digits", "--epochs", "2", "--set", "train.optimizer=sgd", "--set", "train.lr=0.05"]
    alone, together = tmp_path / "alone.safetensors", tmp_path / "together.safetensors"
    assert advdef(*words, "-o", str(alone)).code == 0
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launcher, "-m", "robustbench_cli", *words, "--device", "cpu", "-o", str(together)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{together}: small-cnn with no defense on digits, deterministic, clean accuracy ")
    assert done.stdout.count("small-cnn with no defense") == 1
    expected = load_checkpoint(alone).model.state_dict()
    for name, tensor in load_checkpoint(together).model.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-5)

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from robustbench_cli.benchmarks.checkpoints.checkpoint import CheckpointInfo, save_checkpoint
from robustbench_cli.benchmarks.checkpoints.defended_model import method_spec, open_defended_model
from robustbench_cli.benchmarks.comparison import latency
from robustbench_cli.benchmarks.comparison.latency import compare_latency
from robustbench_cli.benchmarks.models.base.build import build_model
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses import registry
from robustbench_cli.defenses.gdws import GDWS


@pytest.fixture
def checkpoints(tmp_path: Path) -> list[Path]:
    """A network, and one with factorized convolutions in the place of its own."""
    torch.manual_seed(0)
    network = build_model("small-cnn", shape=(1, 8, 8), classes=10)
    plain, factorized = (
        CheckpointInfo(model="small-cnn", shape=(1, 8, 8), classes=10),
        method_spec(registry, "gdws", {}),
    )
    save_checkpoint(tmp_path / "plain.safetensors", network, plain)
    made = GDWS().protect(network, torch.zeros(1, 1, 8, 8))
    save_checkpoint(tmp_path / "gdws.safetensors", made, plain.model_copy(update={"defenses": (factorized.spec,)}))
    return [tmp_path / "plain.safetensors", tmp_path / "gdws.safetensors"]


def test_all_models_run_in_turn_beside_their_networks(
    checkpoints: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same rows on each side, and the dense side has the convolutions of the network; the clock is replaced."""
    layers: dict[str, list[int]] = {}
    rows: list[int] = []

    def count(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if isinstance(module, nn.Conv2d):
            rows.append(len(inputs[0]))

    def once(runs: Mapping[str, Callable[[], object]], *, turns: int) -> dict[str, list[float]]:
        for name, run in runs.items():
            rows.clear()
            run()
            layers[name] = rows.copy()
        return {name: [4.0 if name == "model 1" else 2.0] * turns for name in runs}

    monkeypatch.setattr(latency, "in_turn", once)
    monkeypatch.setattr(latency, "_BATCHES", {3: 2})
    hook = nn.modules.module.register_module_forward_pre_hook(count)
    compare_latency(checkpoints, turns=1)
    hook.remove()
    convolutions = 2 * sum(
        isinstance(layer, nn.Conv2d) for layer in open_defended_model(checkpoints[0]).load().modules()
    )
    assert layers["model 0"] == layers["network 0"] == layers["network 1"] == [3] * convolutions
    assert len(layers["model 1"]) > convolutions
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()[5:]]
    size = open_defended_model(checkpoints[0]).size
    assert table[0] == ["plain.safetensors", f"{size.parameters:,}", f"{size.nonzero:,}", f"{size.macs:,}", "1.00"]
    assert (table[1][0], table[1][-1]) == ("gdws.safetensors", "2.00")


def test_without_a_model_it_says_what_to_give() -> None:
    with pytest.raises(UserError, match="give --checkpoints FILE"):
        compare_latency([], turns=1)

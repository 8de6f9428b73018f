from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel, method_spec
from robustbench_cli.benchmarks.checkpoints.footprint import Footprint, footprint
from robustbench_cli.benchmarks.checkpoints.size import ModelSize
from robustbench_cli.benchmarks.training.model_cache import ModelCache
from robustbench_cli.defenses import registry

OWN = """
from torch import nn

__all__ = ["Own"]

class Own(nn.Sequential):
    def __init__(self, shape, classes):
        pixels = shape[0] * shape[1] * shape[2]
        super().__init__(nn.Flatten(), nn.Linear(pixels, 40), nn.ReLU(), nn.Linear(40, 20), nn.ReLU(), nn.Linear(20, classes))
"""
FIRST, SECOND, LAST = 64 * 40, 40 * 20, 20 * 10
"""The weights of its layers, each of which is multiplied and added once for an image."""


def test_hrs_takes_what_its_channels_take(cache: Callable[..., ModelCache], tmp_path: Path) -> None:
    """Parameters of every channel, operations of one path or of all, counted by hand from the layers' sizes."""
    (tmp_path / "own.py").write_text(OWN)
    prepared = cache()
    defense = method_spec(registry, "hrs", {"channels": [3, 2], "split": ["2"]}).spec
    training = prepared.training(model=f"{tmp_path / 'own.py'}:Own", defenses=(defense,))
    defended = prepared.trained(training, tmp_path / "hrs.safetensors")
    found = footprint(defended)
    before, after = FIRST + 40, SECOND + 20 + LAST + 10
    assert (found.size.parameters, found.network.parameters) == (3 * before + 2 * after, before + after)
    assert found.size.macs == found.network.macs == FIRST + SECOND + LAST
    all_draws = 3 * FIRST + 3 * 2 * (SECOND + LAST)
    assert found.cost_of_all_draws == pytest.approx(all_draws / (FIRST + SECOND + LAST))
    assert [name for name, _ in found.seconds] == ["block 1", "block 2"]
    words = str(found)
    assert words.startswith(
        f"{found.size.parameters:,} parameters, {found.size.parameters / found.network.parameters:.1f} times"
    )
    assert words.endswith(f"a pass costs 1.0 of the network's, all draws {found.cost_of_all_draws:.1f}")
    (mean, exact) = (footprint(defended.with_decision(rule)) for rule in ("mean", "exact"))
    assert (mean.size.macs, exact.size.macs) == (10 * found.size.macs, all_draws)
    assert mean.size.parameters == found.size.parameters
    assert (mean.cost_of_all_draws, exact.cost_of_all_draws) == (None, None)


def test_what_is_not_there_is_not_told(defended: DefendedModel) -> None:
    """A deterministic model has no draws to count, and one network was trained."""
    assert str(footprint(defended)).count(";") == 2
    assert "draws" not in str(footprint(defended))
    assert "(" not in str(footprint(defended))
    uncounted = ModelSize(parameters=10, nonzero=10, macs=None)
    words = str(Footprint(size=uncounted, network=defended.size, cost_of_all_draws=None, seconds=()))
    assert words.startswith("10 parameters, ")
    assert "costs" not in words

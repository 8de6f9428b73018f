from __future__ import annotations

import numpy as np
import pytest
import torch

from robustbench_cli.benchmarks.comparison.optimality import local_optimality


def test_it_is_the_area_between_the_curves() -> None:
    """It equals numpy's integrals of both curves on a fine grid, for random distances and one failure."""
    generator = np.random.default_rng(0)
    best = generator.uniform(0, 2, 50)
    best[:5] = 0
    distances = best * generator.uniform(1, 1.5, 50)
    distances[-1] = np.inf
    radii = np.linspace(0, best.max(), 200_001)

    def area(lengths: np.ndarray) -> float:
        accuracy = 1 - np.searchsorted(np.sort(lengths), radii, side="right") / len(lengths)
        return float(np.trapezoid(accuracy, radii))

    worst = 0.9 * best.max()
    expected = 1 - (area(distances) - area(best)) / (worst - area(best))
    assert local_optimality(torch.from_numpy(distances), torch.from_numpy(best)) == pytest.approx(expected, abs=1e-4)


def test_the_ends_of_the_scale() -> None:
    """The best attack has 1 and one without success 0; infinite best distances are an error."""
    best = torch.tensor([0.5, 1.0, 2.0])
    assert local_optimality(best, best) == 1
    assert local_optimality(torch.full((3,), torch.inf), best) == 0
    with pytest.raises(ValueError, match="finite"):
        local_optimality(best, torch.tensor([1.0, torch.inf, 0.5]))

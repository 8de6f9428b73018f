from __future__ import annotations

import numpy as np
import pytest
import torch

from robustbench_cli.benchmarks.comparison.optimality import local_optimality


def test_it_is_the_share_of_the_area_between_the_curves() -> None:
    """The same as with both curves integrated on a fine grid by numpy, of random distances and a failure."""
    generator = np.random.default_rng(0)
    best = generator.uniform(0, 2, 50)
    best[:5] = 0
    found = best * generator.uniform(1, 1.5, 50)
    found[-1] = np.inf
    radii = np.linspace(0, best.max(), 200_001)

    def area(distances: np.ndarray) -> float:
        standing = 1 - np.searchsorted(np.sort(distances), radii, side="right") / len(distances)
        return float(np.trapezoid(standing, radii))

    worst = 0.9 * best.max()
    expected = 1 - (area(found) - area(best)) / (worst - area(best))
    assert local_optimality(torch.from_numpy(found), torch.from_numpy(best)) == pytest.approx(expected, abs=1e-4)


def test_the_best_attack_has_one_and_one_that_finds_nothing_zero() -> None:
    """The ends of the scale; without a best distance there is none."""
    best = torch.tensor([0.5, 1.0, 2.0])
    assert local_optimality(best, best) == 1
    assert local_optimality(torch.full((3,), torch.inf), best) == 0
    with pytest.raises(ValueError, match="finite"):
        local_optimality(best, torch.tensor([1.0, torch.inf, 0.5]))

from __future__ import annotations

from pathlib import Path

import numpy as np

from robustbench_cli.benchmarks.comparison.simulated_store import simulate_store
from robustbench_cli.benchmarks.store.store import Store, raise_error
from robustbench_cli.benchmarks.store.together import verified


def test_a_simulated_store_is_a_whole_store(tmp_path: Path) -> None:
    """It has the cells that its request names, and no image that is broken at a radius is right at a larger one."""
    simulate_store(tmp_path, cells=80, images=30)
    store = Store(tmp_path)
    results = list(verified(store, damaged=raise_error))
    assert {result.cell.id for result in results} == store.requested().keys()
    assert sorted(len(result.cell.defenses) for result in results) == [0] * 40 + [1] * 40
    right = {
        (result.cell.checkpoint, result.cell.attack.name, result.cell.eps): store.outcomes_of(result).worst_right
        for result in results
    }
    assert len(right) == 80
    radii = sorted({eps for _, _, eps in right if eps is not None})
    for checkpoint, attack, _ in right:
        at_radii = np.concatenate([right[checkpoint, attack, eps] for eps in radii])
        assert (at_radii[:-1] >= at_radii[1:]).all()

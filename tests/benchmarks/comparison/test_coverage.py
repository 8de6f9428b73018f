from __future__ import annotations

import pytest
from scipy import stats

from robustbench_cli.benchmarks.comparison.coverage import (
    ACCURACIES,
    KINDS,
    Kind,
    compare_coverage,
    coverage,
    false_alarms,
    gate_errors,
)

SIMULATED = 150
MOST_MISSES = int(stats.binom.ppf(1 - 1e-6, SIMULATED, 0.07))


@pytest.mark.parametrize("accuracy", ACCURACIES)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_intervals_hold_the_truth(kind: Kind, accuracy: float) -> None:
    """Of 150 evaluations of 500 images no more miss than a coverage of 93 % explains, at a level of 1e-6."""
    held = SIMULATED * coverage(kind, accuracy, images=500, simulations=SIMULATED)
    assert SIMULATED - held <= MOST_MISSES


def test_what_has_no_variance_is_told_apart() -> None:
    """Two equal models never alarm; a gate whose first image decides takes one image."""
    kind = next(kind for kind in KINDS if kind.name == "deterministic")
    assert false_alarms(kind, 1 - 1e-12, images=50, simulations=3) == 0
    assert gate_errors(0.0, 0, images=20, simulations=3) == (0.0, 1 / 20)


def test_the_tables(capsys: pytest.CaptureFixture[str]) -> None:
    """A row for each kind and a column for each accuracy; a gate ten points away takes less than half of the images."""
    compare_coverage(images=500, simulations=2)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "2 simulated evaluations of 500 images, 10 draws of randomized models"
    for kind in KINDS:
        cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
        first, second = (line for line in cells if line[:1] == [kind.name])
        assert (len(first), len(second)) == (1 + len(ACCURACIES), 4)
    clear = [line.split("|")[1:-1] for line in lines if line.startswith(("| 0.4", "|   0.4"))]
    used = {float(accuracy): float(images.rstrip(" %")) for _, accuracy, _, images in clear}
    assert max(used[0.3], used[0.5]) <= 50

from __future__ import annotations

from pathlib import Path

import pytest

from robustbench_cli.benchmarks.suites import size
from robustbench_cli.benchmarks.suites.load import read_suite
from robustbench_cli.benchmarks.suites.size import require_reasonable_size
from robustbench_cli.core.errors import UserError

SUITE = """
defenses: [none, {name: gaussian-noise, sigma_init: [0.1, 0.2, 0.3]}, [{name: jpeg, quality: [50, 75]}, feature-squeezing]]
attacks: [fgsm, {name: pgd, steps: [5, 10], restarts: [1, 2]}]
train: {epochs: [1, 2], seed: [0, 1, 2]}
eps: [0.1, 0.2]
seeds: [0, 1, 2, 3]
targeted: ['no', next]
n: 20
"""


def test_every_list_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six defenses by five attacks, six trainings, two radii, four seeds and two choices of targets."""
    path = tmp_path / "suite.yaml"
    path.write_text(SUITE)
    monkeypatch.setattr(size, "MOST_COMBINATIONS", 6 * 6 * 5 * 2 * 4 * 2)
    require_reasonable_size(read_suite(str(path)))
    monkeypatch.setattr(size, "MOST_COMBINATIONS", 6 * 6 * 5 * 2 * 4 * 2 - 1)
    with pytest.raises(UserError) as raised:
        require_reasonable_size(read_suite(str(path)))
    assert str(raised.value) == (
        "the suite has 2,880 combinations (6 defenses x 6 trainings x 5 attacks x 2 eps x 4 seeds x 2 targeted), more "
        "than 2,879: shorten a list, or split the suite into several files, which may share a store"
    )


def test_a_huge_suite_is_refused_before_it_is_expanded(tmp_path: Path) -> None:
    """A quadrillion of combinations, which no memory holds, ends in one line."""
    values = ", ".join(f"0.{number:03}" for number in range(1, 1000))
    path = tmp_path / "suite.yaml"
    path.write_text(
        f"attacks: [{{name: pgd, step_size: [{values}], l1_sparsity: [{values}]}}]\n"
        f"defenses: [{{name: gaussian-noise, sigma_init: [{values}]}}]\neps: [{values}]\nseeds: [{', '.join(map(str, range(1000)))}]"
    )
    with pytest.raises(
        UserError, match=r"has 996,005,996,001,000 combinations \(999 defenses x 998,001 attacks x 999 eps x"
    ):
        require_reasonable_size(read_suite(str(path)))

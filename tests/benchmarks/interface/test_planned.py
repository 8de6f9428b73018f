"""The attacks that a Python user names become the cells of a suite."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import robustbench_cli as advdef
from robustbench_cli.attacks import registry as attacks
from robustbench_cli.attacks.base.models.measured_model import MeasuredModel
from robustbench_cli.benchmarks.datasets.base.slice import Slice
from robustbench_cli.benchmarks.evaluation.options import EvaluationOptions
from robustbench_cli.benchmarks.interface.planned import Named, PlannedAttacks, described
from robustbench_cli.benchmarks.suites.names import suite_names
from robustbench_cli.core.errors import UserError

PIXELS = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def labels_and_norms(named: Named, *, has_norm: bool = False, norm: str | None = None) -> list[tuple[str, str]]:
    """The label and the norm of each cell on a small network at the radius 0.1."""
    planned = PlannedAttacks(named)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval().requires_grad_(False)
    defended = described(MeasuredModel(model, PIXELS), 3)
    options = EvaluationOptions(eps=0.1, norm=planned.norm(norm))
    examples = Slice(images=PIXELS, labels=torch.tensor([0, 1, 2, 0]), sha256="")
    jobs = planned.jobs(defended, examples, options, eps="0.1", has_norm=has_norm)
    return [(job.cell.attack_label, job.cell.norm) for job in jobs]


def test_no_suite_has_the_name_of_an_attack() -> None:
    """So a name means one thing."""
    assert not {*suite_names()} & {*attacks.names()}


def test_the_default_attacks_are_those_of_the_command_line() -> None:
    """In a norm that the user chooses, only those that support it run."""
    assert labels_and_norms(None) == [("pgd", "linf"), ("cw-pgd", "linf"), ("cw", "l2")]
    assert labels_and_norms(None, norm="linf", has_norm=True) == [("pgd", "linf"), ("cw-pgd", "linf")]


def test_the_attacks_of_a_suite_run_in_the_norm_that_they_support() -> None:
    """``fab-t`` is in the suite for l1 alone."""
    names = [name.partition("(")[0] for name, _ in labels_and_norms("standard")]
    assert names == ["pma", "+apgd-ce", "+malt", "+fmn", "+square", "+hopskipjump"]


def test_a_model_in_memory_is_a_parameter_like_any_other() -> None:
    """The attack that runs is the very one that was given."""
    attack = advdef.Transfer(surrogate=nn.Linear(2, 2))
    planned = PlannedAttacks([attack, advdef.Transfer(surrogate=nn.Linear(2, 2))])
    specs = [choice.spec for _, choices in planned._groups for choice in choices]
    assert planned.attack(specs[0]) is attack
    assert specs[0].canonical_identity != specs[1].canonical_identity


def test_a_suite_that_corrupts_is_refused(tmp_path: Path) -> None:
    """The images are the caller's."""
    path = tmp_path / "foggy.yaml"
    path.write_text("corruptions: [fog]\nattacks: [pgd]\n")
    with pytest.raises(UserError, match="corrupts the images: do so yourself"):
        PlannedAttacks(str(path))

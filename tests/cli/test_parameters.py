from __future__ import annotations

from pathlib import Path

import pytest

from robustbench_cli.attacks.cw import CW
from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.cli.param_types import Setting
from robustbench_cli.cli.parameters import attack_entries, distribute
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses import registry as defenses
from robustbench_cli.defenses.base.training.recipe import Recipe
from robustbench_cli.defenses.hrs import HRS


def test_a_setting_is_assigned_by_name_or_by_its_only_owner() -> None:
    """Values are read; what nothing is set of has no parameters; the last value of a key wins."""
    settings = [
        Setting("pgd", "steps", "7"),
        Setting(None, "channels", "[5, 5]"),
        Setting("pgd", "steps", "8"),
        Setting(None, "step_size", "2/255"),
    ]
    assert distribute(settings, {"pgd": PGD, "hrs": HRS, "cw": CW}) == {
        "pgd": {"steps": 8, "step_size": 2 / 255},
        "hrs": {"channels": [5, 5]},
        "cw": {},
    }


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            Setting(None, "steps", "1"),
            r"--set steps: several have this parameter, name one: pgd.steps or hrs.steps or cw.steps$",
        ),
        (Setting(None, "chanels", "1"), r"--set chanels: .*did you mean 'channels'"),
        (Setting("hsr", "channels", "1"), r"--set hsr.channels: 'hsr' is not used here; .*did you mean 'hrs'"),
        (Setting("pgd", "steps", "{a: 1, a: 2}"), r"--set pgd.steps: .*twice"),
    ],
)
def test_a_setting_without_one_owner_is_refused(setting: Setting, message: str) -> None:
    """The error names the option, and what would be right."""
    with pytest.raises(UserError, match=message):
        distribute([setting], {"pgd": PGD, "hrs": HRS, "cw": CW})


def test_the_precision_of_the_training_needs_its_name() -> None:
    """``precision`` alone could be --precision, which is that of the attacks."""
    settable = {"pgd": PGD, "train": Recipe}
    with pytest.raises(
        UserError, match=r"--set precision: --precision is that of the attacks, train.precision that of the tr"
    ):
        distribute([Setting(None, "precision", "bf16")], settable)
    assert distribute([Setting("train", "precision", "bf16")], settable)["train"] == {"precision": "bf16"}


def test_a_users_class_is_named_by_the_class_alone(tmp_path: Path) -> None:
    """``path.py:Class`` is its name in the command; ``Class`` and the whole name both set its parameters."""
    name = f"{tmp_path / 'mine.py'}:Mine"
    (tmp_path / "mine.py").write_text(
        "from robustbench_cli.defenses.hrs import HRS\n\nclass Mine(HRS):\n    '''Mine.'''\n\n    strength: int = 1\n"
    )
    settings = [Setting("Mine", "strength", "3"), Setting(name, "channels", "[2, 2]")]
    assert distribute(settings, {name: defenses.load(name)}) == {name: {"strength": 3, "channels": [2, 2]}}


def test_attacks_with_expected_gradients_have_their_own_names() -> None:
    """``eot-pgd`` is PGD with ten draws per gradient; any other name is left to the registry."""
    entries = attack_entries(["pgd", "eot-pgd", "mine.py:Mine"])
    assert [(entry.name, entry.eot) for entry in entries] == [("pgd", None), ("pgd", 10), ("mine.py:Mine", None)]

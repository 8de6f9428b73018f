"""Former names of the attacks' parameters work wherever a user writes them, and change no hash."""

from __future__ import annotations

from typing import Any

import pytest

from robustbench_cli.attacks import registry
from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.benchmarks.checkpoints.defended_model import method_spec
from robustbench_cli.benchmarks.store.cell import Cell
from robustbench_cli.benchmarks.suites.config import AttackEntry
from robustbench_cli.benchmarks.suites.grid import attack_choices
from robustbench_cli.cli.param_types import Setting
from robustbench_cli.cli.parameters import distribute
from robustbench_cli.core import settings
from robustbench_cli.core.settings import RenamedParameter

RENAMED = {
    "apgd-t": {"n_target_classes": "targets", "ranking_steps": "trial_steps", "top_k": "finalists"},
    "cw-linf": {"tau_decay": "decrease"},
    "deepfool": {"candidates": "classes"},
    "di-fgsm": {"diversity_prob": "probability", "resize_rate": "smallest"},
    "expected-cost": {"l1_sparsity": "moved"},
    "fab": {"n_target_classes": "classes", "eta": "overshoot", "beta": "backward"},
    "fab-t": {"n_target_classes": "classes", "eta": "overshoot", "beta": "backward"},
    "malt": {"n_target_classes": "targets", "ranking_steps": "trial_steps", "top_k": "finalists"},
    "nes": {"delta": "width"},
    "pgd": {"l1_sparsity": "moved"},
    "cw-pgd": {"l1_sparsity": "moved"},
    "pma": {"l1_sparsity": "moved"},
    "spsa": {"delta": "width"},
    "square": {"early_stopping": "gives_up"},
    "superdeepfool": {"candidates": "classes"},
    "ti-fgsm": {"kernel_radius": "reach"},
}


@pytest.fixture(autouse=True)
def _unwarned(monkeypatch: pytest.MonkeyPatch) -> None:
    """No rename has been warned of yet."""
    monkeypatch.setattr(settings, "_warned", set())


@pytest.mark.parametrize("name", registry.names())
def test_every_rename_is_declared(name: str) -> None:
    """A former name that is lost would make other cells, and break a user's suite."""
    assert registry.load(name).former_names() == RENAMED.get(name, {})


@pytest.mark.parametrize(
    ("name", "parameters", "cell"),
    [
        ("apgd-t", {}, "05dcc32f4680a837b919"),
        ("cw-linf", {}, "511152b91c2af7f12dad"),
        ("deepfool", {}, "92b8e59886bf2e025ced"),
        ("di-fgsm", {}, "2cb75f58976ad47f7765"),
        ("fab-t", {}, "447696e997f78953bdb4"),
        ("nes", {}, "8730cd5aab383524db0b"),
        ("non-adaptive", {}, "e2fa41e0b21c89e1ae80"),
        ("pgd", {}, "216de8dc0327d7c3673c"),
        ("square", {}, "05272bf1cf4889caa853"),
        ("superdeepfool", {}, "0f8a502c9889487e2cd4"),
        ("ti-fgsm", {}, "ce5e9493535507a2019f"),
        ("pgd", {"l1_sparsity": 0.1}, "46bc0971c5b26bb16865"),
        ("square", {"early_stopping": True}, "a884cd85289b5585c959"),
        ("apgd-t", {"ranking_steps": 20, "top_k": 2, "n_target_classes": 5}, "fa84fb197859666a1086"),
        ("non-adaptive", {"attack": {"name": "pgd", "l1_sparsity": 0.1}}, "5284f286b59e8350657b"),
        ("fab-t", {"n_target_classes": 4, "eta": 1.1, "beta": 0.8}, "4b033cbf56eb44f4e3b3"),
        ("ti-fgsm", {"kernel_radius": 3}, "0429929dfecc6c2a7ea8"),
    ],
)
def test_cells_have_the_hashes_that_they_had_under_former_names(
    name: str, parameters: dict[str, Any], cell: str
) -> None:
    """Hashes from before the renames, with parameters that have their defaults and that do not."""
    spec = method_spec(registry, name, parameters).spec
    made = Cell(
        dataset="digits",
        data="d" * 64,
        n=4,
        model="m",
        checkpoint="c" * 64,
        defenses=(),
        attack=spec,
        norm="linf",
        eps=0.1,
        targeted="no",
        eot=1,
        repeats=1,
        seed=0,
    )
    assert made.id == cell


def test_former_names_in_set_options_and_suites() -> None:
    """``--set moved=0.1`` reaches PGD, and a suite's list under a former name is a dimension of the grid."""
    assert distribute([Setting(None, "moved", "0.1")], {"pgd": PGD}) == {"pgd": {"moved": 0.1}}
    with pytest.warns(RenamedParameter, match=r"^pgd: parameter 'moved' is now called 'l1_sparsity'$"):
        choices = attack_choices(AttackEntry(name="pgd", moved=[0.1, 0.2], steps=3))  # type: ignore[call-arg]
    assert [choice.spec.label for choice in choices] == [f"pgd(steps=3,l1_sparsity={share})" for share in (0.1, 0.2)]
    # An option of the command overrides the suite, whichever name either uses.
    (choice,) = attack_choices(AttackEntry(name="pgd", l1_sparsity=0.5).with_options({"moved": 0.1}))  # type: ignore[call-arg]
    assert choice.spec.parameters["l1_sparsity"] == 0.1

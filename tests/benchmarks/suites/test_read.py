from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from robustbench_cli.attacks import registry
from robustbench_cli.attacks.base.errors import UserError
from robustbench_cli.benchmarks.evaluation import evaluate
from robustbench_cli.benchmarks.suites.read import Member, SuiteOfAttacks, read_suite, suite_names


@pytest.mark.parametrize("name", suite_names())
def test_every_suite_can_be_run(name: str) -> None:
    """Its attacks are there and take the parameters that it gives them, and it says what it is for."""
    suite = read_suite(name)
    assert suite.description
    for member in suite.attacks:
        registry.load(str(member.name)).from_parameters(member.parameters, name=str(member.name))


@pytest.mark.parametrize("classes", [2, 3, 12])
@pytest.mark.parametrize("name", suite_names())
def test_every_suite_breaks_models_of_any_number_of_classes(name: str, classes: int) -> None:
    """At a radius of the whole box no image of a linear model stands, whatever the losses and targets need."""
    generator = torch.Generator().manual_seed(classes)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, classes)).requires_grad_(False)
    model[1].weight.copy_(torch.randn(classes, 16, generator=generator))
    images = 0.5 + 0.1 * torch.rand(6, 1, 4, 4, generator=generator)
    labels = model(images).argmax(1)
    for member in read_suite(name).attacks:
        attack = registry.load(str(member.name)).from_parameters(member.parameters, name=str(member.name))
        eps = None if attack.minimal_norm else {"linf": 1.0}.get(attack.norms[0], 4.0)
        found = evaluate(model, images, labels, attack=attack, eps=eps, eot=member.eot or "auto")
        assert found.summary["robust_accuracy"] == 0
        assert ("few-classes" in found.flags) == (attack.fewest_classes(targeted=False) > classes)


def test_a_file_of_ones_own_may_build_on_other_suites(tmp_path: Path) -> None:
    """A name alone is short for an entry, and a suite stands for its attacks."""
    path = tmp_path / "mine.yaml"
    path.write_text("attacks: [pgd, {name: cw, steps: 5, eot: exact}, {suite: quick}]")
    suite = read_suite(str(path))
    assert suite.attacks[0] == Member(name="pgd")
    assert suite.attacks[1].parameters == {"steps": 5}
    assert suite.attacks[1].eot == "exact"
    assert suite.attacks[2:] == read_suite("quick").attacks
    assert not suite.cascade


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("attacks: [pgd", "not YAML"),
        ("[pgd]", "holds no suite"),
        ("{}", "attacks: field required"),
        ("attacks: []", "attacks"),
        ("attacks: [3]", "attacks.0"),
        ("atacks: [pgd]", "did you mean 'attacks'"),
        ("attacks: [{steps: 3}]", "needs a name or a suite"),
        ("attacks: [{name: pgd, suite: quick}]", "needs a name or a suite"),
        ("attacks: [{suite: quik}]", "did you mean 'quick'"),
        ("attacks: [{name: pgd, eot: many}]", "attacks.0.eot"),
        ("attacks: [pgd]\nattacks: [cw]", "given twice"),
        ("attacks: [{suite: SELF}]", "contains itself"),
    ],
)
def test_a_mistake_is_named(content: str, message: str, tmp_path: Path) -> None:
    """One line that says where and what."""
    path = tmp_path / "mine.yaml"
    path.write_text(content.replace("SELF", str(path)))
    with pytest.raises(UserError, match=message) as raised:
        read_suite(str(path))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["no-such", "no/such.yaml"])
def test_a_suite_that_is_not_there_is_named(name: str) -> None:
    """Neither a built-in one nor a file."""
    with pytest.raises(UserError, match=name):
        read_suite(name)


@pytest.mark.parametrize(
    ("name", "attacks"),
    [
        (
            "autoattack-compat",
            [("apgd-ce", 100, 1), ("apgd-t", 100, 1), ("fab-t", 100, 1), ("square", 5000, 1)],
        ),
        ("autoattack-rand-compat", [("apgd-ce", 100, 20), ("apgd-dlr", 100, 20)]),
    ],
)
def test_autoattacks_own_composition(name: str, attacks: list[tuple[str, int, int]]) -> None:
    """Attacks, steps or queries, and draws a gradient are those of AutoAttack (Croce, Hein, ICML 2020), and its count."""
    suite = read_suite(name)
    found = []
    for member in suite.attacks:
        budget = member.parameters.get("steps") or member.parameters["queries"]
        found.append((member.name, budget, member.eot))
    assert found == attacks
    assert suite.cascade
    assert suite.accounting == "single-draw"
    assert "published figures" in suite.description


def test_only_attacks_that_know_the_norm_are_run() -> None:
    """The others are left out; a suite without any is a mistake."""
    suite = SuiteOfAttacks(attacks=(Member(name="a"), Member(name="b")))
    assert suite.knowing("l2", {"a": ("linf",), "b": ("linf", "l2")}).attacks == (Member(name="b"),)
    with pytest.raises(UserError, match="linf"):
        suite.knowing("l0", {"a": ("linf",), "b": ("linf", "l2")})

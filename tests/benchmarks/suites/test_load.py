from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks import registry
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.benchmarks.evaluation.evaluate import evaluate
from robustbench_cli.benchmarks.suites.load import read_suite
from robustbench_cli.benchmarks.suites.names import suite_names
from robustbench_cli.core.errors import UserError

from .conftest import GRID


@pytest.mark.parametrize("name", suite_names())
def test_every_suite_can_be_run(name: str) -> None:
    """Its attacks are there and take the parameters that it gives them, and it says what it is for."""
    suite = read_suite(name)
    assert suite.description
    for member in suite.entries:
        registry.load(str(member.name)).from_parameters(member.parameters, name=str(member.name))


ATTACKING = [name for name in suite_names() if any(member.name != "none" for member in read_suite(name).entries)]


@pytest.mark.parametrize("classes", [2, 3, 12])
@pytest.mark.parametrize("name", [name for name in ATTACKING if not read_suite(name).beside_attacks])
def test_every_suite_breaks_models_of_any_number_of_classes(name: str, classes: int) -> None:
    """At a radius of the whole box no image of a linear model stands, whatever the losses and targets need."""
    generator = torch.Generator().manual_seed(classes)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, classes)).requires_grad_(False)
    model[1].weight.copy_(torch.randn(classes, 16, generator=generator))
    images = 0.5 + 0.1 * torch.rand(6, 1, 4, 4, generator=generator)
    labels = model(images).argmax(1)
    # What is only run where others were blinded is not run on such a model.
    for member in (entry for entry in read_suite(name).entries if entry.only_if is None):
        attack = registry.load(str(member.name)).from_parameters(member.parameters, name=str(member.name))
        eps = None if attack.minimal_norm else {"linf": 1.0}.get(attack.norms[0], 4.0)
        result = evaluate(model, images, labels, attack=attack, eps=eps, eot=member.eot or "auto")
        assert result.summary["robust_accuracy"] == 0
        assert ("few-classes" in result.flags) == (attack.min_classes(targeted=False) > classes)


def test_a_file_of_ones_own_may_build_on_other_suites(tmp_path: Path) -> None:
    """A name alone is short for an entry, and a suite stands for its attacks."""
    path = tmp_path / "mine.yaml"
    path.write_text("attacks: [pgd, {name: cw, steps: 5, eot: exact}, {suite: quick}]")
    suite = read_suite(str(path))
    first, quick = suite.groups
    assert [(member.name, member.eot, member.parameters) for member in first.attacks] == [
        ("pgd", None, {}),
        ("cw", "exact", {"steps": 5}),
    ]
    assert (first.cascade, first.any_norm) == (False, False)
    assert quick.attacks == read_suite("quick").entries
    assert (quick.cascade, quick.any_norm) == (True, True)
    path.write_text("cascade: true\nattacks: [pgd, {suite: minimal-norm}]")
    (both,) = read_suite(str(path)).groups
    assert (both.cascade, len(both.attacks)) == (True, 1 + len(read_suite("minimal-norm").entries))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("attacks: [pgd", "not YAML"),
        ("[pgd]", "is not a suite"),
        ("attacks: []", "attacks"),
        ("attacks: [3]", "attacks.0"),
        ("atacks: [pgd]", "did you mean 'attacks'"),
        ("attacks: [{steps: 3}]", "give an attack either a name or a suite"),
        ("attacks: [{name: pgd, suite: quick}]", "give an attack either a name or a suite"),
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
    ("name", "norm", "attacks"),
    [
        *(
            (
                "autoattack-compat",
                norm,
                [("apgd-ce", 100, 1), ("apgd-t", 100, 1), ("fab-t", 100, 1), ("square", 5000, 1)],
            )
            for norm in ("linf", "l2", "l1")
        ),
        ("autoattack-rand-compat", "linf", [("apgd-ce", 100, 20), ("apgd-dlr", 100, 20)]),
    ],
)
def test_autoattacks_own_composition(name: str, norm: Norm, attacks: list[tuple[str, int, int]]) -> None:
    """Attacks, steps or queries, and draws a gradient are those of AutoAttack (Croce, Hein, ICML 2020), and its count.

    Its ``_set_version`` gives APGD five starts and five targets in l1, and its constructor does not rescale Square's schedule.
    """
    suite = read_suite(name)
    budgets = []
    for member in suite.entries:
        if norm not in member.norms_among(registry.load(member.name).norms):
            continue
        if member.name == "square":
            assert member.parameters["rescale_schedule"] is False
        if member.name == "apgd-t":
            assert member.parameters["n_target_classes"] == (5 if norm == "l1" else 9)
        if member.name == "apgd-ce":
            assert member.parameters.get("restarts", 1) == (5 if norm == "l1" else 1)
        budget = member.parameters.get("steps") or member.parameters["queries"]
        budgets.append((member.name, budget, member.eot))
    assert budgets == attacks
    assert suite.cascade
    assert suite.accounting == "single-draw"
    assert "published figures" in suite.description


def test_standard_ends_with_an_attack_by_decisions(tmp_path: Path) -> None:
    """Where the others were blinded; it knows the norms of the gradient attacks' usual radii, and is left out elsewhere."""
    (group,) = read_suite("standard").groups
    last = group.attacks[-1]
    kind = registry.load(last.name)
    assert (kind.access, last.only_if, group.cascade) == ("decisions", "blinded", True)
    assert all(entry.only_if is None for entry in group.attacks[:-1])
    assert last.norms_among(registry.load(last.name).norms) == ("l2", "linf")
    path = tmp_path / "mine.yaml"
    path.write_text("cascade: true\nattacks: [pgd, {name: square, only_if: blinded, queries: 9}]")
    (group,) = read_suite(str(path)).groups
    assert (group.attacks[1].only_if, group.attacks[1].parameters) == ("blinded", {"queries": 9})
    path.write_text("cascade: true\nattacks: [{suite: standard}, {name: square, only_if: blinded}]")
    assert [entry.only_if for entry in read_suite(str(path)).entries][-2:] == ["blinded"] * 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "attacks: [pgd, {name: square, only_if: blinded}]",
            "line 1: only_if is a condition on .*'cascade: true'",
        ),
        (
            "cascade: true\nattacks: [{name: square, only_if: blinded}]",
            "line 2: only_if is a condition .*: put an attack before",
        ),
        (
            "cascade: true\nattacks: [pgd, {name: square, only_if: blind}]",
            "line 2: .*unknown value 'blind': did you mean 'blinded'",
        ),
        ("cascade: true\nattacks: [pgd, {name: square, only_if: [blinded]}]", "line 2: .*only_if"),
        (
            "cascade: true\nattacks: [pgd, {suite: quick, only_if: blinded}]",
            "line 2: give an attack either a name or a suite",
        ),
    ],
)
def test_a_condition_that_cannot_hold_is_refused(content: str, message: str, tmp_path: Path) -> None:
    """It is about attacks before it in a cascade, and there is one such word."""
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_suite(str(path))


def bisected(norm: Norm, gaps: Tensor, room: Tensor, rate: Tensor) -> Tensor:
    """The lengths at which pixels that move toward the edge of the box close the gaps.

    Args:
        norm: ``linf`` or ``l2``.
        gaps: ``(N, K)``: what the logits of the classes lack.
        room: ``(N, K, D)``: the distances of the pixels to the edge.
        rate: ``(N, K, D)``: the gain per unit that a pixel moves.
    """
    speed = rate if norm == "l2" else torch.ones_like(rate)
    low, high = torch.zeros_like(gaps), torch.full_like(gaps, 50.0)
    for _ in range(50):
        middle = (low + high) / 2
        reached = (rate * torch.minimum(room, middle[:, :, None] * speed)).sum(2) >= gaps
        low, high = torch.where(reached, low, middle), torch.where(reached, middle, high)
    return torch.minimum(room, high[:, :, None] * speed).norm(p=2 if norm == "l2" else torch.inf, dim=2)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_standard_is_exact_on_a_linear_model_of_many_classes(norm: Norm) -> None:
    """At the median distance of images to the boundary, as bisection inside the box gives it, none is left that could fall."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(200, 64, generator=generator)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 200)).requires_grad_(False)
    model[1].weight.copy_(weight)
    model[1].bias.copy_(-weight.sum(1) / 2)
    images = (0.5 + 0.15 * torch.randn(300, 1, 8, 8, generator=generator)).clamp(0.02, 0.98)
    labels = model(images).argmax(1)
    pixels, logits = images.flatten(1).double()[:, None], model(images).double()
    gaps, slopes = logits.gather(1, labels[:, None]) - logits, (weight[labels][:, None] - weight[None]).double()
    room, rate = torch.where(slopes < 0, 1 - pixels, pixels), slopes.abs()
    if norm == "l1":
        rate, order = rate.sort(2, descending=True)
        room = room.gather(2, order)
        rest = gaps[:, :, None] - ((rate * room).cumsum(2) - rate * room)
        lengths = torch.minimum((rest / rate.clamp_min(1e-30)).clamp_min(0), room).sum(2)
    else:
        # In parts that a processor's cache holds.
        parts = zip(*(tensor.split(10) for tensor in (gaps, room, rate)), strict=True)
        lengths = torch.cat([bisected(norm, *part) for part in parts])
    radii = lengths.scatter(1, labels[:, None], torch.inf).amin(1)
    # Halfway between two distances, so that no rounding decides; the images that are near the question are enough.
    eps = float(radii.sort().values[149:151].mean())
    near = ((radii / eps).log().abs() < 0.2).nonzero()[:, 0]
    images, labels, radii = images[near], labels[near], radii[near]
    standing = torch.ones(len(near), dtype=torch.bool)
    for member in read_suite("standard").entries:
        kind = registry.load(member.name)
        # Square, the last resort, has nothing to add to what is exact.
        if norm in member.norms_among(kind.norms) and member.name != "square" and bool(standing.any()):
            attack = kind.from_parameters(member.parameters, name=member.name)
            rows = standing.nonzero()[:, 0]
            perturbed = attack(model, images[rows], labels[rows], norm=norm, eps=eps)
            standing[rows] = model(perturbed).argmax(1) == labels[rows]
    assert int(standing.sum()) == int((radii > eps).sum())


def test_a_file_that_extends_another_has_its_words_where_it_has_none(tmp_path: Path) -> None:
    """Its own win; where each stands is known; what is beside a file is found from there."""
    (tmp_path / "base.yaml").write_text(GRID)
    (tmp_path / "mine.yaml").write_text("extends: base.yaml\n\nn: 5\nattacks: [{suite: quick}]")
    config = read_suite(str(tmp_path / "mine.yaml"))
    assert (config.dataset, config.n) == (("digits",), (5,))
    assert [group.attacks for group in config.groups] == [read_suite("quick").entries]
    assert config.location("n") == f"{tmp_path / 'mine.yaml'}, line 3"
    assert config.location("eps", 1) == f"{tmp_path / 'base.yaml'}, line 6"
    (tmp_path / "short.yaml").write_text("extends: standard\ncascade: false")
    (group,) = read_suite(str(tmp_path / "short.yaml")).groups
    assert (group.attacks, group.cascade) == (read_suite("standard").entries, False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("\nnorm: [linf, l22]", r"line 2: norm.1: unknown value 'l22': did you mean 'l2'\?"),
        (
            "\n\nmean: 0.3",
            r"line 3: unknown key 'mean': it belongs to the model, as in 'model: \{name: ..., mean: ...\}'",
        ),
        ("\n\nnorms: l2", r"line 3: unknown key 'norms': did you mean 'norm'\?"),
        ("n: true", "line 1: n: input should be a valid integer"),
        ("n: []", "line 1: n: is empty"),
        ("seeds: -1", "line 1: seeds: "),
        ("eps: [1/4, a]", "line 1: eps.1: eps is 'a': give a number or a fraction"),
        ("exclude:\n- {\n  atack: pgd}", r"line 3: exclude: unknown column 'atack': did you mean 'attack'\?"),
        ("model: {name: a, meen: 2}", r"line 1: model.meen: unknown key: did you mean 'mean'\?"),
        ("defenses: [[{name: a}, {checkpoint: b}]]", "line 1: a checkpoint comes first"),
        ("defenses: [{}]", "line 1: give a defense either a name or a checkpoint, as"),
        (
            "defenses: [{name: a, checkpoint: b}]",
            r"line 1: give a defense either a name or a checkpoint; .*: \[{checkpoint: b}, {name: a}\]",
        ),
        (
            "\nmodel: {name: a, checkpoint: b.pt}",
            r"line 2: model.checkpoint: a checkpoint stands under defenses, as in defenses: \[{checkpoint: b.pt}\]",
        ),
        ("model: [a, {name: a, meen: 2}]", r"line 1: model.1.meen: unknown key: did you mean 'mean'\?"),
        ("defenses: [{checkpoint: b, clases: 3}]", r"line 1: a checkpoint has no 'clases': did you mean 'classes'\?"),
        ("attacks:\n- pgd\n- {suite: quik}", r"line 3: unknown suite 'quik': did you mean 'quick'\?"),
        ("attacks: [{suite: quick, cascade: true}]", "line 1: give an attack either a name or a suite"),
        ("extends: quik", r"line 1: unknown suite 'quik': did you mean 'quick'\?"),
        ('extends: "\\0.yaml"', "line 1: .* has a zero byte in it"),
        ("extends: mine.yaml", "contains itself: .*mine.yaml > .*mine.yaml$"),
        ("extends: folder/../mine.yaml", "contains itself: .*mine.yaml > .*folder/../mine.yaml$"),
        ("attacks: [{name: pgd, eot: many}]", "line 1: .*valid integer, or one of exact, frozen, auto$"),
        ("train: 5", "line 1: train: is 5: give a mapping such as {epochs: 5"),
        ("include: [{n: 5}, hrs]", "line 1: include.1: is 'hrs': give a mapping such as {defense: hrs"),
        ("defenses: [{checkpoint: 5}]", "line 1: defenses.0.checkpoint: is 5: give the path of a file"),
        ("exclude:\n- {\n  eps: [any, 0.1]}", "line 3: exclude: eps is 'any': give a number or a fraction"),
    ],
)
def test_a_slip_is_named_with_its_line(content: str, message: str, tmp_path: Path) -> None:
    """And with the nearest right word where there is one."""
    path = tmp_path / "mine.yaml"
    (tmp_path / "folder").mkdir()
    path.write_text(content)
    with pytest.raises(UserError, match=message) as raised:
        read_suite(str(path))
    assert "\n" not in str(raised.value)
    assert str(path) in str(raised.value)

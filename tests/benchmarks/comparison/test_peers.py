from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from robustbench_cli.attacks.base.threat import distance
from robustbench_cli.attacks.cw import CW
from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel
from robustbench_cli.benchmarks.comparison.models import ImageSet
from robustbench_cli.benchmarks.comparison.peers import LIBRARIES, Advdef, AutoAttackBudget, CWBudget, PGDBudget

ROOT = Path(__file__).parents[3]


def test_the_environment_holds_every_peer() -> None:
    """The Makefile installs and peers.txt pins exactly the libraries of the comparison."""
    peers = {library.distribution for library in LIBRARIES.values()} - {"advdef"}
    listed = re.search(r"^LIBRARIES := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert listed is not None
    assert set(listed[1].split()) == peers
    separate = re.search(r"^WITHOUT_THEIRS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert separate is not None
    assert peers | {*separate[1].split()} <= {
        line.partition("==")[0] for line in (ROOT / "peers.txt").read_text().splitlines()
    }


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_our_pgd_keeps_to_the_budget(defended: DefendedModel, examples: ImageSet, norm: str) -> None:
    """Our own adapter gives perturbed images inside the budget's ball."""
    budget = PGDBudget(norm=norm, eps=0.2, steps=2)  # type: ignore[arg-type]
    perturbed = Advdef().pgd(Advdef().wrap(defended.load()), examples.images, examples.labels, budget)
    length = distance(perturbed, examples.images, norm)  # type: ignore[arg-type]
    assert ((length > 0) & (length <= 0.2)).all()


def test_our_cw_takes_the_budget(examples: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """The constants, the steps and the rate reach the attack, which breaks all images."""
    attacks: list[CW] = []
    run = CW.run

    def recording(self: CW, *arguments: Any) -> Any:
        attacks.append(self)
        return run(self, *arguments)

    monkeypatch.setattr(CW, "run", recording)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 10))
    with torch.no_grad():
        labels = model(examples.images).argmax(1)
        budget = CWBudget(constants=2, steps=50, initial_const=10, lr=0.02)
        perturbed = Advdef().cw(Advdef().wrap(model), examples.images, labels, budget)
        assert (model(perturbed).argmax(1) != labels).all()
    assert attacks == [CW(binary_search_steps=2, steps=50, initial_const=10, lr=0.02)]


def test_our_suite_gives_the_adversarial_images(examples: ImageSet) -> None:
    """Just beyond a linear model's closed-form distance it breaks all images; a misclassified one stays unchanged."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 2))
    images = 0.5 + 0.1 * (examples.images - 0.5)
    weight = model[1].weight[0] - model[1].weight[1]
    with torch.no_grad():
        logits = model(images)
        labels = logits.argmax(1)
        radius = (logits[:, 0] - logits[:, 1]).abs() / weight.abs().sum()
        wrong = torch.arange(4) == 3
        labels = torch.where(wrong, 1 - labels, labels)
        budget = AutoAttackBudget(norm="linf", eps=1.1 * radius.max().item())
        perturbed = Advdef().autoattack(Advdef().wrap(model), images, labels, budget)
        assert (model(perturbed).argmax(1) != labels).all()
    assert (distance(perturbed, images, "linf") <= budget.eps).all()
    torch.testing.assert_close(perturbed[wrong], images[wrong], rtol=0, atol=0)


def test_the_steps_cross_the_ball() -> None:
    """The step size is that of Madry et al.: 2.5 times the radius, over the number of steps."""
    assert PGDBudget(norm="linf", eps=0.1, steps=50).step_size == pytest.approx(0.005)

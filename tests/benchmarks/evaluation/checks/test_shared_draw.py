from __future__ import annotations

import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.models.measured_model import MeasuredModel
from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.benchmarks.evaluation.checks import shared_draw
from robustbench_cli.benchmarks.evaluation.checks.shared_draw import shares_draws
from robustbench_cli.benchmarks.evaluation.evaluate import evaluate
from robustbench_cli.defenses import registry as defenses
from robustbench_cli.defenses.base.randomized import RandomizedDefense

from .conftest import MakeProbe


class Shifted(nn.Module):
    """A network on images that a draw shifts, or not."""

    def __init__(self, network: nn.Module, shared: bool) -> None:
        super().__init__()
        self.network, self.shared = network, shared

    def shifts(self, count: int) -> list[int]:
        if self.shared:
            return count * [int(torch.randint(2, ()))]
        # One operation for each row, whose shape does not show what it is for.
        return [int(torch.randint(2, ())) for _ in range(count)]

    def forward(self, images: Tensor) -> Tensor:
        rows = [image.roll(shift, 2) for image, shift in zip(images, self.shifts(len(images)), strict=True)]
        logits: Tensor = self.network(torch.stack(rows))
        return logits


class SharedAndOwnNoise(nn.Module):
    """A network with noise that is shared, and noise of the same size that is not."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        noise = torch.randn_like(images) + torch.randn(images.shape[1:])
        logits: Tensor = self.network(images + 0.1 * noise)
        return logits


def test_rows_that_share_a_draw_raise_the_flag(network: nn.Module, noisy: nn.Module, images: Tensor) -> None:
    """In part or altogether; rows with draws of their own do not, whether or not the shapes show it."""
    images = images[:3]
    labels = network(images).argmax(1)
    cases = ((Shifted(network, True), True), (SharedAndOwnNoise(network), True), (Shifted(network, False), False))
    for model, raised in (*cases, (noisy, False), (network, False)):
        flags = evaluate(model.eval(), images, labels, attack=PGD(steps=1), eps=0.05, repeats=2).flags
        assert flags == (("shared-draw",) if raised else ())


def test_an_audit_finds_it(network: nn.Module, images: Tensor, make_probe: MakeProbe) -> None:
    check = shared_draw.SharedDraw("shared-draw")
    labels = network(images).argmax(1)
    found = check.finding_in_model(make_probe(Shifted(network, True).eval(), images, labels))
    assert found is not None
    assert found.severity == "suspicious"
    assert check.finding_in_model(make_probe(Shifted(network, False).eval(), images, labels)) is None


def test_no_defense_of_the_project_shares_draws(images: Tensor) -> None:
    """The passes alone show it too: the test of permutations runs whatever the shapes of the draws are."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(576, 32), nn.ReLU(), nn.Linear(32, 10)
    ).eval()
    names = []
    for name in defenses.names():
        defense = defenses.load(name)
        if not issubclass(defense, RandomizedDefense):
            continue
        model = (
            defense(**({"test_rate": 0.3} if name == "defensive-dropout" else {})).randomize(network, images[:1]).eval()
        )
        measured = MeasuredModel(model, images)
        names.append(name)
        assert measured.randomized
        assert not shares_draws(measured)
        assert not shared_draw._copies_agree(shared_draw._logits_of_copies(measured).detach())
    assert {"hrs", "rse", "pni", "sap", "adv-bnn", "random-resize-pad", "randomized-smoothing"} <= {*names}


def test_false_alarms_have_the_stated_level() -> None:
    """In 1,000 sets of independent logits, with heavy tails too; at level 0.0001, two of them are improbable (0.005)."""
    alarms = 0
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for number in range(1000):
            logits = torch.randn(20, 2, 2, 2).exp() if number % 2 else torch.randint(2, (20, 2, 2, 1)).float()
            alarms += shared_draw._copies_agree(logits)
    assert alarms < 2

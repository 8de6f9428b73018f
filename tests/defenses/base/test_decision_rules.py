from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
import torchvision
from scipy import stats
from torch import Tensor, nn

from robustbench_cli.attacks.base.models.frozen_draw import FrozenDraw
from robustbench_cli.attacks.base.models.probes import is_randomized
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses import registry
from robustbench_cli.defenses.base.decision_rules import Decision, DecisionRule, with_decision_rule
from robustbench_cli.defenses.base.randomized import RandomizedDefense
from robustbench_cli.defenses.gaussian_noise import GaussianNoise
from robustbench_cli.defenses.hrs import HRS
from robustbench_cli.defenses.noise_injection import NoiseInjection

IMAGES = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Coin(nn.Module):
    """Predicts class 0 with probability 0.3 and class 1 otherwise, with higher confidence in 0. Rows are independent."""

    def forward(self, images: Tensor) -> Tensor:
        heads = torch.rand(len(images), 1) < 0.3
        zeros = images.flatten(1).sum(1, keepdim=True) * 0
        return zeros + torch.where(heads, torch.tensor([4.0, 0.0]), torch.tensor([0.0, 1.0]))


class CoinDefense(RandomizedDefense):
    """Replaces the model by a coin."""

    paper: ClassVar[str] = "none"

    def randomize(self, model: nn.Module, example: Tensor) -> nn.Module:
        return Coin()


def coin(decision: DecisionRule, draws: int) -> nn.Module:
    """A coin with a decision rule."""
    return CoinDefense(decision=decision, draws=draws).protect(nn.Identity(), IMAGES[:1]).eval()


@pytest.mark.parametrize("draws", [1, 3, 5])
def test_a_vote_is_binomial(draws: int) -> None:
    """The win rate of class 0 is the probability that a binomial variable exceeds half of the draws (exact test, 0.001)."""
    chance = stats.binom.sf(draws // 2, draws, 0.3)
    wins = int((coin("vote", draws)(torch.zeros(4000, 1, 1, 1)).argmax(1) == 0).sum())
    assert stats.binomtest(wins, 4000, chance).pvalue > 0.001


def test_the_shares_of_a_vote_and_its_ties() -> None:
    """Logits are ``log((votes + mean softmax) / (draws + 1))``. In a tie the higher mean softmax decides."""
    logits = coin("vote", 2)(torch.zeros(200, 1, 1, 1))
    sure, unsure = 1 / (1 + math.exp(-4)), 1 / (1 + math.exp(-1))
    expected = {
        (2 + sure) / 3,
        (1 + (sure + 1 - unsure) / 2) / 3,
        (0 + 1 - unsure) / 3,
    }
    assert {round(value, 5) for value in logits[:, 0].exp().tolist()} == {round(value, 5) for value in expected}
    tied = (logits[:, 0].exp() - sorted(expected)[1]).abs() < 1e-5
    assert tied.any()
    assert (logits[tied].argmax(1) == 0).all()


def test_the_mean_is_of_the_softmax(normed: Callable[[], nn.Module]) -> None:
    """The logits are the logarithm of the mean softmax over as many passes with the same seed."""
    defended = GaussianNoise(decision="mean", draws=4).protect(normed(), IMAGES[:1]).eval()
    assert isinstance(defended, Decision)
    torch.manual_seed(1)
    logits = defended(IMAGES)
    torch.manual_seed(1)
    mean = torch.stack([defended.model(IMAGES).softmax(1) for _ in range(4)]).mean(0)
    torch.testing.assert_close(logits.exp(), mean)


def test_the_gradient_of_a_vote_is_that_of_the_mean(normed: Callable[[], nn.Module]) -> None:
    """With the same seed, the gradient of a class's logit equals that of the mean rule."""
    randomized = GaussianNoise().protect(normed(), IMAGES[:1]).eval()
    gradients = []
    for defended in (Decision(randomized, "mean", 3), Decision(randomized, "vote", 3)):
        leaf = IMAGES.clone().requires_grad_()
        torch.manual_seed(1)
        gradients.append(torch.autograd.grad(defended(leaf)[:, 3].sum(), leaf)[0])
    assert gradients[0].abs().sum() > 0
    torch.testing.assert_close(*gradients)


def test_the_exact_mean_is_over_all_paths(normed: Callable[[], nn.Module]) -> None:
    """It equals the mean softmax over all single paths, and is deterministic."""
    defended = HRS(channels=(2, 3), decision="exact").protect(normed(), IMAGES[:1]).eval()
    assert isinstance(defended, Decision)
    paths: Any = defended.model
    mean = torch.stack([paths.path(index)(IMAGES).softmax(1) for index in range(6)]).mean(0)
    torch.testing.assert_close(defended(IMAGES).exp(), mean)
    assert not is_randomized(defended, IMAGES)
    assert is_randomized(paths, IMAGES)


def test_exact_needs_enumerable_draws(normed: Callable[[], nn.Module]) -> None:
    """``exact`` is a usage error if the draws are not enumerable, also for switching around a noisy model."""
    with pytest.raises(UserError, match="draws of this defense cannot be enumerated: give mean or vote"):
        GaussianNoise(decision="exact").protect(normed(), IMAGES[:1])
    with pytest.raises(UserError, match="cannot be enumerated"):
        HRS(decision="exact").protect(GaussianNoise().protect(normed(), IMAGES[:1]), IMAGES[:1])


NOT_THE_MODEL = ("hrs", "total-variation")
"""The randomized defenses whose deterministic counterpart is not the undefended model."""

RANDOMIZED = [
    name
    for name in registry.names()
    if name not in NOT_THE_MODEL and issubclass(registry.load(name), RandomizedDefense)
]


@pytest.mark.parametrize("name", RANDOMIZED)
def test_the_deterministic_counterpart_is_the_model_itself(name: str, normed: Callable[[], nn.Module]) -> None:
    """Without draws, noise of all kinds, dropout, pruning and resizing equal the undefended model."""
    model = normed().eval()
    defense = registry.load(name).from_parameters({"decision": "deterministic"}, name=name)
    defended = defense.protect(model, IMAGES[:1]).eval()
    torch.testing.assert_close(defended(IMAGES), model(IMAGES))
    torch.manual_seed(0)
    drawn = registry.load(name)(
        **{"decision": "one-draw"} | ({"test_rate": 0.5} if name == "defensive-dropout" else {})
    )
    assert is_randomized(
        with_decision_rule(drawn.protect(model, IMAGES[:1]).eval(), "one-draw", draws=1, example=IMAGES), IMAGES
    )


def test_the_deterministic_counterpart_of_switching(normed: Callable[[], nn.Module]) -> None:
    """It is the ensemble of all paths without the noise in their layers, also inside another randomized defense."""
    noisy = HRS(channels=(2, 3)).protect(GaussianNoise().protect(normed(), IMAGES[:1]), IMAGES[:1]).eval()
    silent = HRS(channels=(2, 3)).protect(
        GaussianNoise(sigma_init=0, sigma_inner=0).protect(normed(), IMAGES[:1]), IMAGES[:1]
    )
    silent.load_state_dict(noisy.state_dict())
    paths: Any = silent.eval()
    mean = torch.stack([paths.path(index)(IMAGES).softmax(1) for index in range(6)]).mean(0)
    for defended in (noisy, NoiseInjection().protect(noisy, IMAGES[:1]).eval()):
        deterministic = with_decision_rule(defended, "deterministic", draws=1, example=IMAGES[:1])
        torch.testing.assert_close(deterministic(IMAGES).softmax(1), mean)
        assert is_randomized(defended, IMAGES)


def test_deterministic_needs_stochastic_layers() -> None:
    """``deterministic`` is a usage error if a layer that is no ``StochasticLayer`` draws."""
    with pytest.raises(UserError, match="decision is deterministic, and some layer draws nevertheless"):
        coin("deterministic", 1)


def test_a_frozen_draw_is_one_path(normed: Callable[[], nn.Module]) -> None:
    """All rows take the same path in every pass, for any batch, in the gradient too."""
    model: Any = HRS(channels=(3, 4)).protect(normed(), IMAGES[:1]).eval()
    one = FrozenDraw(model, seed=5)
    with torch.no_grad():
        distance = (torch.stack([model.path(index)(IMAGES) for index in range(12)]) - one(IMAGES)).abs().amax((1, 2))
    path = int(distance.argmin())
    assert distance[path] < 1e-6
    torch.testing.assert_close(one(IMAGES[2:4]), model.path(path)(IMAGES[2:4]))
    gradients = []
    for network in (one, model.path(path)):
        leaf = IMAGES.clone().requires_grad_()
        gradients.append(torch.autograd.grad(network(leaf).logsumexp(1).sum(), leaf)[0])
    torch.testing.assert_close(*gradients)


def test_the_distribution_of_frozen_draws() -> None:
    """Over 2,000 seeds a frozen coin has the coin's probability (exact test, level 0.001), the same side for all rows."""
    images = torch.zeros(3, 1, 1, 1)
    state = torch.get_rng_state()
    heads = torch.stack([FrozenDraw(Coin(), seed=seed)(images).argmax(1) == 0 for seed in range(2000)])
    assert (heads == heads[:, :1]).all()
    assert stats.binomtest(int(heads[:, 0].sum()), 2000, 0.3).pvalue > 0.001
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", [*RANDOMIZED, "hrs"])
def test_every_defense_can_be_frozen(name: str, normed: Callable[[], nn.Module]) -> None:
    """``frozen`` gives a deterministic model whose rows are independent of each other."""
    defended = registry.load(name)(decision="frozen").protect(normed(), IMAGES[:1]).eval()
    assert not is_randomized(defended, IMAGES)
    torch.testing.assert_close(defended(IMAGES)[[4, 1]], defended(IMAGES[[4, 1]]))


@pytest.mark.parametrize(("name", "size"), [("resnet18", {}), ("vit_b_16", {"image_size": 32}), ("swin_t", {})])
def test_models_of_torchvision_can_be_frozen(name: str, size: dict[str, int], recwarn: pytest.WarningsRecorder) -> None:
    """Batch norm, attention and shifted windows use one draw for all rows, in the gradient too, without a warning."""
    model = getattr(torchvision.models, name)(num_classes=10, **size)
    for parameter in model.parameters():
        # The transformer's head is initialized with zeros, which would make all gradients 0.
        parameter.data.add_(torch.randn_like(parameter), alpha=0.02)
    images = torch.rand(3, 3, 32, 32, requires_grad=True)
    frozen = GaussianNoise(decision="frozen").protect(model, images[:1].detach()).eval().requires_grad_(False)
    logits = frozen(images)
    (gradient,) = torch.autograd.grad(logits.logsumexp(1).sum(), images)
    assert (gradient.flatten(1).abs().amax(1) > 0).all()
    torch.testing.assert_close(frozen(images[1:2]), logits[1:2], rtol=1e-3, atol=1e-4)
    assert not recwarn.list

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from robustbench_cli.attacks.base.gradients.bpda import BPDALayer
from robustbench_cli.attacks.base.models.measured_model import MeasuredModel
from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.benchmarks.comparison.gallery.broken.sign_twisted import twisted
from robustbench_cli.benchmarks.evaluation.checks.base.measurements import is_repeatable
from robustbench_cli.benchmarks.evaluation.checks.wrong_gradient import gradient_is_wrong
from robustbench_cli.benchmarks.evaluation.evaluate import evaluate
from robustbench_cli.defenses.base.decision_rules import Decision

IMAGES = torch.rand(8, 1, 12, 12, generator=torch.Generator().manual_seed(0))


def is_wrong(model: nn.Module, images: Tensor) -> bool:
    return gradient_is_wrong(MeasuredModel(model, images), images)


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(200, 32),
            nn.ReLU(),
            nn.Linear(32, 10),
        )
    return model.eval().requires_grad_(False)


class Honest(nn.Module):
    """A network whose logits are scaled and shifted, and whose input is noisy."""

    def __init__(self, *, scale: float = 1.0, shift: float = 0.0, sigma: float = 0.0) -> None:
        super().__init__()
        self.network, self.scale, self.shift, self.sigma = network(), scale, shift, sigma

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images + self.sigma * torch.randn_like(images))
        return self.scale * logits + self.shift


class Quantized(nn.Module):
    """Sees 9 gray values, but for a small share that goes straight by."""

    def __init__(self, share: float = 0.01) -> None:
        super().__init__()
        self.network, self.share = network(), share

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network((1 - self.share) * (images * 8).round() / 8 + self.share * images)
        return logits


class TurnedAround(nn.Module):
    """The right logits with the opposite gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return 2 * logits.detach() - logits


class Scaled(nn.Module):
    """Gives the logits of an untrained network the usual size."""

    def forward(self, logits: Tensor) -> Tensor:
        return 100 * logits


class NoiseLayer(nn.Module):
    """A model on noisy images."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images + 0.1 * torch.randn_like(images))
        return logits


class Jumpy(nn.Module):
    """A model that sees each pixel rounded up or down to one of 33 gray values, on average as it is."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        rounded = (images * 32 + torch.rand_like(images) - 0.5).round() / 32
        logits: Tensor = self.model(images + (rounded - images).detach())
        return logits


class TwoFaced(nn.Module):
    """Another network where a gradient is wanted."""

    def __init__(self) -> None:
        super().__init__()
        self.network, self.mask = network(), network(1)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = (self.mask if images.requires_grad else self.network)(images)
        return logits


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("sigma", [0.0, 0.1])
@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1e-8, 0.0), (1e8, 0.0), (1.0, 100.0)])
def test_a_true_gradient_is_believed(scale: float, shift: float, sigma: float, seed: int) -> None:
    """Whatever the range of the logits and the noise on the images."""
    images = torch.rand(8, 1, 12, 12, generator=torch.Generator().manual_seed(seed))
    model = Honest(scale=scale, shift=shift, sigma=sigma)
    assert is_repeatable(MeasuredModel(model, images))
    assert not is_wrong(model, images)


def test_the_gradient_of_a_large_network_is_believed() -> None:
    """Torchvision's ResNet-18, untrained, on images of 3 x 64 x 64."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = resnet18(num_classes=10).eval()
    assert not is_wrong(model, torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("model", [Quantized(), Quantized(0.05), TurnedAround(), TwoFaced()])
def test_a_gradient_that_leads_astray_is_found(model: nn.Module, seed: int) -> None:
    """Quantized with a small way around, turned around, or that of another network."""
    images = torch.rand(8, 1, 12, 12, generator=torch.Generator().manual_seed(seed))
    assert is_wrong(model, images)


class Levels(BPDALayer):
    """Some gray values, with the slope of a share of the image, forwards or turned around."""

    def __init__(self, levels: int, share: float) -> None:
        super().__init__()
        self.levels, self.share = levels, share

    def exact(self, given: Tensor) -> Tensor:
        return (given * self.levels).round() / self.levels

    def surrogate(self, given: Tensor) -> Tensor:
        return self.share * given


@pytest.mark.parametrize("levels", [1, 8])
@pytest.mark.parametrize(("share", "wrong"), [(1.0, False), (-1.0, True), (0.1, True), (10.0, True), (0.0, True)])
def test_a_surrogate_is_believed_where_it_resembles_its_layer(levels: int, share: float, wrong: bool) -> None:
    """The gradient of a surrogate is no slope of the logits, on purpose; but the surrogate has to be like the layer."""
    assert is_wrong(nn.Sequential(Levels(levels, share), network()), IMAGES) == wrong


def test_a_surrogate_does_not_cover_another_layers_lie() -> None:
    """What is wrong behind a layer that has a surrogate is found as it is without it."""
    assert is_wrong(nn.Sequential(Levels(8, 1.0), TurnedAround()), IMAGES)
    assert is_wrong(nn.Sequential(Levels(8, 1.0), Quantized()), IMAGES)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("randomize", [NoiseLayer, Jumpy])
def test_only_the_mean_of_a_randomized_model_has_to_have_a_true_gradient(
    randomize: Callable[[nn.Module], nn.Module], seed: int
) -> None:
    """Noise, and draws that jump where their mean is smooth, around a true gradient and around one that is turned."""
    images = torch.rand(8, 1, 12, 12, generator=torch.Generator().manual_seed(seed))
    assert not is_wrong(randomize(Honest()), images)
    assert is_wrong(randomize(TurnedAround()), images)


class Unsure(nn.Module):
    """One of two classes by a narrow margin, so that votes move with the image far more than probabilities do."""

    def forward(self, images: Tensor) -> Tensor:
        sums = (images - 0.5).flatten(1) @ torch.linspace(-1, 1, images[0].numel())
        margin = 0.02 * (sums + torch.randn(len(images)))
        return torch.stack([margin, -margin], dim=1)


def test_the_gradient_of_a_vote_is_that_of_the_mean_softmax() -> None:
    """That votes move otherwise is no lie; a gradient that is turned around is one under a vote too."""
    assert not is_wrong(Decision(Unsure(), "vote", 10), IMAGES)
    assert is_wrong(Decision(NoiseLayer(TurnedAround()), "vote", 10), IMAGES)


def test_a_gradient_of_zero_where_nothing_changes_is_no_lie() -> None:
    """Of constant logits there is nothing to say."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(IMAGES[0].numel(), 5), nn.Threshold(1e9, 0))
    assert not is_wrong(model, IMAGES)


@pytest.mark.parametrize(
    ("model", "flag"), [(Quantized(), "wrong-gradient"), (Honest(), None), (TurnedAround(), "wrong-gradient")]
)
def test_an_evaluation_raises_the_flag(model: nn.Module, flag: str | None) -> None:
    """A row that followed a wrong gradient says so, and no other row does."""
    model = nn.Sequential(copy.deepcopy(model), Scaled())
    with torch.no_grad():
        labels = model(IMAGES).argmax(1)
    flags = evaluate(model, IMAGES, labels, attack=PGD(steps=2), eps=0.01).flags
    assert flags == ((flag,) if flag else ())


class Hooked(nn.Module):
    """A network whose input gradient is changed by a function."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self.change = network(), change

    def forward(self, images: Tensor) -> Tensor:
        seen = images.clone()
        if seen.requires_grad:
            seen.register_hook(self.change)
        logits: Tensor = self.network(seen)
        return logits


SIGNS = 2.0 * torch.randint(2, (IMAGES[0].numel(),), generator=torch.Generator().manual_seed(0)) - 1


def shuffled(gradients: Tensor) -> Tensor:
    return twisted(gradients, signs=SIGNS * gradients.flatten(1).sign())


def hidden_among_the_large(gradients: Tensor) -> Tensor:
    """The signs of the second quarter of the components are wrong, and the smaller half stays small, and right."""
    flat = gradients.flatten(1)
    quarters = flat.abs().argsort(1, descending=True).argsort(1) * 4 // flat.shape[1]
    factors = torch.tensor([1.0, -0.2, 0.1, 0.1])[quarters]
    return (factors * flat).view_as(gradients)


@pytest.mark.parametrize(
    "change",
    [
        *(partial(twisted, share=share, scale=scale) for share, scale in ((0.6, 0.1), (0.7, 0.1), (0.45, 0.05))),
        shuffled,
        hidden_among_the_large,
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_a_gradient_with_wrong_signs_in_its_smaller_components_is_found(
    change: Callable[[Tensor], Tensor], seed: int
) -> None:
    """Random directions agree with it for the most part; a step in linf follows the wrong signs."""
    images = torch.rand(8, 1, 12, 12, generator=torch.Generator().manual_seed(seed))
    assert is_wrong(Hooked(change), images)


class KinkedAtItsRadius(nn.Module):
    """Linear in its last pixels; its first ones have a hundredth of their slope, and the full slope from 0.1 on."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.slopes = torch.randn(144, generator=torch.Generator().manual_seed(1)).sign()
        self.change = change

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.flatten(1)
        if pixels.requires_grad:
            pixels.register_hook(self.change)
        first = 0.01 * pixels[:, :108] + (pixels[:, :108] - 0.1).relu()
        gaps = torch.cat([first, pixels[:, 108:]], dim=1) @ self.slopes
        return torch.stack([gaps, torch.zeros_like(gaps)], dim=1)


def reversed_where_small(gradients: Tensor) -> Tensor:
    return torch.cat([-gradients[:, :108], gradients[:, 108:]], dim=1)


@pytest.mark.parametrize(("change", "wrong"), [(torch.clone, False), (reversed_where_small, True)])
def test_small_components_are_compared_only_where_there_is_no_kink(
    change: Callable[[Tensor], Tensor], wrong: bool
) -> None:
    """An adversarially trained network has kinks at its radius around an image, where an attack goes."""
    images = 0.05 + 0.01 * IMAGES
    images[:2, 0, :9] = 0.1
    assert is_wrong(KinkedAtItsRadius(change), images) is wrong


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_a_scaled_gradient_within_a_factor_of_two_is_believed(factor: float) -> None:
    """A hook alone is no fault."""
    assert not is_wrong(Hooked(lambda gradients: factor * gradients), IMAGES)


class ReversedInLargeBatch(nn.Module):
    """A network whose backward pass changes its sign in batches of at least some images."""

    def __init__(self, fewest: int) -> None:
        super().__init__()
        self.network, self.fewest = network(), fewest

    def forward(self, images: Tensor) -> Tensor:
        seen = images.clone()
        if seen.requires_grad and len(images) >= self.fewest:
            seen.register_hook(torch.neg)
        logits: Tensor = 100 * self.network(seen)
        return logits


def test_the_gradient_of_the_attacks_own_batch_is_checked() -> None:
    """One of a few images alone is right; no other batch makes a difference to an honest network."""
    images = IMAGES.repeat(3, 1, 1, 1)
    for fewest, flags in ((20, ("wrong-gradient",)), (1000, ())):
        model = ReversedInLargeBatch(fewest)
        labels = network()(images).argmax(1)
        assert evaluate(model, images, labels, attack=PGD(steps=5), eps=0.01, batch_size=24).flags == flags

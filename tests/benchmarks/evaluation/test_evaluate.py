from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, cast

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from robustbench_cli.attacks.apgd_dlr import APGDDLR
from robustbench_cli.attacks.apgd_t import APGDT
from robustbench_cli.attacks.base.attack import FixedRadiusAttack, MinimalNormAttack
from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.models.precision import Precision
from robustbench_cli.attacks.base.models.special_labels import NO_NUMBER
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import Threat
from robustbench_cli.attacks.cw import CW
from robustbench_cli.attacks.fab_t import FABT
from robustbench_cli.attacks.fgsm import FGSM
from robustbench_cli.attacks.mi_fgsm import MIFGSM
from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.attacks.transfer import Transfer
from robustbench_cli.benchmarks.evaluation import evaluate as evaluation
from robustbench_cli.benchmarks.evaluation.context import RunContext
from robustbench_cli.benchmarks.evaluation.evaluate import Evaluation, evaluate
from robustbench_cli.benchmarks.evaluation.options import EvaluationOptions, Targeted
from robustbench_cli.benchmarks.evaluation.outcomes import summarize
from robustbench_cli.benchmarks.evaluation.pass_settings import pass_settings
from robustbench_cli.core.errors import UserError


class Coin(nn.Module):
    """Class 0 with a known probability, drawn anew for every row: ``base - slope * (mean pixel)``; else class 1."""

    def __init__(self, base: float, slope: float = 0.0) -> None:
        super().__init__()
        self.base = base
        self.slope = slope

    def forward(self, images: Tensor) -> Tensor:
        right = self.base - self.slope * images.flatten(1).mean(1) - torch.rand(len(images), device=images.device)
        return torch.stack([right, torch.zeros_like(right)], dim=1)


class Fickle(nn.Module):
    """One of K classes, drawn anew for every row: class 0 with a known probability, else any other.

    The smallest change of an image makes the draw another, so that no two candidates have their luck in common.
    """

    def __init__(self, probability: float, classes: int = 2) -> None:
        super().__init__()
        self.probability = probability
        self.classes = classes

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.flatten(1)
        drawn = (torch.rand(len(images)) + 1e10 * pixels.detach().double().sum(1)) % 1
        others = 1 + torch.randint(self.classes - 1, (len(images),))
        answer = torch.where(drawn < self.probability, 0, others)
        return 3 * nn.functional.one_hot(answer, self.classes) + 0 * pixels.sum(1, keepdim=True)


class TwoCoins(Coin):
    """A coin whose two draws can be counted."""

    number_of_draws = 2
    cost_of_all_draws = 2.0

    def all_draws(self, images: Tensor) -> Tensor:
        right = self.base - self.slope * images.flatten(1).mean(1)
        return torch.stack([torch.stack([right - draw, torch.zeros_like(right)], dim=1) for draw in (0.3, 0.8)])

    def forward(self, images: Tensor) -> Tensor:
        drawn = torch.randint(2, (len(images),))
        return self.all_draws(images)[drawn, torch.arange(len(images))]


class Network(nn.Module):
    """A small convolutional network for 1 x 6 x 6 images of four classes, whose logits have the size of a trained one's."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 4))
        self.rows = self.rows_with_gradient = 0

    def forward(self, images: Tensor) -> Tensor:
        self.rows += len(images)
        self.rows_with_gradient += len(images) * torch.is_grad_enabled()
        return cast("Tensor", 10 * self.layers(images))


@pytest.fixture
def network() -> Network:
    """A network with the same weights in every test."""
    return Network().eval()


IMAGES = torch.rand(40, 1, 6, 6, generator=torch.Generator().manual_seed(5))


def labels_of(network: nn.Module, images: Tensor = IMAGES) -> Tensor:
    """The classes that a network gives images."""
    with torch.no_grad():
        return cast("Tensor", network(images).argmax(1))


def gray(count: int, value: float = 0.25) -> tuple[Tensor, Tensor]:
    """Images of one gray, all of class 0."""
    return torch.full((count, 1, 4, 4), value), torch.zeros(count, dtype=torch.int64)


def bounds(trials: int, probability: float) -> tuple[float, float]:
    """Between which shares a binomial variable lies but for two in a million."""
    return tuple(stats.binom.ppf([1e-6, 1 - 1e-6], trials, probability) / trials)  # type: ignore[return-value]


def test_expected_accuracies_are_those_of_the_draws() -> None:
    """A coin of 70 % that an attack can bring down to 50 % is reported as just that, within exact binomial bounds."""
    summary = evaluate(Coin(0.9, slope=0.8), *gray(500), attack=PGD(steps=5), eps=0.25).summary
    low, high = bounds(5000, 0.7)
    assert low <= summary["clean_accuracy"] <= high
    low, high = bounds(5000, 0.5)
    assert low <= summary["robust_accuracy"] <= high
    # Right in every one of ten draws, each image by itself: 0.5 ** 10; and a vote of six or more.
    low, high = bounds(500, stats.binom.sf(5, 10, 0.5))
    assert low <= summary["robust_accuracy_vote"] <= high
    low, high = bounds(500, 0.5**10)
    assert low <= summary["robust_accuracy_every_draw"] <= high


@pytest.mark.parametrize("repeats", [1, 2, 10])
def test_no_attack_lowers_a_coins_share(repeats: int) -> None:
    """A model that is right in 62 % of draws is so reported at eps = 1e-9, however few draws score it."""
    images = 4000 // repeats
    result = evaluate(Fickle(0.62), *gray(images, 0.0), attack=PGD(steps=3), eps=1e-9, eot=5, repeats=repeats)
    low, high = bounds(images * repeats, 0.62)
    assert low <= result.summary["robust_accuracy"] <= high
    assert result.outcomes.distance.max() > 0


def test_noise_alone_is_no_success() -> None:
    """A coin falls on the perturbed image as on the clean one, so that its own errors are not the attack's."""
    result = evaluate(Coin(0.62), *gray(400, 0.0), attack=PGD(steps=3), eps=1e-9, eot=5)
    assert result.outcomes.distance.max() > 0
    assert result.summary["attack_success_rate"] == 0


@pytest.mark.parametrize("eps", [0.0, 1e-9])
def test_zero_radius_leaves_robust_at_clean(eps: float) -> None:
    """With eps 0, in any norm and with any number of candidates, robust and clean agree to the last bit."""
    for attack, targeted in ((PGD(steps=3), "no"), (FGSM(), "next"), (CW(steps=3, binary_search_steps=1), "no")):
        result = evaluate(
            Coin(0.9, slope=0.8), *gray(60), attack=attack, norm="l2", eps=eps, targeted=cast("Targeted", targeted)
        )
        if eps == 0:
            assert result.summary["robust_accuracy"] == result.summary["clean_accuracy"]
            assert torch.equal(result.perturbed, gray(60)[0])
        assert result.outcomes.distance.max() <= eps


class Lucky(FixedRadiusAttack):
    """Asks a model again and again, and keeps for each image what fooled the draws that it saw."""

    norms: ClassVar[tuple[Norm, ...]] = ("linf",)

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        best, least = images, torch.full((len(images),), torch.inf)
        for _ in range(50):
            tried = (images + 0.1 * random.uniform(images.shape[1:])).clamp(0, 1)
            margins = source.logits(tried)[..., 0].mean(0)
            best = torch.where((margins < least)[:, None, None, None], tried, best)
            least = torch.minimum(margins, least)
        return best


def test_lucky_draws_gain_nothing() -> None:
    """An attack that keeps what happened to fool 50 draws finds, on fresh ones, the very share that was there before."""
    result = evaluate(Fickle(0.62), *gray(500), attack=Lucky(), eps=0.1, eot=1)
    low, high = bounds(5000, 0.62)
    assert low <= result.summary["robust_accuracy"] <= high
    assert result.flags[0] == "no-eot"


def test_the_best_of_many_candidates_is_scored_afresh() -> None:
    """Ten candidates of which none is worse than another leave what any leaves, on draws that did not choose among them."""
    result = evaluate(Fickle(0.62, 10), *gray(300), attack=PGD(steps=1), eps=0.1, targeted="all", eot=1)
    assert result.outcomes.perturbed.shape == (9, 10, 300)
    low, high = bounds(3000, 0.62)
    assert low <= result.summary["robust_accuracy"] <= high


def test_countable_draws_are_chosen_on_exactly() -> None:
    """Where all draws are cheap, the choice among candidates rests on all of them: equal images survive equally well."""
    images = torch.tensor([0.0, 0.25, 0.9]).repeat(50).view(150, 1, 1, 1).repeat(1, 1, 4, 4)
    model = TwoCoins(0.9, slope=0.8)
    survival = evaluate(model, images, gray(150)[1], attack=FGSM(), eps=0.0).outcomes.clean_survival
    # Of two draws, 2, 1 and 0 are right; margins below 0.6 decide between equal shares, with at most a fifth of 3/8.
    assert np.abs(survival.reshape(50, 3) - [1, 0.5, 0]).max() <= 0.075
    assert np.ptp(survival.reshape(50, 3), axis=0).max() < 1e-6


class Liar(FixedRadiusAttack):
    """Returns what a test tells it to."""

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")
    returns: ClassVar[Callable[[Tensor], Any]]

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        return cast("Tensor", type(self).returns(images))


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize(
    "returns",
    [
        lambda images: images + 0.5,
        lambda images: images - 3,
        lambda images: 1 - images,
        lambda images: images.flip(0),
        lambda images: torch.where(images == images.max(), torch.inf, images),
    ],
    ids=["outside the ball", "outside the box", "negatives", "other images", "infinity"],
)
def test_an_attack_is_not_believed(
    network: Network, monkeypatch: pytest.MonkeyPatch, returns: Callable[[Tensor], Tensor], norm: Norm
) -> None:
    """Whatever an attack returns is projected into the ball and the box, and flagged."""
    monkeypatch.setattr(Liar, "returns", staticmethod(returns), raising=False)
    result = evaluate(network, IMAGES, labels_of(network), attack=Liar(), norm=norm, eps=0.05)
    assert result.flags == ("left-the-ball",)
    assert result.perturbed.min() >= 0
    assert result.perturbed.max() <= 1
    difference = (result.perturbed.double() - IMAGES.double()).flatten(1)
    assert difference.norm(p=torch.inf if norm == "linf" else 2, dim=1).max() <= 0.05
    assert result.outcomes.distance.max() <= 0.05


@pytest.mark.parametrize(
    ("returns", "what"),
    [
        (lambda images: images[1:], r"shape \(39, 1, 6, 6\)"),
        (lambda images: images.flatten(1), r"shape \(40, 36\)"),
        (lambda images: images.numpy(), "type ndarray"),
        (lambda images: None, "type NoneType"),
        (lambda images: torch.where(images == images.max(), torch.nan, images), "NaN for 1 of 40"),
    ],
    ids=["one too few", "flat", "NumPy", "nothing", "NaN"],
)
def test_what_is_no_batch_of_images_is_refused(
    network: Network, monkeypatch: pytest.MonkeyPatch, returns: Callable[[Tensor], Any], what: str
) -> None:
    """An attack that gives no image for each image is a mistake, and is named."""
    monkeypatch.setattr(Liar, "returns", staticmethod(returns), raising=False)
    with pytest.raises(UserError, match=rf"Liar returned images of {what}: it must return \(40, 1, 6, 6\)"):
        evaluate(network, IMAGES, labels_of(network), attack=Liar(), eps=0.05)


@pytest.mark.parametrize("attack", [PGD(steps=7), CW(steps=20, binary_search_steps=2)], ids=["pgd", "cw"])
def test_batches_and_slices_change_nothing(network: Network, monkeypatch: pytest.MonkeyPatch, attack: PGD | CW) -> None:
    """For a deterministic model, images in ones, sevens or all at once, and cut into slices, come out the same."""
    labels = labels_of(network)
    labels[::5] = (labels[::5] + 1) % 4
    eps = None if attack.minimal_norm else 0.05

    def run(batch_size: int) -> Evaluation:
        return evaluate(network, IMAGES, labels, attack=attack, eps=eps, batch_size=batch_size)

    whole = run(256)
    others = [run(1), run(7)]
    monkeypatch.setattr(evaluation, "IMAGES_AT_ONCE", 9)
    others.append(run(256))
    assert 0 < whole.summary["robust_accuracy"] < whole.summary["clean_accuracy"] or attack.minimal_norm
    for other in others:
        assert other.summary == pytest.approx(whole.summary, abs=2e-4)
        assert torch.allclose(other.perturbed, whole.perturbed, atol=2e-3)
        assert np.array_equal(other.outcomes.perturbed, whole.outcomes.perturbed)


def test_large_images_are_attacked_a_few_at_a_time(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batches follow from the bytes of an image in float32, also where it is stored in another type."""
    monkeypatch.setattr(evaluation, "BYTES_AT_ONCE", 7 * 36 * 4)
    done: list[int] = []
    images = (IMAGES[:20] * 255).round().byte()
    evaluate(network, images, labels_of(network)[:20], attack=FGSM(), eps=0.1, progress=done.append)
    assert done == [7, 14, 20]


def test_the_order_of_the_images_changes_nothing(network: Network) -> None:
    """Without random starts, an image's outcome does not depend on its place or its mates."""
    labels = labels_of(network)
    attack = PGD(steps=7, random_start=False)
    forwards = evaluate(network, IMAGES, labels, attack=attack, eps=0.05)
    backwards = evaluate(network, IMAGES.flip(0), labels.flip(0), attack=attack, eps=0.05)
    assert np.array_equal(forwards.outcomes.perturbed, backwards.outcomes.perturbed[..., ::-1])
    assert torch.allclose(forwards.perturbed, backwards.perturbed.flip(0), atol=1e-4)


@pytest.mark.parametrize("model", [Coin(0.9, slope=0.8), TwoCoins(0.9, slope=0.8)], ids=["sampled", "exact"])
def test_the_same_evaluation_gives_the_same_outcomes(model: nn.Module) -> None:
    """The seed rules every draw, and the caller's random numbers go on as if nothing had been evaluated."""
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    first = evaluate(model, *gray(50), attack=PGD(steps=3), eps=0.1, seed=4)
    assert torch.equal(torch.rand(3), expected)
    second = evaluate(model, *gray(50), attack=PGD(steps=3), eps=0.1, seed=4)
    assert first.outcomes.to_bytes() == second.outcomes.to_bytes()
    other = evaluate(model, *gray(50), attack=PGD(steps=3), eps=0.1, seed=5)
    assert not np.array_equal(first.outcomes.clean, other.outcomes.clean)


def test_a_model_is_left_as_it_was(network: Network) -> None:
    """Training mode and the parameters' gradients are as before, and the weights the same."""
    network.train()
    network.layers[0].bias.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    evaluate(network, IMAGES, labels_of(network), attack=FGSM(), eps=0.05)
    assert all(module.training for module in network.modules())
    assert [parameter.requires_grad for parameter in network.parameters()] == [True, False, True, True]
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("targeted", ["no", "least-likely", "all"])
def test_passes_are_counted(network: Network, targeted: Targeted) -> None:
    """What is reported is what went through the model, but for the first look at it and the checks, the same for any attack."""
    labels = labels_of(network)
    unreported = set()
    for steps in (2, 5):
        network.rows = network.rows_with_gradient = 0
        result = evaluate(network, IMAGES, labels, attack=PGD(steps=steps, restarts=2), eps=0.02, targeted=targeted)
        assert result.backwards > 0
        unreported.add((network.rows - result.forwards, network.rows_with_gradient - result.backwards))
    assert len(unreported) == 1
    ((rows, rows_with_gradient),) = unreported
    assert rows < 30 * len(IMAGES)
    assert rows_with_gradient < 5 * len(IMAGES)


def test_checks_and_measurements_cost_few_passes(network: Network) -> None:
    """The rows of ten images beyond those that the evaluation counts."""
    rows: list[int] = []
    network.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    images, labels = IMAGES[:10], labels_of(network)[:10]
    # The memory layout is measured once per architecture and machine.
    pass_settings(network, images[:8], torch.device("cpu"), "float32")
    rows.clear()
    result = evaluate(network, images, labels, attack=PGD(steps=5), eps=1e-4, device="cpu")
    assert result.flags == ()
    # Of these, 64 compare steps along the signs, and the smaller components, with finite differences, at 8 clean and 8 followed images.
    # 8 more are the gradients of the clean images inside [0.01, 0.99], where the smaller components can move both ways.
    assert sum(rows) - result.forwards <= 228


@pytest.mark.parametrize("targeted", ["next", "random", "least-likely", "all"])
def test_targets_are_never_the_images_own_class(network: Network, targeted: Targeted) -> None:
    """Each way of choosing gives wrong classes only, and what it says; the rate is the share of targets reached."""
    labels = labels_of(network)
    result = evaluate(network, IMAGES, labels, attack=PGD(steps=10), eps=0.1, targeted=targeted)
    targets = result.outcomes.targets
    assert targets.shape == (3 if targeted == "all" else 1, 40)
    assert not (targets == labels.numpy()).any()
    assert targets.min() >= 0
    assert targets.max() <= 3
    with torch.no_grad():
        logits = network(IMAGES)
    if targeted == "next":
        assert np.array_equal(targets[0], (labels.numpy() + 1) % 4)
    if targeted == "least-likely":
        assert np.array_equal(targets[0], logits.argmin(1).numpy())
    if targeted == "all":
        assert (np.sort(np.vstack([targets, labels.numpy()]), axis=0) == np.arange(4)[:, None]).all()
    reached = (result.outcomes.perturbed[:, 0] == targets).mean()
    assert result.summary["attack_success_rate"] == pytest.approx(reached)


def test_random_targets_are_spread_evenly() -> None:
    """Of 3,000 images, each of the nine wrong classes is aimed at as often as chance allows, at a level of 1e-6."""
    images, labels = torch.rand(3000, 1, 2, 2), torch.arange(3000) % 10
    result = evaluate(Fickle(0.5, 10), images, labels, attack=FGSM(), eps=0.1, targeted="random", repeats=1, eot=1)
    targets = result.outcomes.targets
    shifts = np.bincount((targets[0] - labels.numpy()) % 10, minlength=10)
    assert shifts[0] == 0
    assert stats.chisquare(shifts[1:]).pvalue > 1e-6


def test_of_all_targets_the_least_survived_image_is_kept(network: Network) -> None:
    """The images that come back are, for each, those of the goal that the deployed rule survives least."""
    labels = labels_of(network)
    result = evaluate(network, IMAGES, labels, attack=PGD(steps=10), eps=0.06, targeted="all")
    worst = result.outcomes.survival.argmin(axis=0)
    predictions = result.outcomes.perturbed[worst, 0, np.arange(40)]
    assert np.array_equal(labels_of(network, result.perturbed).numpy(), predictions)
    assert result.summary["robust_accuracy"] == (predictions == labels.numpy()).mean() < 1


def test_a_minimal_norm_attack_is_read_at_a_radius(network: Network) -> None:
    """Run for a radius it gives what its run for none gives when read there, and the images within."""
    labels = labels_of(network)
    attack = CW(steps=30, binary_search_steps=3)
    whole = evaluate(network, IMAGES, labels, attack=attack)
    assert whole.summary["robust_accuracy"] == 0
    radius = float(np.median(whole.outcomes.distance))
    read = evaluate(network, IMAGES, labels, attack=attack, eps=radius)
    assert read.summary == pytest.approx(summarize(whole.outcomes.within(radius)))
    assert read.summary["robust_accuracy"] == 0.5
    assert (read.perturbed.double() - IMAGES.double()).flatten(1).norm(dim=1).max() <= radius


@pytest.mark.parametrize(
    ("attack", "chosen", "computed"),
    [(PGD(steps=2), "tf32", "float32"), (PGD(steps=2), "bf16", "bf16"), (CW(steps=2), "bf16", "float32")],
)
def test_an_evaluation_says_in_which_precision_its_gradients_were(
    network: Network, attack: PGD | CW, chosen: Precision, computed: str
) -> None:
    """A CPU has no TF32, and the logits of a minimal-norm attack decide how small a perturbation may be."""
    types: set[torch.dtype] = set()
    network.register_forward_hook(lambda _, images, logits: types.add(logits.dtype))
    result = evaluate(network, IMAGES, labels_of(network), attack=attack, eps=0.1, precision=chosen)
    assert result.precision == computed
    assert (torch.bfloat16 in types) == (computed == "bf16")


def test_clean_errors_count_as_wrong(network: Network) -> None:
    """A deterministic model's mistakes stay mistakes, though an attack may move such an image to its class."""
    labels = (labels_of(network) + 1) % 4
    result = evaluate(network, IMAGES, labels, attack=PGD(steps=20), eps=0.2, targeted="all")
    assert result.summary["clean_accuracy"] == result.summary["robust_accuracy"] == 0


class Rounding(nn.Module):
    """Rounds its input, which has no slope anywhere."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return cast("Tensor", self.network(images.round()))


class NoNumbers(nn.Module):
    """Gives NaN for a bright image, a class for any other."""

    def forward(self, images: Tensor) -> Tensor:
        level = images.flatten(1).mean(1)
        logits = torch.stack([1 - level, 2 * level], dim=1)
        return torch.where(level[:, None] > 0.4, torch.nan, logits)


def test_flags_say_what_speaks_against_a_result(network: Network) -> None:
    """Gradients of zero are flagged, one draw at a time is, and an attack that does well is not."""
    labels = labels_of(network)
    assert evaluate(network, IMAGES, labels, attack=PGD(steps=3), eps=0.05).flags == ()
    rounded = Rounding(network)
    assert evaluate(rounded, IMAGES, labels_of(rounded), attack=PGD(steps=3), eps=0.05).flags == ("zero-gradient",)
    coin = Coin(0.9, slope=0.8)
    assert evaluate(coin, *gray(20), attack=PGD(steps=3), eps=0.05, eot=1).flags == ("no-eot",)
    assert evaluate(coin, *gray(20), attack=PGD(steps=3), eps=0.05).flags == ()


@pytest.mark.parametrize("targeted", ["no", "least-likely"])
def test_transfer_from_the_attacked_model_is_the_attack_itself(network: Network, targeted: Targeted) -> None:
    """The same outcomes for every image, at the same price."""
    labels = labels_of(network)
    options: dict[str, Any] = {"eps": 0.3, "targeted": targeted}
    itself = evaluate(network, IMAGES, labels, attack=MIFGSM(), **options)
    transfer = evaluate(network, IMAGES, labels, attack=Transfer(surrogate=network), **options)
    assert transfer.summary == pytest.approx(itself.summary, rel=0, abs=0, nan_ok=True)
    assert torch.equal(transfer.perturbed, itself.perturbed)
    assert (transfer.backwards, transfer.forwards) == (itself.backwards, itself.forwards)


def test_a_surrogate_sees_where_the_attacked_model_does_not(network: Network) -> None:
    """A network that rounds has no gradients, and falls to images of the one inside it; no check speaks against that."""
    rounded = Rounding(network)
    labels = labels_of(rounded)
    blind = evaluate(rounded, IMAGES, labels, attack=MIFGSM(), eps=0.3)
    assert "zero-gradient" in blind.flags
    seen = evaluate(rounded, IMAGES, labels, attack=Transfer(surrogate=network), eps=0.3)
    assert seen.flags == ()
    assert seen.summary["robust_accuracy"] < blind.summary["robust_accuracy"] - 0.2
    turned = evaluate(network, IMAGES, labels_of(network), attack=Transfer(surrogate=rounded), eps=0.3)
    assert turned.flags == ("zero-gradient",)


def test_the_targets_of_a_transfer_are_the_attacked_models(network: Network) -> None:
    """Those least likely by the attacked model, whatever a surrogate, here one whose classes are turned round, says."""

    class Turned(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return cast("Tensor", -network(images))

    with torch.no_grad():
        least = network(IMAGES).argmin(1)
    attack = Transfer(surrogate=Turned())
    result = evaluate(network, IMAGES, labels_of(network), attack=attack, eps=0.05, targeted="least-likely")
    assert np.array_equal(result.outcomes.targets[0], least.numpy())


def test_a_surrogate_and_the_attacked_model_each_have_their_own_draws() -> None:
    """Which of them is randomized decides on the draws that are followed, on the repeats and on the flags."""
    coin, steady = Coin(0.9, slope=0.8), Coin(0.9, slope=0.8)
    steady.forward = lambda images: torch.stack(  # type: ignore[method-assign]
        [0.4 - 0.8 * images.flatten(1).mean(1), torch.zeros(len(images))], dim=1
    )
    attack = Transfer(surrogate=steady)
    result = evaluate(coin, *gray(20), attack=attack, eps=0.05, repeats=7)
    assert result.outcomes.perturbed.shape == (1, 7, 20)
    assert result.backwards == 20 * 10
    assert result.flags == ()
    attack = Transfer(surrogate=coin)
    for eot, draws, flags in ((1, 1, ("no-eot",)), ("auto", 10, ())):
        result = evaluate(steady, *gray(20), attack=attack, eps=0.05, eot=eot, repeats=7)
        assert result.outcomes.perturbed.shape == (1, 1, 20)
        assert result.backwards == 20 * 10 * draws
        assert result.flags == flags


def test_a_surrogate_of_other_classes_is_named(network: Network) -> None:
    """From Python too."""
    three = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    with pytest.raises(UserError, match=r"^the surrogate .*4"):
        evaluate(network, IMAGES, labels_of(network).clamp_max(2), attack=Transfer(surrogate=three), eps=0.05)


def test_no_number_is_no_right_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a model answers an image in the ball with NaN, the image counts as lost."""
    monkeypatch.setattr(Liar, "returns", staticmethod(lambda images: images + 0.25), raising=False)
    result = evaluate(NoNumbers(), *gray(20), attack=Liar(), eps=0.3)
    assert result.summary["clean_accuracy"] == 1
    assert result.summary["robust_accuracy"] == result.summary["robust_accuracy_vote"] == 0
    assert (result.outcomes.perturbed == NO_NUMBER).all()


def test_progress_is_told_in_images(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """After each slice, how many images are done."""
    monkeypatch.setattr(evaluation, "IMAGES_AT_ONCE", 15)
    counts: list[int] = []
    evaluate(network, IMAGES, labels_of(network), attack=FGSM(), eps=0.1, progress=counts.append)
    assert counts == [15, 30, 40]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attack": PGD}, "attack is <class .*PGD.*>: give an attack with its parameters, such as PGD"),
        ({"images": IMAGES[0]}, r"the images have the shape \(1, 6, 6\)"),
        ({"images": IMAGES[:0]}, "the images"),
        ({"images": 255 * IMAGES}, "the images reach from .* to .*"),
        ({"images": IMAGES * torch.nan}, "the images hold NaN"),
        ({"images": IMAGES[:, :, :3]}, "the model fails on images of shape"),
        (
            {"labels": torch.zeros(39, dtype=torch.int64)},
            "40 images need as many labels",
        ),
        ({"labels": torch.zeros(40)}, "the labels are of type float32"),
        ({"labels": torch.full((40,), 4)}, "the labels reach from 4 to 4, and the model gives 4 logits per image"),
        ({"eps": -0.1}, "eps must be a number that is not negative"),
        ({"eps": None}, "PGD needs a radius: give eps"),
        ({"norm": "l0"}, "PGD does not know the norm l0: it knows linf, l2, l1"),
        ({"repeat": 3}, "evaluate has no parameter 'repeat': did you mean 'repeats'"),
        ({"targeted": "nxt"}, "targeted is 'nxt': it must be 'no', 'next', 'random', 'least-likely' or 'all'"),
        ({"repeats": 0}, "repeats is 0: give a whole number, at least 1"),
        ({"seed": -1}, "seed is -1: give a whole number, at least 0"),
        ({"options": EvaluationOptions()}, "evaluate has options and the keyword 'eps': give eps in options"),
    ],
)
def test_mistakes_from_python_are_named(network: Network, changes: dict[str, Any], message: str) -> None:
    """What a caller gives wrongly is one line that says what would be right."""
    given: dict[str, Any] = {"images": IMAGES, "labels": labels_of(network), "attack": PGD(steps=1), "eps": 0.1}
    given |= changes
    with pytest.raises(UserError, match=message) as error:
        evaluate(network, given.pop("images"), given.pop("labels"), **given)
    assert "\n" not in str(error.value)


def test_options_are_keywords_or_an_object(network: Network) -> None:
    """Both ways give the same evaluation; a radius may be a fraction in both."""
    labels = labels_of(network)
    by_keywords = evaluate(network, IMAGES, labels, attack=PGD(steps=2), eps="8/255", norm="l2", batch_size=7)
    options, context = EvaluationOptions(eps=cast("float", "8/255"), norm="l2"), RunContext(batch_size=7)
    by_objects = evaluate(network, IMAGES, labels, attack=PGD(steps=2), options=options, context=context)
    assert torch.equal(by_keywords.perturbed, by_objects.perturbed)
    assert by_keywords.summary == pytest.approx(by_objects.summary, rel=0, abs=0)


def test_probabilities_are_refused(network: Network) -> None:
    """A softmax at the end would hide the margins from every attack."""
    with pytest.raises(UserError, match="gives probabilities"):
        evaluate(nn.Sequential(network, nn.Softmax(1)), IMAGES, labels_of(network), attack=FGSM(), eps=0.1)


class NoAnswer(MinimalNormAttack):
    """Finds nothing."""

    norms: ClassVar[tuple[Norm, ...]] = ("l2",)

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        return images


def test_nothing_found_is_nothing_lost(network: Network) -> None:
    """An attack that returns the images as they are succeeded at no distance."""
    summary = evaluate(network, IMAGES, labels_of(network), attack=NoAnswer()).summary
    assert summary["robust_accuracy"] == 1
    assert summary["attack_success_rate"] == 0
    assert np.isnan(summary["mean_l2"])


def test_single_draws_are_counted_as_autoattack_counts_them() -> None:
    """Of a model that is right with 0.7 whatever the image, 0.7**2 stand after one attack and 0.7**3 after two.

    The expected accuracy is 0.7 after both. Binomial tests at a level of 0.001.
    """
    model, n = Coin(0.7), 3000
    images, labels = (
        torch.rand(n, 1, 2, 2, generator=torch.Generator().manual_seed(0)),
        torch.zeros(n, dtype=torch.int64),
    )

    def attacked(attack: FixedRadiusAttack, **options: Any) -> Evaluation:
        return evaluate(model, images, labels, attack=attack, eps=1e-9, eot=1, repeats=1, **options)

    first = attacked(PGD(steps=1), accounting="single-draw")
    second = attacked(PGD(steps=2), accounting="single-draw", earlier=first.outcomes)
    for result, power in ((first, 2), (second, 3)):
        standing = round(result.summary["robust_accuracy"] * n)
        assert stats.binomtest(standing, n, 0.7**power).pvalue > 0.001
        assert "single-draw" in result.flags
    assert first.summary["clean_accuracy"] == second.summary["clean_accuracy"]
    honest = attacked(PGD(steps=1))
    assert honest.summary["robust_accuracy"] == honest.summary["clean_accuracy"]
    assert "single-draw" not in honest.flags


def test_of_a_deterministic_model_both_accounts_agree() -> None:
    """There is only one draw, and no flag."""
    images = torch.rand(8, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(8) % 4
    result = evaluate(Network(), images, labels, attack=PGD(steps=2), eps=0.1, accounting="single-draw")
    assert "single-draw" not in result.flags


@pytest.mark.parametrize(
    ("attack", "classes", "few"),
    [
        (APGDDLR(steps=2), 2, True),
        (APGDDLR(steps=2), 3, False),
        (APGDT(steps=2), 3, True),
        (APGDT(steps=2, n_target_classes=2), 3, True),
        (APGDT(steps=2), 9, True),
        (APGDT(steps=2), 10, False),
        (FABT(steps=2), 3, True),
        (FABT(steps=2, n_target_classes=2), 3, False),
        (PGD(steps=2), 2, False),
    ],
    ids=str,
)
def test_a_row_says_that_its_attack_made_do_with_few_classes(attack: Any, classes: int, few: bool) -> None:
    """Where the ratio of logits has too few of them, or the attack too few targets, it runs all the same and says so."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, classes))
    images = torch.rand(5, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(5) % classes
    result = evaluate(model, images, labels, attack=attack, norm="linf", eps=1.0)
    assert ("few-classes" in result.flags) == few
    assert result.summary["robust_accuracy"] < 1


def test_logits_that_saturate_are_no_rejection() -> None:
    """A model whose logits an attack makes all equal says its first class of the image, and holds nothing off."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Threshold(1e9, 0.0))
    labels = torch.arange(40) % 10
    result = evaluate(model, torch.rand(40, 1, 8, 8), labels, attack=PGD(steps=1), eps=0.1)
    assert result.summary["clean_accuracy"] == result.summary["robust_accuracy"] == 0.1
    assert (result.outcomes.perturbed == 0).all()

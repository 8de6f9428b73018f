from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, parametrize

from robustbench_cli.attacks.base.models.enumerable_draws import EnumerableDraws
from robustbench_cli.attacks.base.models.probes import is_randomized
from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.core.errors import Notice, UserError
from robustbench_cli.core.settings import read_value
from robustbench_cli.defenses.base.surgery.batched_ensemble import BatchedEnsemble
from robustbench_cli.defenses.base.training.recipe import Recipe
from robustbench_cli.defenses.base.training.trainer import Trainer, TrainingProgress
from robustbench_cli.defenses.gaussian_noise import GaussianNoise
from robustbench_cli.defenses.hrs import HRS, HRSModel, SwitchingBlock, hrs

CPU = torch.device("cpu")


class Adds(nn.Module):
    """A channel that adds a constant, which identifies it."""

    def __init__(self, number: float) -> None:
        super().__init__()
        self.number = number

    def forward(self, rows: Tensor) -> Tensor:
        return rows + self.number


def switches() -> nn.Module:
    """Two switching blocks whose output identifies the path: block 1 adds 0 to 2, block 2 adds 0, 10, 20 or 30."""
    return nn.Sequential(
        SwitchingBlock([Adds(number) for number in range(3)]),
        SwitchingBlock([Adds(10 * number) for number in range(4)]),
    )


def paths_drawn(model: nn.Module, rows: int) -> Tensor:
    """The index of each row's path, in [0, 12)."""
    output = model(torch.zeros(rows, 1))[:, 0].long()
    return output % 10 * 4 + output // 10


@pytest.fixture
def model(normed: Callable[[], nn.Module]) -> HRSModel:
    """Three blocks of 2, 3 and 2 channels in float64, so paths differ by more than rounding."""
    return hrs(normed(), (1, 8, 8), channels=(2, 3, 2), split=["3", "7"]).double().eval()


IMAGES = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def explicit_paths(model: HRSModel, images: Tensor) -> Tensor:
    """The logits of all paths, by a loop over the channels."""
    outputs = []
    for choice in itertools.product(*(range(len(block.channels)) for block in model.switching_blocks)):
        rows = images
        for block, channel in zip(model.switching_blocks, choice, strict=True):
            rows = block.channels[channel](rows)
        outputs.append(rows)
    return torch.stack(outputs)


@torch.no_grad()
def test_each_row_takes_one_path(model: HRSModel) -> None:
    """Each row of a pass equals the output of a single path, and every path occurs."""
    paths = explicit_paths(model, IMAGES)
    assert torch.cdist(paths.transpose(0, 1), paths.transpose(0, 1)).flatten(1).sort().values[:, 12].min() > 1e-3
    taken: set[int] = set()
    for _ in range(3):
        distance = (model(IMAGES) - paths).abs().amax(2)
        assert distance.min(0).values.max() < 1e-12
        taken |= set(distance.argmin(0).tolist())
    assert taken == set(range(12))


@torch.no_grad()
def test_the_channel_drawn_is_the_channel_run(model: HRSModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """For known draws, each row's logits are those of the path that it drew."""
    draws = [torch.randint(high, (64,), generator=torch.Generator().manual_seed(high)) for high in (2, 3, 2)]
    waiting = iter(draws)
    monkeypatch.setattr(torch, "randint", lambda *_, **__: next(waiting))
    output = model(IMAGES)
    drawn = draws[0] * 6 + draws[1] * 2 + draws[2]
    torch.testing.assert_close(output, explicit_paths(model, IMAGES)[drawn, torch.arange(64)], rtol=0, atol=1e-12)


@torch.no_grad()
def test_all_draws(model: HRSModel) -> None:
    """The enumeration with shared work, and single paths, equal a loop over all paths."""
    expected = explicit_paths(model, IMAGES)
    assert isinstance(model, EnumerableDraws)
    assert model.number_of_draws == 12
    assert model.all_draws(IMAGES).shape == (12, 64, 10)
    torch.testing.assert_close(model.all_draws(IMAGES), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.stack([model.path(i)(IMAGES) for i in range(12)]), expected, rtol=0, atol=1e-12)


def test_gradients_of_all_draws(model: HRSModel) -> None:
    """The gradient through the enumeration is the mean of the single paths' gradients."""
    images = IMAGES.clone().requires_grad_()
    (shared,) = torch.autograd.grad(model.all_draws(images).logsumexp(2).mean(0).sum(), images)
    (alone,) = torch.autograd.grad(explicit_paths(model, images).logsumexp(2).mean(0).sum(), images)
    torch.testing.assert_close(shared, alone, rtol=1e-9, atol=1e-12)


def test_cost_of_all_draws() -> None:
    """The cost of blocks with 784 x 20 and 20 x 20 + 20 x 10 multiplications follows from these numbers."""
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 10), nn.ReLU()
    )
    first, second = 784 * 20, 20 * 20 + 20 * 10
    protected = hrs(model, (1, 28, 28), channels=(5, 4), split="2")
    assert protected.cost_of_all_draws == pytest.approx((5 * first + 20 * second) / (first + second))
    assert hrs(model, (1, 28, 28), channels=(7,)).cost_of_all_draws == 7


class Distances(nn.Linear):
    """The distances to ten points, whose operations torch does not count."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.cdist(rows, self.weight)


def test_blocks_that_cannot_be_counted_cost_the_same() -> None:
    """5 passes of the first one and 20 of the second, over one of both."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 20), Distances(20, 10))
    assert hrs(model, (1, 28, 28), channels=(5, 4), split="1").cost_of_all_draws == 12.5


def test_draws_are_uniform() -> None:
    """12,000 rows are uniform over the 12 paths (chi-square, level 0.001)."""
    counts = paths_drawn(switches(), 12_000).bincount(minlength=12)
    assert stats.chisquare(counts.numpy()).pvalue > 0.001


def test_draws_are_independent() -> None:
    """A row's path is independent of the next row's and of its own in the next pass (chi-square, level 0.001)."""
    model = switches()
    first, second = paths_drawn(model, 20_000), paths_drawn(model, 20_000)
    for one, other in ((first[::2], first[1::2]), (first, second)):
        table = (one * 12 + other).bincount(minlength=144).reshape(12, 12)
        assert stats.chi2_contingency(table.numpy()).pvalue > 0.001


@pytest.mark.parametrize("rows", [0, 1, 2, 5])
def test_few_rows(model: HRSModel, rows: int) -> None:
    """Batches smaller than the number of channels keep their shape, the empty batch too."""
    assert model(IMAGES[:rows]).shape == (rows, 10)
    assert model.all_draws(IMAGES[:rows]).shape == (12, rows, 10)


@pytest.mark.parametrize("block", [0, 1, 2])
@pytest.mark.parametrize("rows", [1, 7, 64])
def test_channels_in_one_call(normed: Callable[[], nn.Module], block: int, rows: int) -> None:
    """All channels in one call, as on a GPU, give each row and its gradients what the row's channel alone gives."""
    switching = hrs(normed(), (1, 8, 8), channels=(3, 4, 3), split=["3", "7"]).double().eval()
    images = torch.rand(rows, 1, 8, 8, dtype=torch.float64)
    for earlier in switching.switching_blocks[:block]:
        images = earlier(images)
    channels = switching.switching_blocks[block].channels
    inputs = images.detach().requires_grad_()
    # The last channel gets no row.
    drawn = torch.randint(len(channels) - 1, (rows,))
    output = switching.switching_blocks[block]._in_one_call(
        inputs, drawn.argsort(stable=True), drawn.bincount(minlength=len(channels))
    )
    assert output is not None
    expected = torch.cat([channels[channel](row) for channel, row in zip(drawn.tolist(), inputs.split(1), strict=True)])
    torch.testing.assert_close(output, expected)
    weights = torch.rand_like(output)
    tensors = [inputs, *channels.parameters()]
    for gradient, alone in zip(
        torch.autograd.grad((output * weights).sum(), tensors),
        torch.autograd.grad((expected * weights).sum(), tensors, allow_unused=True),
        strict=True,
    ):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient) if alone is None else alone)


def test_channels_that_cannot_run_in_one_call() -> None:
    """Batch statistics would include rows that only fill up, and a fully connected layer may not mix feature maps."""
    rows, order, counts = torch.rand(2, 1, 4, 4), torch.arange(2), torch.tensor([1, 1])
    normed = SwitchingBlock([nn.Sequential(nn.BatchNorm2d(1)) for _ in range(2)])
    assert normed.train()._in_one_call(rows, order, counts) is None
    assert normed.eval()._in_one_call(rows, order, counts) is not None
    linear = SwitchingBlock([nn.Sequential(nn.Linear(4, 4)) for _ in range(2)])
    assert linear._in_one_call(rows, order, counts) is None


def test_layers_that_change_after_a_call(normed: Callable[[], nn.Module]) -> None:
    """A block whose layers are replaced, or get a hook, does not go on with the old ones."""
    block = hrs(normed(), (1, 8, 8), channels=(2, 2)).eval().switching_blocks[0]
    rows, order, counts = torch.rand(2, 1, 8, 8), torch.arange(2), torch.tensor([1, 1])
    assert block._in_one_call(rows, order, counts) is not None
    changed = copy.deepcopy(block)
    for channel in changed.channels:
        first = next(name for name, layer in channel.named_modules() if isinstance(layer, nn.Conv2d))
        channel.set_submodule(first, nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()))
    output = changed._in_one_call(rows, order, counts)
    torch.testing.assert_close(output, torch.cat([changed.channels[index](rows[[index]]) for index in range(2)]))
    for layer in block.channels[1].modules():
        layer.register_forward_hook(lambda *_: None)
    assert block._in_one_call(rows, order, counts) is None


def test_channels_run_once_a_pass() -> None:
    """A pass sends each row through one channel of a block."""
    recorded: list[int] = []
    block = SwitchingBlock([nn.Linear(3, 3) for _ in range(10)])
    for channel in block.channels:
        channel.register_forward_hook(lambda _, inputs, __: recorded.append(len(inputs[0])))
    block(torch.rand(256, 3))
    assert sum(recorded) == 256
    assert len(recorded) == 10


def test_channels_are_fresh(normed: Callable[[], nn.Module]) -> None:
    """Channels have new initial weights, different from the model's, and the model stays unchanged."""
    base = normed()
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    protected = hrs(base, (1, 8, 8), channels=(3, 3))
    for block in protected.switching_blocks:
        weights = [parameter for parameter in block.parameters() if parameter.dim() > 1]
        kinds = {weight.shape for weight in weights}
        for kind in kinds:
            alike = [weight for weight in weights if weight.shape == kind]
            alike += [weight for weight in base.parameters() if weight.shape == kind]
            assert all(not torch.equal(one, other) for one, other in itertools.combinations(alike, 2))
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.state_dict().items())


class OwnLayer(nn.Module):
    """A user's layer that draws its weights only in its constructor."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs))

    def forward(self, rows: Tensor) -> Tensor:
        return nn.functional.linear(rows.flatten(1), self.weight)


def test_channels_that_would_be_the_same(digits: Any) -> None:
    """Layers without a reset are a usage error: their channels would learn the same from the same batches."""
    train, _ = digits
    protected = hrs(nn.Sequential(OwnLayer(64, 16), nn.ReLU(), OwnLayer(16, 10)), (1, 8, 8), channels=(1, 2))
    with pytest.raises(UserError, match=r"the channels of block 2 would all be the same.*reset_parameters"):
        HRS(channels=(1, 2)).fit(protected, Trainer(train, Recipe(epochs=1), seed=0, device=CPU))


@pytest.mark.parametrize("parametrization", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_parametrized_layers_are_fresh(parametrization: Callable[[nn.Module], nn.Module]) -> None:
    """The weights of a parametrized layer are initialized for each channel as torch initializes a layer."""
    base = nn.Sequential(nn.Flatten(), parametrization(nn.Linear(64, 32)), nn.ReLU(), nn.Linear(32, 10))
    weights = [
        channel.get_submodule("1").parametrizations.weight.original1
        if parametrization is parametrizations.weight_norm
        else channel.get_submodule("1").parametrizations.weight.original
        for channel in hrs(base, (1, 8, 8), channels=(2, 1)).switching_blocks[0].channels
    ]
    # Uniform within 1/sqrt(64).
    for weight in weights:
        assert stats.kstest(weight.detach().flatten(), stats.uniform(-1 / 8, 1 / 4).cdf).pvalue > 1e-4
    assert abs(stats.pearsonr(*(weight.detach().flatten() for weight in weights)).statistic) < 0.1


class Doubled(nn.Module):
    """A parametrization without an inverse."""

    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def test_weights_that_cannot_be_reinitialized_are_reported() -> None:
    """A parametrization that cannot be set keeps its values in all channels, and a notice says so."""
    layer = nn.Linear(64, 32)
    parametrize.register_parametrization(layer, "weight", Doubled())
    with pytest.warns(
        Notice, match=r"^the weight of a ParametrizedLinear starts with the same value in all channels: "
    ):
        hrs(nn.Sequential(nn.Flatten(), layer, nn.ReLU(), nn.Linear(32, 10)), (1, 8, 8), channels=(2, 2))


def test_any_model() -> None:
    """A ResNet-18 can be protected, is randomized then, and its checkpoint loads into a new one."""
    base = torchvision.models.resnet18(num_classes=10)
    example = torch.rand(4, 3, 32, 32)
    first, second = (HRS(channels=(2, 2)).protect(base, example[:1]).eval() for _ in range(2))
    assert is_randomized(first, example)
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        assert torch.equal(second.all_draws(example), first.all_draws(example))
    assert "blocks.0.channels.1.layer3.1.bn2.running_var" in first.state_dict()


def test_hierarchical_training(digits: Any, normed: Callable[[], nn.Module]) -> None:
    """Blocks are trained in order. Finished blocks stay exactly the same, with dropout off."""
    train, _ = digits
    defense = HRS(channels=(2, 1, 2), split=("3", "7"))
    protected = defense.protect(normed(), train.images[:1])
    previous = {name: tensor.clone() for name, tensor in protected.state_dict().items()}
    names: list[str] = []

    def look(progress: TrainingProgress) -> None:
        names.append(progress.name)
        now = {name: tensor.clone() for name, tensor in protected.state_dict().items()}
        changed = {name.rsplit(".", 2)[0] for name in now if not torch.equal(now[name], previous[name])}
        block = len(names) - 1
        channels = range(len(protected.blocks[block].channels))
        assert changed == {f"blocks.{block}.channels.{channel}" for channel in channels}
        assert not any(module.training for done in protected.blocks[:block] for module in done.modules())
        previous.update(now)

    defense.fit(protected, Trainer(train, Recipe(epochs=1), seed=0, device=CPU, progress=look))
    assert names == ["block 1", "block 2", "block 3"]
    assert all(parameter.requires_grad for parameter in protected.parameters())
    assert not any(module.training for module in protected.modules())


def test_later_channels_meet_every_path(
    digits: Any, normed: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a later block trains, the finished block before it switches row by row."""
    train, _ = digits
    protected = hrs(normed(), (1, 8, 8), channels=(3, 1))
    rows: dict[int, int] = {}
    for number, channel in enumerate(protected.switching_blocks[0].channels):
        channel.register_forward_hook(
            lambda module, inputs, _, number=number: rows.update({number: rows.get(number, 0) + len(inputs[0])})
        )

    def look(progress: TrainingProgress) -> None:
        if progress.name.startswith("block 2"):
            # Plus the images that determine the memory layout.
            assert sum(rows.values()) == len(train) + 2
            assert min(rows.values()) > len(train) / 4
        rows.clear()

    HRS(channels=(3, 1)).fit(protected, Trainer(train, Recipe(epochs=1), seed=0, device=CPU, progress=look))


def test_digits_are_learned(digits: Any, network: Callable[[], nn.Module], accuracy: Callable[..., float]) -> None:
    """3 x 3 channels, trained for twenty epochs each, have more than 90 % accuracy on every path."""
    train, test = digits
    defense = HRS(channels=(3, 3))
    protected = defense.protect(network(), train.images[:1])
    defense.fit(protected, Trainer(train, Recipe(epochs=20), seed=0, device=CPU))
    assert accuracy(protected, test) > 0.9
    assert all(accuracy(protected.path(index), test) > 0.9 for index in range(9))


@pytest.mark.parametrize(
    ("words", "paths", "blocks"),
    [("[10][10]", 100, 2), ("[20][20]", 400, 2), ("[30][30]", 900, 2), ("[5]", 5, 1), ("[5][5][5]", 125, 3)],
)
def test_the_papers_names(words: str, paths: int, blocks: int) -> None:
    """The paper's notation gives one block per bracket, and the product of its numbers is the number of paths."""
    defense = HRS.from_parameters({"channels": read_value(words)}, name="hrs")
    assert defense == HRS(channels=tuple(map(int, words.strip("[]").split("]["))))
    protected = defense.randomize(nn.Sequential(*[nn.Linear(4, 4) for _ in range(6)]), torch.rand(1, 4))
    assert (protected.number_of_draws, len(protected.switching_blocks)) == (paths, blocks)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"channels": "[5, 0]"}, r"hrs.channels.1 is 0: "),
        ({"channels": "[5][0]"}, r"hrs.channels.1 is 0: "),
        ({"channels": "[5][a]"}, r"hrs.channels is '\[5\]\[a\]': give a list, such as \[5, 5\]"),
        ({"channels": "[]"}, r"hrs.channels is \(\)|hrs.channels is \[\]"),
        ({"channels": "[2, 2, 2]", "split": "conv4"}, r"hrs.split is 'conv4': 3 blocks need 2 names, not 1"),
        ({"split": "1.10"}, r"hrs.split is 1.1: give auto, or names of modules in quotes"),
        ({"chanels": "[2, 2]"}, r"did you mean 'channels'\?"),
    ],
)
def test_bad_parameters(parameters: dict[str, str], message: str) -> None:
    """Values out of range are usage errors that name the parameter."""
    with pytest.raises(UserError, match=message):
        HRS.from_parameters({key: read_value(value) for key, value in parameters.items()}, name="hrs")


def test_noise_inside_the_channels(normed: Callable[[], nn.Module]) -> None:
    """A model with noise layers can be cut, and each path has their noise."""
    noisy = GaussianNoise().protect(normed(), torch.rand(1, 1, 8, 8))
    protected = hrs(noisy, (1, 8, 8), channels=(2, 2)).eval()
    assert is_randomized(protected.path(0), torch.rand(2, 1, 8, 8))


def test_channels_trained_adversarially(digits: Any, network: Callable[[], nn.Module]) -> None:
    """Every path is far more robust than every path of channels that were trained on clean images."""
    train, test = digits
    images, labels = test.images[:100], test.labels[:100]
    left = {}
    for objective in ("cross-entropy", "pgd-at"):
        parameters = {"objective": objective, **({"steps": 2} if objective == "pgd-at" else {})}
        defense = HRS.from_parameters({"channels": (2, 2), **parameters}, name="hrs").for_radius(0.15)
        torch.manual_seed(0)
        model = defense.protect(network(), images[:1])
        trainer = Trainer(train, Recipe(epochs=7, lr=0.01), seed=0, device=torch.device("cpu"))
        defense.fit(model, trainer)
        for index in range(4):
            path = model.path(index).eval()
            perturbed = PGD(steps=10)(path, images, labels, eps=0.15)
            with torch.no_grad():
                left[objective, index] = (path(perturbed).argmax(1) == labels).double().mean().item()
        record = trainer.record["trained"]["block 2"]
        assert record.get("eps") == (0.15 if objective == "pgd-at" else None)
    assert min(left["pgd-at", index] for index in range(4)) > 0.15 + max(
        left["cross-entropy", index] for index in range(4)
    )


def test_the_attack_of_the_channels_follows_each_alone(digits: Any, network: Callable[[], nn.Module]) -> None:
    """The loss is the mean of the channels' own losses on images in the ball that each channel's own gradient made."""
    train, _ = digits
    images, labels = train.images[:30], train.labels[:30]
    networks = [network().eval() for _ in range(2)]
    ensemble = BatchedEnsemble(networks, vectorized=False)
    seen: list[Tensor] = []
    sequence = nn.Sequential(nn.Identity(), ensemble).eval()
    sequence[0].register_forward_pre_hook(lambda _, rows: seen.append(rows[0].detach()))
    defense = HRS(objective="pgd-at", eps=0.1, steps=5)
    value = defense.adversarial_loss(sequence, images, labels)
    perturbed = seen[-1].unflatten(0, (2, 30))
    assert len(seen) == 6
    assert (perturbed - images).abs().max() <= 0.1 + 1e-6
    assert not torch.equal(perturbed[0], perturbed[1])
    with torch.no_grad():
        losses = torch.tensor(
            [[functional.cross_entropy(model(rows), labels) for rows in perturbed] for model in networks]
        )
    torch.testing.assert_close(value.detach(), losses.diagonal().mean())
    assert losses[0, 0] > losses[0, 1]
    assert losses[1, 1] > losses[1, 0]


def test_an_attack_without_its_objective() -> None:
    """A radius or steps of an attack that does not run are a usage error, and plain HRS has no new parameter to store."""
    for parameters in ({"eps": 0.1}, {"steps": 3}):
        with pytest.raises(
            UserError, match=r"eps and steps are those of PGD: give objective=pgd-at, or leave them out"
        ):
            HRS.from_parameters(parameters, name="hrs")
    assert set(HRS().for_radius(0.15).model_dump()) == {"channels", "split", "decision", "draws"}
    assert HRS(objective="pgd-at").for_radius(0.15).eps == 0.15

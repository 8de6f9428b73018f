from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy.special import rel_entr
from torch import Tensor, distributions, nn

from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.threat import distance
from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses import registry
from robustbench_cli.defenses.base.training.adversarial import starting_points
from robustbench_cli.defenses.base.training.adversarial_training import kl_divergence
from robustbench_cli.defenses.base.training.recipe import Recipe
from robustbench_cli.defenses.base.training.trainer import Trainer
from robustbench_cli.defenses.free_at import Perturbed

CPU = torch.device("cpu")
EPS = 0.15
TRAINED: dict[str, tuple[str, dict[str, Any]]] = {
    "pgd-at": ("pgd-at", {"steps": 2}),
    "trades": ("trades", {"steps": 2}),
    "mart": ("mart", {"steps": 2}),
    "awp on trades": ("awp", {"objective": "trades", "steps": 2}),
    "fast-at": ("fast-at", {}),
    "free-at": ("free-at", {"replays": 3}),
    "interpolated-at": ("interpolated-at", {"steps": 2}),
    "soae-at": ("soae-at", {}),
    "pgd-at in l2": ("pgd-at", {"norm": "l2", "eps": 0.7, "steps": 2}),
}


def trained(
    name: str, fields: dict[str, Any], train: Any, network: nn.Module, **options: Any
) -> tuple[nn.Module, Trainer]:
    defense = registry.load(name).from_parameters(fields, name=name)
    model = defense.protect(network, train.images[:1])
    trainer = Trainer(train, options.pop("recipe", Recipe(epochs=9, lr=0.01)), seed=0, device=CPU, **options)
    defense.fit(model, trainer)
    return model, trainer


def left_by_pgd(model: nn.Module, test: Any, eps: float = EPS) -> float:
    images, labels = test.images[:250], test.labels[:250]
    perturbed = PGD(steps=10)(model, images, labels, eps=eps)
    with torch.no_grad():
        return (model(perturbed).argmax(1) == labels).double().mean().item()


@pytest.fixture(scope="module")
def left_of_the_undefended(digits: Any, network: Callable[[], nn.Module]) -> float:
    """The accuracy of an undefended network under PGD."""
    torch.manual_seed(0)
    model, _ = trained("none", {}, digits[0], network())
    return left_by_pgd(model, digits[1])


@pytest.mark.parametrize("which", TRAINED)
def test_training_makes_it_robust(
    digits: Any,
    network: Callable[[], nn.Module],
    accuracy: Callable[..., float],
    left_of_the_undefended: float,
    which: str,
) -> None:
    """The accuracy under PGD is far above that of an undefended network, and the clean accuracy stays high."""
    train, test = digits
    name, fields = TRAINED[which]
    model, trainer = trained(name, {"eps": EPS, **fields}, train, network())
    assert accuracy(model, test) > 0.8
    assert left_by_pgd(model, test) > left_of_the_undefended + (0.12 if name == "free-at" else 0.25)
    assert "collapsed_epoch" not in trainer.record["trained"]["adversarial training"]


@pytest.mark.parametrize("name", ["pgd-at", "trades", "mart", "awp", "interpolated-at", "fast-at", "free-at"])
def test_the_images_made_for_training(normed: Callable[[], nn.Module], digits: Any, name: str) -> None:
    """They lie in the ball and the box. Parameters, modes and gradients of the network stay unchanged."""
    train, _ = digits
    images, labels = train.images[:40], train.labels[:40]
    network = normed().train()
    network[0].requires_grad_(False)
    recorded: list[Tensor] = []
    network.register_forward_pre_hook(lambda _, rows: recorded.append(rows[0].detach()))
    defense = registry.load(name).from_parameters({"eps": 0.1}, name=name)
    if name == "free-at":
        wrapped = Perturbed(network, torch.zeros(40, 1, 8, 8)).train()
        for _ in range(3):
            defense.gradients(wrapped, images, labels, [network[3].weight])
        assert wrapped.perturbation.abs().max() == pytest.approx(0.1)
    else:
        defense.loss(network, images, labels)
    for rows in recorded if name != "interpolated-at" else recorded[:-2]:
        assert (rows - images).abs().max() <= 0.1 + 1e-6
        assert rows.min() >= 0
        assert rows.max() <= 1
    assert all(module.training for module in network.modules())
    assert [parameter.requires_grad for parameter in network.parameters()] == [False] * 2 + [True] * 8
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize(
    ("name", "passes"),
    [("pgd-at", 1), ("trades", 2), ("mart", 2), ("awp", 1), ("interpolated-at", 2), ("fast-at", 2), ("free-at", 1)],
)
def test_the_passes_that_batch_norm_learns_from(
    normed: Callable[[], nn.Module], digits: Any, name: str, passes: int
) -> None:
    """Batch statistics come from the passes of the loss, and in one-step training from the attack too."""
    train, _ = digits
    network = normed().train()
    defense = registry.load(name)()
    if name == "free-at":
        wrapped = Perturbed(network, torch.zeros(40, 1, 8, 8)).train()
        defense.gradients(wrapped, train.images[:40], train.labels[:40], list(network.parameters()))
    else:
        defense.loss(network, train.images[:40], train.labels[:40])
    assert network[1].num_batches_tracked == passes


def test_no_gradient_of_a_parameter_while_images_are_made(normed: Callable[[], nn.Module], digits: Any) -> None:
    """The backward passes of the attack compute no gradient of a convolution's weights."""
    train, _ = digits
    images, labels = train.images[:40], train.labels[:40]
    for name in ("pgd-at", "trades", "fast-at"):
        network = normed().train()
        asked: list[Tensor] = []
        for parameter in network.parameters():
            parameter.register_hook(asked.append)
        defense = registry.load(name)()
        value = defense.loss(network, images, labels)
        assert not asked, name
        torch.autograd.grad(value, list(network.parameters()))
        assert len(asked) == len(list(network.parameters()))


def test_kl_divergence() -> None:
    """It equals torch's divergence of categorical distributions and scipy's sum of relative entropies."""
    logits, others = 5 * torch.randn(2, 30, 7)
    expected = distributions.kl_divergence(
        distributions.Categorical(logits=logits), distributions.Categorical(logits=others)
    )
    torch.testing.assert_close(kl_divergence(logits, others), expected)
    p, q = (tensor.double().softmax(1).numpy() for tensor in (logits, others))
    torch.testing.assert_close(
        kl_divergence(logits, others).double(), torch.tensor(rel_entr(p, q).sum(1)), rtol=1e-4, atol=1e-6
    )
    assert kl_divergence(torch.tensor([[200.0, 0.0]]), torch.tensor([[200.0, 0.0]])).item() == 0


@pytest.mark.parametrize("name", ["pgd-at", "trades", "mart", "awp", "interpolated-at"])
@pytest.mark.parametrize(("norm", "radius"), [("l2", 0.5), ("l1", 1.5)])
def test_images_in_other_norms(
    normed: Callable[[], nn.Module], digits: Any, name: str, norm: Norm, radius: float
) -> None:
    """At the usual radius of digits in l2 and l1, PGD's images lie in the ball and the box, and beat random ones there.

    TRADES maximizes the divergence from the clean images' probabilities, the others the cross-entropy.
    """
    train, _ = digits
    images, labels = train.images[:40], train.labels[:40]
    network = normed().train()
    defense = registry.load(name).from_parameters({"norm": norm, "steps": 5}, name=name).for_radius(0.15)
    assert defense.radius == radius
    perturbed = defense.perturb(network, images, labels)
    sizes = distance(perturbed, images, norm)
    assert sizes.max() <= radius * (1 + 1e-5)
    assert sizes.median() > 0.9 * radius
    assert perturbed.min() >= 0
    assert perturbed.max() <= 1
    network.eval()
    at_random = defense.pgd().feasible(images).project(starting_points(images, defense.pgd()))
    with torch.no_grad():
        clean = network(images)
        before, after = (
            kl_divergence(clean, logits).mean() if name == "trades" else nn.functional.cross_entropy(logits, labels)
            for logits in (network(at_random), network(perturbed))
        )
    assert after > before


@pytest.mark.parametrize("name", ["pgd-at", "awp", "free-at", "fast-at"])
def test_a_killed_training_resumes(digits: Any, normed: Callable[[], nn.Module], tmp_path: Any, name: str) -> None:
    """A training that is killed after an epoch and resumed ends with exactly the weights of one that is not."""
    train, _ = digits
    small = type(train)(train.images[:300], train.labels[:300])
    path, fields = tmp_path / "state.safetensors", {"eps": 0.1} | ({"steps": 2} if name in ("pgd-at", "awp") else {})

    class KilledError(Exception):
        """Ends a training early."""

    def kill(progress: Any) -> None:
        if progress.epoch == 1:
            raise KilledError

    def start(**options: Any) -> nn.Module:
        torch.manual_seed(0)
        return trained(name, fields, small, normed(), recipe=Recipe(epochs=8), **options)[0]

    whole = start()
    with pytest.raises(KilledError):
        start(resume=path, progress=kill)
    torch.manual_seed(99)
    for key, tensor in start(resume=path).state_dict().items():
        assert torch.equal(tensor, whole.state_dict()[key]), key


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("pgd-at", {"eps": 0}, r"pgd-at.eps is 0: input should be greater than 0"),
        ("trades", {"beta": -1}, r"trades.beta is -1: input should be greater than or equal to 0"),
        ("mart", {"steps": 0}, r"mart.steps is 0: input should be greater than or equal to 1"),
        ("awp", {"objective": "fast-at"}, r"awp.objective is 'fast-at': input should be 'pgd-at', 'trades' or 'mart'"),
        ("awp", {"gamma": 0}, r"awp.gamma is 0: input should be greater than 0"),
        (
            "awp",
            {"beta": 3},
            r"awp: pgd-at has no beta: leave it out, or give objective=trades or objective=mart",
        ),
        ("fast-at", {"overfitting_drop": 2}, r"fast-at.overfitting_drop is 2: input should be less than or equal to 1"),
        ("free-at", {"replays": 0}, r"free-at.replays is 0: input should be greater than or equal to 1"),
        ("pgd-at", {"eps": 2}, r"pgd-at: eps is 2: give at most 1 in linf, or norm=l2 or norm=l1"),
        ("interpolated-at", {"alpha": 0}, r"interpolated-at.alpha is 0: input should be greater than 0"),
    ],
)
def test_bad_parameters(name: str, fields: dict[str, Any], message: str) -> None:
    """A value out of range is a usage error that names the parameter."""
    with pytest.raises(UserError, match=rf"^{message}$"):
        registry.load(name).from_parameters(fields, name=name)


@pytest.mark.parametrize("mode", ["eval", "train", "batch"])
@pytest.mark.parametrize("name", ["pgd-at", "trades"])
def test_batch_norm_during_the_attack(name: str, mode: str) -> None:
    """Running statistics; statistics of the batch, which update the running ones; or statistics of the batch alone."""
    norm = nn.BatchNorm1d(64)
    network = nn.Sequential(nn.Flatten(), norm, nn.Linear(64, 10)).train()
    with torch.no_grad():
        norm.running_mean.uniform_(0, 5)
    images, labels = torch.rand(40, 1, 8, 8), torch.arange(40) % 10
    defense = registry.load(name)(steps=3, attack_mode=mode)
    seen: list[Tensor] = []
    norm.register_forward_hook(lambda module, inputs, output: seen.append(output.mean(0).abs().max().detach()))
    before = norm.running_mean.clone()
    defense.perturb(network, images, labels)
    assert all(module.training for module in network.modules())
    assert norm.track_running_stats
    # TRADES takes the output on the clean images first.
    assert len(seen) == 3 + (name == "trades")
    normalized_by_the_batch = [float(mean) < 1e-4 for mean in seen]
    assert normalized_by_the_batch == [mode != "eval"] * len(seen)
    assert int(norm.num_batches_tracked) == (len(seen) if mode == "train" else 0)
    assert torch.equal(norm.running_mean, before) == (mode != "train")

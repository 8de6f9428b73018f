from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn
from torch.nn import functional

from robustbench_cli.attacks.latent import Latent
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.training.attention_svm import AttentionSVMs
from robustbench_cli.defenses.base.training.recipe import Recipe
from robustbench_cli.defenses.base.training.trainer import Trainer, TrainingProgress
from robustbench_cli.defenses.ladder import Ladder, LadderModel, _machines

from .base.training.test_resume import resumed

CPU = torch.device("cpu")
IMAGE = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def mlp(classes: int = 10) -> nn.Module:
    """A network without convolutions, because these take the time of a test."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, classes))


class Trained(NamedTuple):
    """A trained network, and the machines that it was trained with."""

    model: LadderModel
    machines: AttentionSVMs
    parts: list[str]


@pytest.fixture(scope="module")
def trained(digits: Any) -> Trained:
    """A network trained on the digits."""
    train, _ = digits
    torch.manual_seed(0)
    defense = Ladder(width=8)
    model = defense.protect(mlp(), IMAGE)
    trainer = Trainer(train, Recipe(epochs=20, lr=0.01), seed=0, device=CPU)
    defense.fit(model, trainer)
    assert isinstance(model, LadderModel)
    return Trained(model.eval(), _machines(model.encoder, trainer), list(trainer.record["trained"]))


@pytest.fixture(scope="module")
def few(digits: Any) -> Any:
    """Digits of three classes, for which few machines have to be fitted."""
    train, _ = digits
    rows = (train.labels < 3).nonzero()[:200, 0]
    return type(train)(train.images[rows], train.labels[rows])


def test_the_boundary_guides_the_images(digits: Any, trained: Trained, accuracy: Callable[..., float]) -> None:
    """Decoded latents keep their class, those as far behind the boundary lose it; the network is as right as the first one."""
    _, test = digits
    model, machines, parts = trained
    assert parts == ["vanilla training", "decoder", "adversarial training"]
    vanilla = model.encoder.network
    clean = accuracy(vanilla, test)
    assert clean > 0.93
    right = []
    for step in (0.0, 0.5, 1.0, 2.0):
        images = Ladder(step=step).perturb(model, machines, test.images, test.labels)
        right.append(accuracy(vanilla, type(test)(images, test.labels)))
    assert right[0] > 0.95 * clean
    assert right == sorted(right, reverse=True)
    assert right[3] < 0.5 * clean
    assert accuracy(model, test) > clean - 0.01


def test_the_loss(trained: Trained, digits: Any) -> None:
    """It is the mean of the cross-entropies on the images and on images decoded by hand, with no gradient through these."""
    train, _ = digits
    model, machines, _ = trained
    images, labels, defense = train.images[:20], train.labels[:20], Ladder(step=0.7)
    torch.manual_seed(3)
    value = defense.loss(model.network, images, labels, model=model, machines=machines)
    torch.manual_seed(3)
    targets = (labels + torch.randint(1, 10, (20,))) % 10
    assert (targets != labels).all()
    latents = model.encoder.network[:3](images)  # type: ignore[index]
    perturbed = model.decoder(machines.towards(latents, labels, targets, 0.7)).detach()
    expected = sum(functional.cross_entropy(model.network(rows), labels) for rows in (images, perturbed)) / 2
    torch.testing.assert_close(value, expected)
    for ours, theirs in zip(
        *(torch.autograd.grad(part, list(model.network.parameters())) for part in (value, expected)), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_the_last_part_starts_from_the_first(few: Any) -> None:
    """With a learning rate of almost 0 nothing moves, so the encoder ends with the weights of the network."""
    defense = Ladder(width=2)
    model = defense.protect(mlp(3), IMAGE)
    assert isinstance(model, LadderModel)
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.zero_()
    defense.fit(model, Trainer(few, Recipe(epochs=1, optimizer="sgd", lr=1e-12), seed=0, device=CPU))
    for name, parameter in model.network.named_parameters():
        torch.testing.assert_close(parameter, model.encoder.network.get_parameter(name))
        assert parameter.ne(0).any()


@pytest.mark.parametrize("phase", ["vanilla training", "decoder", "adversarial training"])
def test_a_killed_training_resumes(few: Any, tmp_path: Path, phase: str) -> None:
    """A training that is killed in any of its parts and resumed ends with exactly the weights of one that is not."""
    defense = Ladder(width=2)

    def start(**options: Any) -> tuple[nn.Module, Trainer]:
        torch.manual_seed(0)
        model = defense.protect(mlp(3), IMAGE)
        return model, Trainer(few, Recipe(epochs=2), seed=0, device=CPU, **options)

    def kill(progress: TrainingProgress) -> bool:
        return (progress.name, progress.epoch) == (phase, 1)

    whole, trainer = start()
    defense.fit(whole, trainer)
    model, _ = resumed(start, defense.fit, tmp_path / "state.safetensors", kill=kill)
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, whole.state_dict()[key]), key


def test_the_latent_attack_finds_the_decoder(trained: Trained, digits: Any) -> None:
    """On a network that is right on nearly all clean images it breaks most of them."""
    _, test = digits
    model, images, labels = trained.model, test.images[:50], test.labels[:50]
    perturbed = Latent(steps=20)(model, images, labels, norm="linf", eps=0.3)
    with torch.no_grad():
        assert (model(images).argmax(1) == labels).double().mean() > 0.9
        assert (model(perturbed).argmax(1) == labels).double().mean() < 0.5


def test_layers_that_do_not_fit() -> None:
    """A layer that does not exist, one whose latent is too large, and a network without a linear layer."""
    with pytest.raises(UserError, match=r"^ladder.layer is 'fc7', no layer of the network: "):
        Ladder(layer="fc7").protect(mlp(), IMAGE)
    with pytest.raises(UserError, match=r"^ladder.layer gives latents of 4096 features, .* give a later layer"):
        Ladder(layer="0").protect(nn.Sequential(nn.Flatten(), nn.Linear(4096, 10)), torch.rand(1, 1, 64, 64))
    with pytest.raises(UserError, match=r"^ladder finds no linear layer in the network: give ladder.layer"):
        Ladder().protect(nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten()), IMAGE)
    with pytest.raises(
        UserError, match=r"^ladder.layer gives .* the decoder of width 1000000 .* or a smaller ladder.width"
    ):
        Ladder(width=10**6).protect(mlp(), IMAGE)
    for layer, features in (("0", 64), ("1", 32), ("2", 32)):
        model = Ladder(layer=layer).protect(mlp(), IMAGE)
        assert isinstance(model, LadderModel)
        assert model.latents_of(IMAGE).shape == (1, features)


def test_bad_parameters() -> None:
    """A negative step and a decoder without channels are usage errors."""
    for key, value in (("step", -1), ("width", 0)):
        with pytest.raises(UserError, match=rf"^ladder.{key} is {value}: input should be"):
            Ladder.from_parameters({key: value}, name="ladder")

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from torch import nn

from robustbench_cli.attacks.base.models.enumerable_draws import EnumerableDraws
from robustbench_cli.attacks.base.models.probes import is_randomized
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses import registry
from robustbench_cli.defenses.base.defense import Defense, defend

IMAGES = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=registry.names())
def defense(request: pytest.FixtureRequest) -> Defense:
    """Each defense of the project, with its defaults."""
    built = registry.load(request.param)()
    assert isinstance(built, Defense)
    return built


def test_the_model_is_left_as_it_is(defense: Defense, normed: Callable[[], nn.Module]) -> None:
    """The user's model keeps its weights, mode and logits, and shares no parameter with the defended model."""
    model = normed().eval()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    logits = model(IMAGES)
    protected = defense.protect(model, IMAGES[:1]).train()
    for parameter in protected.parameters():
        parameter.data.zero_()
    assert torch.equal(model(IMAGES), logits)
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


def test_the_defended_model_keeps_the_contract(defense: Defense, network: Callable[[], nn.Module]) -> None:
    """It maps images to logits, every image has a gradient, and the images stay unchanged."""
    protected = defense.protect(network(), IMAGES[:1]).eval()
    images = IMAGES.clone().requires_grad_()
    logits = protected(images)
    assert logits.shape == (6, 10)
    (gradient,) = torch.autograd.grad(logits.logsumexp(1).sum(), images)
    assert (gradient.flatten(1).abs().amax(1) > 0).all()
    assert torch.equal(images, IMAGES)


def test_draws_follow_the_seed_and_differ_between_rows(defense: Defense, normed: Callable[[], nn.Module]) -> None:
    """A randomized model draws independently for each row, and torch's seed determines all its draws."""
    protected = defense.protect(normed(), IMAGES[:1]).eval()
    copies = IMAGES[:1].repeat(40, 1, 1, 1)
    torch.manual_seed(0)
    first = protected(copies)
    torch.manual_seed(0)
    assert torch.equal(protected(copies), first)
    distinct = len(first.detach().mul(1e4).round().unique(dim=0))
    assert (distinct > 2) == is_randomized(protected, copies)
    if isinstance(protected, EnumerableDraws):
        distance = (protected.all_draws(copies) - first).abs().amax(2)
        assert distance.min(0).values.max() < 1e-5


def test_a_checkpoint_loads_into_one_built_anew(defense: Defense, normed: Callable[[], nn.Module]) -> None:
    """Parameters survive JSON. A new model from them loads the state dict and gives the same logits."""
    again = type(defense).from_parameters(json.loads(defense.model_dump_json()), name="again")
    assert again == defense
    first = defense.protect(normed(), IMAGES[:1]).eval()
    second = again.protect(normed(), IMAGES[1:2]).eval()
    second.load_state_dict(first.state_dict())
    torch.manual_seed(0)
    logits = first(IMAGES)
    torch.manual_seed(0)
    assert torch.equal(second(IMAGES), logits)


def test_mixed_labels(defense: Defense, normed: Callable[[], nn.Module]) -> None:
    """A defense that trains learns from images with mixed labels, or says that it needs one class per image."""
    examples = IMAGES, torch.arange(6)
    recipe = {"epochs": 1, "augmentations": "cutmix"}
    if defense.takes_mixed_labels:
        assert defend(normed(), defense, examples, **recipe)(IMAGES).shape == (6, 10)
    else:
        with pytest.raises(UserError, match="needs one class per image, and cutmix mixes images of several classes"):
            defend(normed(), defense, examples, **recipe)


def test_it_is_documented(defense: Defense) -> None:
    """A defense has a source, a one-line summary, and a description of each parameter."""
    assert defense.paper
    assert str(type(defense).__doc__).partition("\n")[0].endswith((".", ":"))
    assert all(field.description for field in type(defense).model_fields.values())

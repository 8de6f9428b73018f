from __future__ import annotations

from typing import Any

import pytest
import torch

from robustbench_cli.attacks import registry
from robustbench_cli.core.errors import UserError

from .small_model import EPS, IMAGES, LABELS, MODEL, seed_all


@pytest.mark.parametrize(
    ("name", "parameters", "eps"),
    [
        ("LinfPGD", {"steps": 5}, EPS),
        ("L2MomentumIterativeFastGradientMethod", {"steps": 3}, 0.3),
        ("L2CarliniWagnerAttack", {"steps": 10, "binary_search_steps": 2, "initial_const": 10}, None),
        ("LinfDeepFoolAttack", {"steps": 5}, None),
        ("L1FMNAttack", {"steps": 5}, None),
        ("L2RepeatedAdditiveGaussianNoiseAttack", {"repeats": 20}, 2.0),
    ],
)
def test_foolbox_gives_its_own_images(name: str, parameters: dict[str, Any], eps: float | None) -> None:
    """On the same model and seed, the images are those of a call of Foolbox itself."""
    registry.load(f"foolbox:{name}")
    import foolbox

    ours = registry.load(f"foolbox:{name}")(**parameters)(MODEL, IMAGES, LABELS, eps=eps)
    seed_all()
    attack = getattr(foolbox.attacks, name)(**parameters)
    _, theirs, _ = attack(foolbox.PyTorchModel(MODEL, bounds=(0, 1)), IMAGES, LABELS, epsilons=eps)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    assert not torch.equal(ours, IMAGES)


def test_an_untargeted_genattack_is_refused() -> None:
    """GenAttack exists only with targets."""
    with pytest.raises(UserError, match="foolbox:GenAttack needs target classes: give --targeted"):
        registry.load("foolbox:GenAttack")(steps=2)(MODEL, IMAGES, LABELS, eps=EPS)

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from robustbench_cli.attacks import registry

from .small_model import EPS, IMAGES, LABELS, MODEL, seed_all


@pytest.mark.parametrize(
    ("name", "parameters", "eps"),
    [
        ("ProjectedGradientDescent", {"max_iter": 5, "eps_step": 0.02, "num_random_init": 1}, EPS),
        ("FastGradientMethod", {}, EPS),
        ("SquareAttack", {"max_iter": 10}, EPS),
        ("DeepFool", {"max_iter": 5}, None),
        ("CarliniL2Method", {"max_iter": 3, "binary_search_steps": 2, "initial_const": 10.0}, None),
    ],
)
def test_art_gives_its_own_images(name: str, parameters: dict[str, Any], eps: float | None) -> None:
    """On the same model and seed, the images are those of a call of ART itself."""
    ours = registry.load(f"art:{name}")(**parameters)(MODEL, IMAGES, LABELS, eps=eps)
    import art.attacks.evasion
    from art.estimators.classification import PyTorchClassifier

    classifier = PyTorchClassifier(
        MODEL, nn.CrossEntropyLoss(), (1, 6, 6), 5, clip_values=(0.0, 1.0), device_type="cpu"
    )
    seed_all()
    given = {"eps": eps} if eps is not None else {}
    attack = getattr(art.attacks.evasion, name)(classifier, batch_size=6, **given, **parameters)
    attack.set_params(verbose=False) if "verbose" in attack.attack_params else None
    theirs = attack.generate(x=IMAGES.numpy(), y=np.eye(5)[LABELS.numpy()])
    torch.testing.assert_close(ours, torch.as_tensor(theirs), rtol=0, atol=1e-6)
    assert not torch.equal(ours, IMAGES)

from __future__ import annotations

from typing import Any

import pytest
import torch

from robustbench_cli.attacks import registry

from .small_model import EPS, IMAGES, LABELS, MODEL, seed_all


@pytest.mark.parametrize(
    ("name", "parameters", "given"),
    [
        ("PGD", {"steps": 5, "alpha": 0.02}, {"eps": EPS}),
        ("DIFGSM", {"steps": 3, "resize_rate": 0.8}, {"eps": EPS}),
        ("APGD", {"steps": 5}, {"eps": EPS, "norm": "Linf", "seed": ...}),
        ("Square", {"n_queries": 20}, {"eps": EPS, "norm": "Linf", "seed": ...}),
        ("CW", {"steps": 5, "c": 10}, {}),
        ("DeepFool", {"steps": 3}, {}),
    ],
)
def test_torchattacks_gives_its_own_images(name: str, parameters: dict[str, Any], given: dict[str, Any]) -> None:
    """On the same model and seed, the images are those of a call of torchattacks itself."""
    import torchattacks

    attack = registry.load(f"torchattacks:{name}")(**parameters)
    ours = attack(MODEL, IMAGES, LABELS, eps=given.get("eps"))
    seed = seed_all()
    given = {key: seed if value is ... else value for key, value in given.items()}
    theirs = getattr(torchattacks, name)(MODEL, **given, **parameters)(IMAGES, LABELS)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    assert not torch.equal(ours, IMAGES)

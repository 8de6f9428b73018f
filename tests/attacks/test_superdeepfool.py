from __future__ import annotations

import torch

from robustbench_cli.attacks.deepfool import DeepFool
from robustbench_cli.attacks.superdeepfool import SuperDeepFool

from .conftest import Victim


def test_the_perturbation_is_orthogonal_to_the_boundary(digits_victim: Victim) -> None:
    """As a smallest perturbation is, and more than DeepFool's: its cosine with the margin's gradient at its end is near 1."""
    model, images, labels = digits_victim.model, digits_victim.images, digits_victim.labels

    def cosine(attack: DeepFool | SuperDeepFool) -> float:
        perturbed = attack(model, images, labels, norm="l2").requires_grad_()
        logits = model(perturbed)
        best_other = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
        (gradient,) = torch.autograd.grad((best_other - logits.gather(1, labels[:, None])[:, 0]).sum(), perturbed)
        # At the edge of the box a pixel cannot follow the gradient.
        free = (perturbed > 0) & (perturbed < 1)
        change = ((perturbed - images) * free).flatten(1)
        return torch.cosine_similarity(change, (gradient * free).flatten(1)).median().item()

    assert cosine(SuperDeepFool()) > 0.97
    assert cosine(SuperDeepFool()) > cosine(DeepFool())

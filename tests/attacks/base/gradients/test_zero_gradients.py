from __future__ import annotations

import math

import pytest
import torch

from robustbench_cli.attacks.base.gradients.zero_gradients import ZeroGradients


@pytest.mark.parametrize("targeted", [False, True])
def test_the_count_is_that_of_a_loop(*, targeted: bool) -> None:
    """Over queries of different sizes and numbers of losses; ties and logits that are not numbers included."""
    generator = torch.Generator().manual_seed(0)
    counter, expected = ZeroGradients(targeted=targeted), 0
    for query in range(40):
        draws, images, losses = 1 + query % 2, 3 + query % 5, 1 + query // 10
        logits = torch.randint(-2, 3, (draws, images, 4), generator=generator).float()
        logits[0, 0, 0] = torch.nan if query % 7 == 0 else logits[0, 0, 0]
        labels = torch.randint(4, (images,), generator=generator)
        gradients = 1e-40 * torch.randint(2, (losses, images, 1, 1, 2), generator=generator)
        # A source has the same number of draws in each query; here it changes, and nothing may wait.
        counter.add(logits, torch.stack([labels, labels + 1], 1) if query % 3 else labels, gradients)
        counter.count()
        for loss in range(losses):
            for image in range(images):
                unfinished = False
                for draw in range(draws):
                    row = logits[draw, image].tolist()
                    label = row.pop(labels[image])
                    finite = not any(math.isnan(value) for value in [label, *row])
                    unfinished |= finite and (label <= max(row) if targeted else label >= max(row))
                expected += unfinished and not any(gradients[loss, image].flatten().tolist())
    assert counter.count() == expected > 40


@pytest.mark.parametrize("queries", [1, 31, 32, 33, 70])
def test_every_query_is_counted_once(queries: int) -> None:
    """Whether or not it waits for others when the count is read."""
    counter = ZeroGradients(targeted=False)
    for _ in range(queries):
        counter.add(torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]), torch.tensor([0, 0]), torch.zeros(1, 2, 1, 1, 1))
    assert counter.count() == counter.count() == queries

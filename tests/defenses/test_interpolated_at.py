from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from scipy.stats import beta, kstest
from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.defenses.interpolated_at import InterpolatedAT


def test_the_loss_is_the_cross_entropy_to_mixed_labels(normed: Callable[[], nn.Module]) -> None:
    """The loss equals torch's cross-entropy with the same mixture of one-hot labels."""
    network = normed().eval()
    images, perturbed = torch.rand(2, 20, 1, 8, 8)
    labels = torch.randint(10, (20,))
    recorded: list[Tensor] = []

    def forward(rows: Tensor) -> Tensor:
        recorded.append(rows)
        logits: Tensor = network(rows)
        return logits

    value = InterpolatedAT().batch_loss(forward, images, perturbed, labels)
    expected = []
    for rows, mixed in zip((images, perturbed), recorded, strict=True):
        # The pair of images and the coefficient of each row, by least squares over all pairs: the pair with no residual.
        shares = []
        for place, row in enumerate(mixed):
            differences = (rows[place] - rows).flatten(1)
            offsets = (row - rows).flatten(1)
            share = (offsets * differences).sum(1) / differences.square().sum(1)
            residue = (offsets - share[:, None] * differences).norm(dim=1).nan_to_num(torch.inf)
            best = int(residue.argmin())
            alone = (row - rows[place]).norm() < 1e-5
            shares.append((1.0, place) if alone else (share[best].item(), best))
            assert alone or residue[best] < 1e-4
        share = min(each for each, _ in shares)
        order = torch.tensor([place for _, place in shares])
        soft = share * functional.one_hot(labels, 10) + (1 - share) * functional.one_hot(labels[order], 10)
        expected.append(functional.cross_entropy(network(mixed), soft))
    torch.testing.assert_close(value, sum(expected) / 2, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("alpha", [0.4, 1.0])
def test_coefficients_are_drawn_from_the_beta_distribution(alpha: float) -> None:
    """The mixup coefficients pass a Kolmogorov-Smirnov test at level 0.001 over 500 draws."""
    recorded: list[float] = []

    def forward(rows: Tensor) -> Tensor:
        recorded.append(rows.max().item())
        return torch.zeros(2, 3, requires_grad=True)

    images = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)
    while len(recorded) < 500:
        rows = len(recorded)
        InterpolatedAT(alpha=alpha).mixup_loss(forward, images, torch.zeros(2, dtype=torch.int64))
        # If the permutation is the identity, l has no effect; otherwise the larger of l and 1 - l is visible.
        if recorded[rows] == 1.0:
            recorded.pop()
    folded = [max(value, 1 - value) for value in recorded]
    distribution = beta(alpha, alpha)
    assert kstest(folded, lambda x: 2 * distribution.cdf(x) - 1).pvalue > 0.001

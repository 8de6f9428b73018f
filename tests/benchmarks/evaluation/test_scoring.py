from __future__ import annotations

import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.models.measured_model import MeasuredModel
from robustbench_cli.attacks.base.models.special_labels import REJECTED
from robustbench_cli.benchmarks.evaluation.scoring import Candidates, Scorer, _survival


class Linear(nn.Module):
    """Two classes by the mean pixel, with noise."""

    def __init__(self, sigma: float = 0.0) -> None:
        super().__init__()
        self.sigma = sigma

    def forward(self, images: Tensor) -> Tensor:
        level = (images + self.sigma * torch.randn_like(images)).flatten(1).mean(1) - 0.5
        return torch.stack([-level, level], dim=1)


def scorer(model: nn.Module, images: Tensor, **options: int) -> Scorer:
    return Scorer(MeasuredModel(model.eval(), images), repeats=options.get("repeats", 1), seed=0)


def test_survival_ranks_by_the_share_of_draws_and_then_by_the_margin() -> None:
    """Any share outweighs any margin; a rejection of a perturbed image counts as right."""
    logits = torch.tensor([[[2.0, 1.0], [9.0, 1.0], [1.0, 2.0]], [[2.0, 1.0], [1.0, 2.0], [1.0, 9.0]]])
    labels = torch.zeros(3, dtype=torch.int64)
    predictions = logits.argmax(2)
    survival = _survival(logits, predictions, labels, perturbed=True)
    assert survival[0] > survival[1] > survival[2]
    assert survival[0] >= 1
    assert survival[2] <= 0
    rejected = _survival(logits, torch.full_like(predictions, REJECTED), labels, perturbed=True)
    assert (rejected.round() == 1).all()
    assert (_survival(logits, torch.full_like(predictions, REJECTED), labels, perturbed=False).round() == 0).all()


def test_an_image_meets_the_same_draws_in_every_batch() -> None:
    """They depend on its index, not on the other images."""
    images = torch.rand(10, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    score = scorer(Linear(0.5), images, repeats=7)
    indices = torch.arange(10)
    whole = score.logits(images, indices)
    assert torch.allclose(score.logits(images[4:6], indices[4:6]), whole[:, 4:6])
    assert whole.shape == (7, 10, 2)
    assert not torch.allclose(score.logits(images[4:6], indices[:2]), whole[:, 4:6])


def test_the_worst_candidate_is_stored() -> None:
    """Of several targets, whichever comes first; and the distances are those of every candidate."""
    images = torch.full((3, 1, 2, 2), 0.3)
    labels = torch.zeros(3, dtype=torch.int64)
    targets = torch.ones(2, 3, dtype=torch.int64)
    candidates = Candidates(
        scorer(Linear(), images),
        images,
        labels,
        torch.arange(3),
        targets=targets,
        norm="linf",
        rounded=None,
        minimal_norm=False,
    )
    steps = torch.tensor([[0.1, 0.3, 0.2], [0.2, 0.1, 0.2]])
    for step in steps:
        candidates.add(images + step.view(3, 1, 1, 1))
    assert torch.allclose(candidates.worst[:, 0, 0, 0], torch.tensor([0.5, 0.6, 0.5]))
    arrays = candidates.arrays()
    assert torch.allclose(torch.from_numpy(arrays["distance"]).float(), steps)
    assert arrays["perturbed"][:, 0].tolist() == [[0, 1, 0], [0, 0, 0]]
    assert not candidates.failed.any()


def test_a_rounded_image_counts_where_it_is_worse() -> None:
    """A fixed-radius attack takes it; a minimal-norm attack keeps a success that it has."""
    images = torch.full((1, 1, 2, 2), 0.3)
    for start, minimal_norm, level in ((0.45, False, 0.7), (0.45, True, 0.7), (0.55, True, 0.55), (0.55, False, 0.55)):
        candidates = Candidates(
            scorer(Linear(), images),
            images,
            torch.zeros(1, dtype=torch.int64),
            torch.arange(1),
            targets=torch.zeros(0, 1, dtype=torch.int64),
            norm="linf",
            rounded=lambda perturbed: torch.full_like(perturbed, 0.7),
            minimal_norm=minimal_norm,
        )
        candidates.add(torch.full_like(images, start))
        assert candidates.worst.unique().item() == torch.tensor(level).item()

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from robustbench_cli.attacks.base.gradients.eot import EOT, ExactExpectation, gradient_source
from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.losses import cross_entropy, margin
from robustbench_cli.attacks.base.models.row_draws import RowDraws
from robustbench_cli.core.errors import UserError

from .conftest import IMAGES, LABELS, Paths, mean_of_gradients


@pytest.mark.parametrize("batch_size", [None, 1, 3, 5, 100])
def test_the_exact_expectation_is_the_mean_over_all_paths(batch_size: int | None) -> None:
    """Logits and gradients equal those of the single paths, to rounding, at any batch size."""
    model = Paths()
    source = ExactExpectation(model, batch_size=batch_size)
    logits, gradient = source.gradient(IMAGES, LABELS, cross_entropy)
    expected = torch.stack([model.path(index, IMAGES) for index in range(4)])
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(gradient, mean_of_gradients(model))
    torch.testing.assert_close(source.logits(IMAGES), expected)
    assert source.exhaustive


def test_the_gradient_over_draws_is_unbiased() -> None:
    """The mean of 400 gradients of 5 draws each is the mean over all paths (t-test per pixel, familywise level 1e-6)."""
    model = Paths()
    source = EOT(model, draws=5, randomized=True)
    gradients = torch.stack([source.gradient(IMAGES, LABELS, cross_entropy)[1] for _ in range(400)]).double()
    pvalues = stats.ttest_1samp(gradients.numpy(), mean_of_gradients(model).double().numpy()).pvalue
    assert pvalues.min() > 1e-6 / IMAGES.numel()
    # More draws, less noise: the variance of the mean of 5 is a fifth of that of 1.
    single = EOT(model, draws=1, randomized=True)
    ones = torch.stack([single.gradient(IMAGES, LABELS, cross_entropy)[1] for _ in range(400)]).double()
    assert gradients.var(0).sum() / ones.var(0).sum() == pytest.approx(0.2, rel=0.15)


def test_every_image_has_draws_of_its_own() -> None:
    """For one image in many rows with two draws each, all pairs of paths are equally frequent."""
    model = Paths(draws=2)
    logits = EOT(model, draws=2, randomized=True).logits(IMAGES[:1].repeat(1000, 1, 1, 1))
    drawn = (logits - model.path(0, IMAGES[:1])).abs().amax(2) > 1e-3
    counts = (2 * drawn[0].long() + drawn[1].long()).bincount(minlength=4)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-6


@pytest.mark.parametrize(
    ("draws", "batch_size", "rows"),
    [
        (3, None, [21]),
        (3, 100, [21]),
        (3, 12, [9, 12]),
        (3, 7, [3, 6, 6, 6]),
        (3, 3, [3] * 7),
        (5, 2, [1, 2, 2] * 7),
        (5, 4, [2, 3] * 7),
    ],
)
def test_draws_are_cut_to_fit(draws: int, batch_size: int | None, rows: list[int]) -> None:
    """Passes contain as many images times draws as fit, in slices of equal size; no draw is lost."""
    model = Paths()
    source = EOT(model, draws=draws, randomized=True, batch_size=batch_size)
    logits, gradient = source.gradient(IMAGES, LABELS, cross_entropy)
    assert model.rows == rows
    assert logits.shape == (draws, 7, 4)
    assert gradient.shape == IMAGES.shape
    every = torch.stack([model.path(index, IMAGES) for index in range(4)])
    nearest = (logits[:, None] - every[None]).abs().amax(3).amin(1)
    assert (nearest < 1e-5).all()
    # What came out is the mean gradient of the very draws whose logits came out.
    drawn = (logits[:, None] - every[None]).abs().amax(3).argmin(1)
    leaf = IMAGES.clone().requires_grad_()
    taken = torch.stack([model.path(index, leaf) for index in range(4)])[drawn, torch.arange(7)]
    loss = cross_entropy(taken.flatten(0, 1), LABELS.repeat(draws)).sum() / draws
    torch.testing.assert_close(gradient, torch.autograd.grad(loss, leaf)[0])


def test_the_source_is_the_one_asked_for() -> None:
    """A deterministic model has one draw for any choice; a randomized one has K draws, or all of them."""
    cases: list[tuple[GradientSource, type, int, bool]] = [
        (gradient_source(Paths(), eot=10, randomized=False), EOT, 1, True),
        (gradient_source(Paths(), eot="exact", randomized=False), EOT, 1, True),
        (gradient_source(Paths(), eot=1, randomized=True), EOT, 1, False),
        (gradient_source(Paths(), eot=10, randomized=True), EOT, 10, False),
        (gradient_source(Paths(), eot="exact", randomized=True), ExactExpectation, 4, True),
    ]
    for source, kind, draws, exhaustive in cases:
        assert (type(source), source.draws, source.exhaustive) == (kind, draws, exhaustive)


def test_draws_that_cannot_be_counted_are_one_line() -> None:
    """``--eot exact`` for a model that cannot enumerate its draws raises one line with an alternative."""
    with pytest.raises(UserError, match=r"--eot exact: the draws of this defense cannot be counted; .* --eot 10"):
        gradient_source(nn.Flatten(), eot="exact", randomized=True)


def test_draws_that_rows_share_are_taken_in_passes_of_their_own() -> None:
    """If rows share a draw, the K logits of an image are different draws, and each pass contains each image once."""
    passes: list[int] = []

    def model(images: Tensor) -> Tensor:
        passes.append(len(images))
        return images.flatten(1) * 0 + torch.rand(())

    row_draws = RowDraws(model, IMAGES)  # type: ignore[arg-type]
    passes.clear()
    source = EOT(model, draws=6, randomized=True, row_draws=row_draws, batch_size=4)  # type: ignore[arg-type]
    logits, _ = source.gradient(IMAGES, LABELS, margin)
    assert all(len(logits[:, row, 0].unique()) == 6 for row in range(len(IMAGES)))
    assert sorted(passes) == [3] * 6 + [4] * 6


def test_a_frozen_draw_is_one_draw_for_all_questions() -> None:
    """Logits and gradients are those of one fixed offset, at any batch size and in any order."""

    class Shifted(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return (images.flatten(1) + torch.randn(len(images), 9)).tanh() @ torch.eye(9)[:, :4]

    frozen = gradient_source(Shifted(), eot="frozen", randomized=True, seed=3, batch_size=2)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        offset = torch.randn(1, 9)
    leaf = IMAGES.clone().requires_grad_()
    expected = (leaf.flatten(1) + offset).tanh()[:, :4]
    (slope,) = torch.autograd.grad(margin(expected, LABELS).sum(), leaf)
    logits, gradient = frozen.gradient(IMAGES, LABELS, margin)
    assert (frozen.draws, frozen.exhaustive, logits.shape[0]) == (1, True, 1)
    torch.testing.assert_close(logits[0], expected.detach())
    torch.testing.assert_close(gradient, slope)
    torch.testing.assert_close(frozen.logits(IMAGES[[3]])[0], expected.detach()[[3]])
    assert frozen.forwards == len(IMAGES) + 1


def test_the_points_of_an_image_have_draws_of_their_own() -> None:
    """Rows that repeat an image are told apart by their number, wherever they stand in the batch."""
    model = Paths(draws=4096)
    source = EOT(model, draws=3, randomized=True, row_draws=RowDraws(model, IMAGES))
    rows, copies = torch.tensor([4, 0, 4, 4, 0]), torch.tensor([2, 0, 0, 1, 1])
    points = IMAGES[:1].expand(5, -1, -1, -1)

    def drawn(order: Tensor) -> Tensor:
        source.bind_draws(6, torch.arange(10, 17))
        return source.gradient(points, LABELS[:5], margin, rows=rows[order], copies=copies[order])[0]

    logits = drawn(torch.arange(5))
    assert len(logits.flatten(0, 1).unique(dim=0)) == 15
    order = torch.tensor([3, 0, 2, 4, 1])
    torch.testing.assert_close(drawn(order), logits[:, order])
    # Adjacent points with a number of copies are the same points.
    source.bind_draws(6, torch.arange(10, 17))
    adjacent = source.logits(IMAGES[:1].expand(6, -1, -1, -1), rows=torch.tensor([4, 0]), copies=3)
    torch.testing.assert_close(adjacent[:, [2, 3, 0, 1, 4]], logits)


@pytest.mark.parametrize("batch_size", [None, 2, 5])
def test_the_values_are_the_losses_of_the_draws(batch_size: int | None) -> None:
    """Of a sample and of all draws, at any batch size; the gradient is that of the same draws."""
    for source in (
        ExactExpectation(Paths(), batch_size=batch_size),
        EOT(Paths(), draws=6, randomized=True, batch_size=batch_size),
    ):
        logits, values, gradient = source.values_and_gradient(IMAGES, LABELS, cross_entropy)
        expected = torch.stack([nn.functional.cross_entropy(draw, LABELS, reduction="none") for draw in logits])
        torch.testing.assert_close(values, expected)
        assert gradient.shape == IMAGES.shape
    torch.testing.assert_close(
        ExactExpectation(Paths(), batch_size=batch_size).values_and_gradient(IMAGES, LABELS, cross_entropy)[2],
        mean_of_gradients(Paths()),
    )

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

IMAGES = torch.rand(7, 1, 3, 3, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 3, 0, 1, 2])


class Paths(nn.Module):
    """One of D small networks, drawn by each row for itself; all of them can be enumerated."""

    def __init__(self, draws: int = 4, *, cost: float = 2.5) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.first = nn.Parameter(torch.randn(draws, 9, 6, generator=generator), requires_grad=False)
        self.second = nn.Parameter(torch.randn(draws, 6, 4, generator=generator), requires_grad=False)
        self.number_of_draws, self.cost_of_all_draws = draws, cost
        self.rows: list[int] = []

    def path(self, index: int, images: Tensor) -> Tensor:
        return (images.flatten(1) @ self.first[index]).tanh() @ self.second[index]

    def forward(self, images: Tensor) -> Tensor:
        self.rows.append(len(images))
        drawn = torch.randint(self.number_of_draws, (len(images),))
        every = torch.stack([self.path(index, images) for index in range(self.number_of_draws)])
        return every[drawn, torch.arange(len(images))]

    def all_draws(self, images: Tensor) -> Tensor:
        self.rows.append(len(images))
        return torch.stack([self.path(index, images) for index in range(self.number_of_draws)])


def mean_of_gradients(model: Paths) -> Tensor:
    """Path by path and image by image, the gradient of the cross-entropy; and their mean over the paths."""
    total = torch.zeros_like(IMAGES)
    for index in range(model.number_of_draws):
        for row in range(len(IMAGES)):
            leaf = IMAGES[row : row + 1].clone().requires_grad_()
            loss = nn.functional.cross_entropy(model.path(index, leaf), LABELS[row : row + 1])
            total[row] += torch.autograd.grad(loss, leaf)[0][0] / model.number_of_draws
    return total


@pytest.mark.parametrize("batch_size", [None, 1, 3, 5, 100])
def test_the_exact_expectation_is_the_mean_over_all_paths(batch_size: int | None) -> None:
    """Logits and gradient are those of every path alone, to rounding, however the batch is cut."""
    model = Paths()
    source = ExactExpectation(model, batch_size=batch_size)
    logits, gradient = source.gradient(IMAGES, LABELS, cross_entropy)
    expected = torch.stack([model.path(index, IMAGES) for index in range(4)])
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(gradient, mean_of_gradients(model))
    torch.testing.assert_close(source.logits(IMAGES), expected)
    assert source.exhaustive


def test_the_gradient_over_draws_is_unbiased() -> None:
    """The mean of 400 gradients of 5 draws each is the mean over all paths (t-test of each pixel, at level 1e-6 in all)."""
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
    """Of the same image in many rows, with two draws each, all pairs of paths occur about equally often."""
    model = Paths(draws=2)
    logits = EOT(model, draws=2, randomized=True).logits(IMAGES[:1].repeat(1000, 1, 1, 1))
    drawn = (logits - model.path(0, IMAGES[:1])).abs().amax(2) > 1e-3
    counts = (2 * drawn[0].long() + drawn[1].long()).bincount(minlength=4)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-6


@pytest.mark.parametrize("batch_size", [None, 3])
def test_several_losses_cost_one_pass_forward_and_one_back_each(batch_size: int | None) -> None:
    """The slopes of three logits over all paths are those of each alone, for a count of four passes an image and path."""
    source, alone = ExactExpectation(Paths(), batch_size=batch_size), ExactExpectation(Paths(), batch_size=batch_size)
    logits, gradients = source.gradients(IMAGES, LABELS, lambda logits, labels: logits[:, :3])
    assert gradients.shape == (3, *IMAGES.shape)
    for column in range(3):
        expected, slope = alone.gradient(IMAGES, LABELS, lambda logits, labels, column=column: logits[:, column])
        torch.testing.assert_close(logits, expected)
        torch.testing.assert_close(gradients[column], slope)
    assert (source.forwards, source.backwards) == (7 * 2.5, 3 * 7 * 2.5)
    assert (alone.forwards, alone.backwards) == (3 * 7 * 2.5, 3 * 7 * 2.5)


@pytest.mark.parametrize("batch_size", [None, 1, 2, 3, 7, 8, 100])
def test_cutting_the_batch_changes_no_result_of_a_deterministic_model(batch_size: int | None) -> None:
    """Logits and gradient are those of one backward pass over the whole batch."""
    model = Paths(draws=1)
    source = EOT(model, batch_size=batch_size)
    leaf = IMAGES.clone().requires_grad_()
    expected = model.path(0, leaf)
    (slope,) = torch.autograd.grad(nn.functional.cross_entropy(expected, LABELS, reduction="sum"), leaf)
    logits, gradient = source.gradient(IMAGES, LABELS, cross_entropy)
    torch.testing.assert_close(logits[0], expected.detach())
    torch.testing.assert_close(gradient, slope)
    assert torch.equal(source.logits(IMAGES), logits)
    assert source.exhaustive
    assert max(model.rows) <= (batch_size or 7)


@pytest.mark.parametrize(
    ("draws", "batch_size", "rows"),
    [
        (3, None, [21]),
        (3, 100, [21]),
        (3, 12, [9, 12]),
        (3, 7, [3, 6, 6, 6]),
        (3, 3, [3] * 7),
        (5, 2, [2, 2, 1] * 7),
    ],
)
def test_draws_are_cut_to_fit(draws: int, batch_size: int | None, rows: list[int]) -> None:
    """Images times draws pass through at once as far as they fit, in slices of equal size; no draw is lost."""
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


@pytest.mark.parametrize("batch_size", [None, 1, 4])
def test_passes_are_counted(batch_size: int | None) -> None:
    """An image costs a pass a draw, or what all draws together cost; backwards only where a gradient was asked for."""
    for source, cost in (
        (EOT(Paths(), batch_size=batch_size), 1.0),
        (EOT(Paths(), draws=6, randomized=True, batch_size=batch_size), 6.0),
        (ExactExpectation(Paths(cost=2.5), batch_size=batch_size), 2.5),
    ):
        assert source.cost == cost
        source.logits(IMAGES)
        assert (source.forwards, source.backwards) == (7 * cost, 0)
        source.gradient(IMAGES[:2], LABELS[:2], cross_entropy)
        assert (source.forwards, source.backwards) == (9 * cost, 2 * cost)


def test_gradients_belong_to_the_input_alone() -> None:
    """No parameter gets a gradient, no image needs one afterwards, and the logits have no graph."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(9, 4)).requires_grad_(False)
    images = IMAGES.clone()
    logits, gradient = EOT(network).gradient(images, LABELS, cross_entropy)
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not (logits.requires_grad or gradient.requires_grad or images.requires_grad)
    assert images.grad is None
    with torch.no_grad():
        torch.testing.assert_close(EOT(network).gradient(images, LABELS, cross_entropy)[1], gradient)


class Saturated(nn.Module):
    """A softmax so sharp that its gradient underflows for images above 1/2, which are of class 0."""

    def forward(self, images: Tensor) -> Tensor:
        return (images.flatten(1).mean(1, keepdim=True) - 0.5) * torch.tensor([[1e5, -1e5]])


def test_vanished_gradients_are_counted() -> None:
    """The share without a gradient is that of the images that still resist and got zeros; a reached goal is not one."""
    images = torch.tensor([0.9, 0.8, 0.5, 0.2]).view(4, 1, 1, 1).expand(4, 1, 2, 2)
    labels = torch.tensor([0, 0, 0, 0])
    source = EOT(Saturated())
    assert source.zero_gradient_share == 0
    source.gradient(images, labels, cross_entropy)
    assert source.zero_gradient_share == 0.5
    source.gradient(images, labels, lambda logits, labels: -margin(logits, labels))
    assert source.zero_gradient_share == 0.25
    targeted = EOT(Saturated(), targeted=True, batch_size=3)
    targeted.gradient(images, 1 - labels, lambda logits, labels: margin(logits, labels).clamp_max(-1e9))
    assert targeted.zero_gradient_share == 0.75


@pytest.mark.parametrize("batch_size", [None, 3])
def test_a_loss_can_be_told_more_than_the_labels(batch_size: int | None) -> None:
    """Of two columns the loss gets both, row by row; the first says whether an image still resists."""
    images = torch.tensor([0.9, 0.8, 0.5, 0.2]).view(4, 1, 1, 1).expand(4, 1, 2, 2)
    told = torch.tensor([[0, 7], [0, 5], [0, 3], [0, 1]])
    source = EOT(Saturated(), batch_size=batch_size)
    _, gradient = source.gradient(images, told, lambda logits, told: told[:, 1] * cross_entropy(logits, told[:, 0]))
    _, plain = source.gradient(images, told[:, 0], cross_entropy)
    torch.testing.assert_close(gradient, plain * told[:, 1].view(4, 1, 1, 1))
    assert source.zero_gradient_share == 0.5


class Roots(nn.Module):
    """Logits of square roots, whose slope at a pixel of 0 is infinite, and times 0 is no number."""

    def forward(self, images: Tensor) -> Tensor:
        roots = images.flatten(1).sqrt()
        return torch.stack([roots.sum(1), (0 * roots).sum(1)], 1)


def test_a_slope_that_is_not_finite_is_none() -> None:
    """One pixel without a slope does not stop the others."""
    images = torch.tensor([[0.0, 0.25, 1.0]]).view(1, 1, 1, 3)
    _, gradient = EOT(Roots()).gradient(images, torch.tensor([0]), lambda logits, labels: -margin(logits, labels))
    torch.testing.assert_close(gradient.flatten(), torch.tensor([0.0, -1.0, -0.5]))


class CutOff(nn.Module):
    """Computes with numbers that have left the graph."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.tensor(images.detach().flatten(1)[:, :2].numpy())


def test_a_model_without_a_gradient_is_one_line() -> None:
    """A model that detaches its input is told from one whose gradient is zero."""
    with pytest.raises(UserError, match="the model has no gradient"):
        EOT(CutOff()).gradient(IMAGES, LABELS, cross_entropy)


def test_the_source_is_the_one_asked_for() -> None:
    """A deterministic model is asked once whatever is said; a randomized one K times, or in all its draws."""
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
    """``--eot exact`` for a model that cannot enumerate says what can be given instead."""
    with pytest.raises(UserError, match=r"--eot exact: the draws of this defense cannot be counted; .* --eot 10"):
        gradient_source(nn.Flatten(), eot="exact", randomized=True)


def test_draws_that_rows_share_are_taken_in_passes_of_their_own() -> None:
    """Of a model that draws once a pass, the K logits of an image are K different draws, and a pass holds each image once."""
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


def test_memory_that_does_not_suffice_halves_the_batch() -> None:
    """A model that holds 2 rows at most gives, after some attempts, what it gives row by row; one that holds none fails."""
    weight = torch.randn(9, 4, generator=torch.Generator().manual_seed(5))

    def model(images: Tensor, most: int = 2) -> Tensor:
        if len(images) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return (images.flatten(1) @ weight).tanh()

    source = EOT(model)  # type: ignore[arg-type]
    logits, gradient = source.gradient(IMAGES, LABELS, margin)
    alone = [EOT(model).gradient(IMAGES[row : row + 1], LABELS[row : row + 1], margin) for row in range(7)]  # type: ignore[arg-type]
    torch.testing.assert_close(logits, torch.cat([each[0] for each in alone], dim=1))
    torch.testing.assert_close(gradient, torch.cat([each[1] for each in alone]))
    assert source.size.rows is not None
    assert source.size.rows <= 3
    with pytest.raises(torch.OutOfMemoryError):
        EOT(lambda images: model(images, 0)).logits(IMAGES)  # type: ignore[arg-type, return-value]


def test_gradients_in_bf16_point_the_same_way_and_decisions_are_in_float32() -> None:
    """Of a network, nearly all signs agree, and the logits asked for by themselves are those of float32."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(72, 4))
    exact, low = EOT(model), EOT(model, precision="bf16")
    _, expected = exact.gradient(IMAGES, LABELS, margin)
    logits, gradient = low.gradient(IMAGES, LABELS, margin)
    assert logits.dtype == torch.bfloat16
    assert gradient.dtype == torch.float32
    assert (gradient.sign() == expected.sign()).double().mean() > 0.95
    assert not torch.equal(gradient, expected)
    assert torch.equal(low.logits(IMAGES), exact.logits(IMAGES))


def test_a_frozen_draw_is_one_draw_for_all_questions() -> None:
    """Logits and slopes are those of one fixed offset, whatever is asked, in whatever order, and however it is cut."""

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

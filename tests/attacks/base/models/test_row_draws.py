from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from robustbench_cli.attacks.base.models.row_draws import RowDraws, Unit, draw_keys, row_keys

IMAGES = torch.rand(12, 1, 6, 6, generator=torch.Generator().manual_seed(0))
KEYS = row_keys(torch.arange(100, 112))
WEIGHT = torch.randn(36, 5, generator=torch.Generator().manual_seed(1))


def linear(images: Tensor) -> Tensor:
    return images.flatten(1) @ WEIGHT


class Drawn(nn.Module):
    """A linear model whose draws are a parameter."""

    def __init__(self, forward: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.way = forward

    def forward(self, images: Tensor) -> Tensor:
        return self.way(images)


def sub_batch(images: Tensor) -> Tensor:
    """Draws only for some rows, which are themselves random."""
    logits = linear(images)
    chosen = torch.randint(2, (len(images),)) == 1
    logits[chosen] = logits[chosen] + torch.randn_like(logits[chosen])
    return logits


def checkpointed(images: Tensor, *, reentrant: bool) -> Tensor:
    logits: Tensor = checkpoint(
        lambda rows: functional.dropout(linear(rows), 0.5, training=True).tanh(), images, use_reentrant=reentrant
    )
    return logits


def reseeded(images: Tensor) -> Tensor:
    torch.manual_seed(0)
    return linear(images) + torch.randn(len(images), 5)


def with_idle_attention(images: Tensor) -> Tensor:
    """Attention without dropout is a random operation that draws nothing."""
    queries = images.flatten(2)
    attended = functional.scaled_dot_product_attention(queries, queries, queries)
    return linear(attended.view_as(images)) + torch.randn(len(images), 5)


WAYS: dict[str, tuple[Callable[[Tensor], Tensor], Unit]] = {
    "noise": (lambda images: linear(images + 0.3 * torch.randn_like(images)), "row"),
    "channels last": (lambda images: linear(images + torch.randn_like(images.mT.contiguous().mT)), "row"),
    "in place": (lambda images: linear(images + torch.empty_like(images).normal_(0.1, 2)), "row"),
    "uniform": (lambda images: linear(images + torch.empty_like(images).uniform_(-1, 3)), "row"),
    "dropout": (lambda images: functional.dropout(linear(images), 0.4, training=True), "row"),
    "feature dropout": (lambda images: linear(functional.dropout2d(images.repeat(1, 1, 1, 1), 0.4)), "row"),
    "bernoulli": (lambda images: linear(torch.bernoulli(images)), "row"),
    "normal": (lambda images: torch.normal(linear(images), 0.5), "row"),
    "exponential": (lambda images: linear(images + torch.empty_like(images).exponential_(2)), "row"),
    "switch": (lambda images: linear(images) * (1 + torch.randint(3, (len(images),)))[:, None], "row"),
    "rows second": (lambda images: linear(images) + torch.rand(4, len(images), 5).mean(0), "row"),
    "double": (lambda images: linear(images + torch.randn_like(images.double()).float()), "row"),
    "checkpoint": (lambda images: checkpointed(images, reentrant=False), "row"),
    "own seed": (reseeded, "row"),
    "attention": (with_idle_attention, "row"),
    "scalar": (lambda images: linear(images if torch.rand(()) < 0.5 else 1 - images), "pass"),
    "one number": (lambda images: linear(images) + torch.randn(1), "pass"),
    "weights": (lambda images: linear(images) @ torch.randn(5, 5), "pass"),
    "both": (lambda images: linear(images) + torch.randn(len(images), 5) + torch.randn(5), "pass"),
    "permutation": (lambda images: linear(images)[:, torch.randperm(5)], "pass"),
    "some rows": (sub_batch, "alone"),
    "choices": (
        lambda images: linear(images) + torch.multinomial(torch.ones(len(images), 9), 2).sum(1)[:, None],
        "alone",
    ),
}


def logits_and_slopes(draws: RowDraws, cuts: list[slice], seed: int = 7) -> tuple[Tensor, Tensor]:
    logits, slopes = [], []
    for cut in cuts:
        leaf = IMAGES[cut].clone().requires_grad_()
        with draws(KEYS[cut], seed) as model:
            answer = model(leaf)
            if answer.requires_grad:
                answer.square().sum().backward()
        logits.append(answer.detach())
        slopes.append(torch.zeros_like(leaf) if leaf.grad is None else leaf.grad)
    return torch.cat(logits), torch.cat(slopes)


@pytest.mark.parametrize("batch_size", [None, 1])
@pytest.mark.parametrize("name", WAYS)
def test_an_image_draws_the_same_in_any_batch(name: str, batch_size: int | None) -> None:
    """Logits and gradients agree for the whole batch, single rows, slices and another order; other seeds give other draws."""
    forward, unit = WAYS[name]
    draws = RowDraws(Drawn(forward), IMAGES, batch_size=batch_size)
    assert draws.unit == unit
    logits, slopes = logits_and_slopes(draws, [slice(0, 12)])
    for cuts in ([slice(row, row + 1) for row in range(12)], [slice(0, 5), slice(5, 6), slice(6, 12)]):
        cut_logits, cut_slopes = logits_and_slopes(draws, cuts)
        torch.testing.assert_close(cut_logits, logits, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(cut_slopes, slopes, rtol=1e-3, atol=1e-4)
    with draws(KEYS.flip(0), 7) as model, torch.no_grad():
        torch.testing.assert_close(model(IMAGES.flip(0)).flip(0), logits, rtol=1e-4, atol=1e-5)
    if name != "own seed":
        assert any(not torch.allclose(logits_and_slopes(draws, [slice(0, 12)], seed)[0], logits) for seed in range(9))


@pytest.mark.parametrize("name", [name for name, (_, unit) in WAYS.items() if unit != "pass" and name != "own seed"])
def test_rows_draw_independently(name: str) -> None:
    """Copies of an image get different logits."""
    draws = RowDraws(Drawn(WAYS[name][0]), IMAGES)
    with draws(draw_keys(KEYS[:1], range(64)), 3) as model, torch.no_grad():
        logits = model(IMAGES[:1].repeat(64, 1, 1, 1))
    assert len(logits.unique(dim=0)) > 1


def drawn(draw: Callable[[Tensor], Tensor], rows: int = 400, numbers: int = 150) -> Tensor:
    """The draws of a model for many rows."""
    model = Drawn(lambda images: draw(images))
    images = torch.zeros(3, 1, 1, numbers)
    with RowDraws(model, images)(row_keys(torch.arange(rows)), 5) as drawing:
        return drawing(torch.zeros(rows, 1, 1, numbers)).double()


@pytest.mark.parametrize(
    ("draw", "distribution"),
    [
        (lambda images: torch.randn_like(images.flatten(1)), stats.norm()),
        (lambda images: torch.empty(len(images), images.shape[3]).normal_(2, 3), stats.norm(2, 3)),
        (lambda images: torch.rand(len(images), images.shape[3]), stats.uniform()),
        (lambda images: torch.empty(len(images), images.shape[3]).uniform_(-1, 3), stats.uniform(-1, 4)),
        (lambda images: torch.empty(len(images), images.shape[3]).exponential_(2), stats.expon(scale=0.5)),
    ],
    ids=["normal", "mean and std", "uniform", "range", "exponential"],
)
def test_draws_have_torchs_distributions(draw: Callable[[Tensor], Tensor], distribution: stats.rv_continuous) -> None:
    """By the Kolmogorov-Smirnov test at a level of 0.001; neither rows nor columns are correlated."""
    numbers = drawn(draw)
    assert stats.kstest(numbers.flatten().numpy(), distribution.cdf).pvalue > 0.001
    for matrix in (numbers, numbers.T):
        correlation = torch.corrcoef(matrix)
        off = correlation[~torch.eye(len(correlation), dtype=torch.bool)] * math.sqrt(matrix.shape[1])
        assert off.abs().max() < 6
        assert off.var() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    ("draw", "shares"),
    [
        (lambda images: torch.randint(5, (len(images), images.shape[3])), [0.2] * 5),
        (lambda images: torch.randint(2, 4, (len(images), images.shape[3])), [0, 0, 0.5, 0.5]),
        (lambda images: torch.bernoulli(torch.full((len(images), images.shape[3]), 0.3)), [0.7, 0.3]),
        (lambda images: functional.dropout(torch.ones(len(images), images.shape[3]), 0.5), [0.5, 0, 0.5]),
        (lambda images: torch.native_dropout(torch.ones(len(images), images.shape[3]), 0.5, True)[0], [0.5, 0, 0.5]),
    ],
    ids=["integers", "from 2", "bernoulli", "dropout", "native dropout"],
)
def test_draws_have_torchs_frequencies(draw: Callable[[Tensor], Tensor], shares: list[float]) -> None:
    """By the chi-squared test at a level of 0.001."""
    counts = drawn(draw).long().flatten().bincount(minlength=len(shares))
    assert len(counts) == len(shares)
    expected = [share * int(counts.sum()) for share in shares]
    assert all(count == 0 for count, share in zip(counts.tolist(), shares, strict=True) if not share)
    possible = [(count, number) for count, number in zip(counts.tolist(), expected, strict=True) if number]
    assert stats.chisquare(*zip(*possible, strict=True)).pvalue > 0.001


def test_a_model_that_draws_nothing_is_known() -> None:
    """The number of its draws is 0, and the caller's generators do not change."""
    state = torch.get_rng_state()
    assert RowDraws(nn.Sequential(nn.Flatten(), nn.Dropout(0.5)).eval(), IMAGES).number == 0
    assert RowDraws(Drawn(WAYS["noise"][0]), IMAGES).number == 1
    assert torch.equal(torch.get_rng_state(), state)


def only_one_row(images: Tensor) -> Tensor:
    if len(images) > 1:
        raise RuntimeError("one image at a time, please")
    return linear(images) + torch.randn(1, 5)


def test_a_model_that_fails_on_a_batch_runs_row_by_row_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    """Each image passes alone, and one line in the log names the model and its error."""
    draws = RowDraws(Drawn(only_one_row), IMAGES)
    assert draws.unit == "alone"
    logits, _ = logits_and_slopes(draws, [slice(0, 12)])
    assert len(logits) == 12
    (line,) = caplog.messages
    assert line.startswith("Drawn fails on a batch of two or three images") and "one image at a time" in line


def test_a_model_that_draws_unlike_before_runs_row_by_row_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    """A model with an additional draw after its measurement falls back once, with one line in the log."""
    calls: list[int] = []

    def growing(images: Tensor) -> Tensor:
        calls.append(1)
        logits = linear(images) + torch.randn(len(images), 5)
        return logits + torch.randn(len(images), 5) if len(calls) > 100 else logits

    draws = RowDraws(Drawn(growing), IMAGES)
    assert draws.unit == "row"
    calls.extend([1] * 100)
    for _ in range(2):
        logits_and_slopes(draws, [slice(0, 12)])
    assert draws.unit == "alone"
    assert caplog.messages == ["Drawn draws unlike before: each image passes through it alone"]


def test_no_two_draws_of_copies_have_one_key() -> None:
    """1,000 images, nine copies, ten draws each: all keys differ, and a copy's key does not depend on how it is named."""
    keys = row_keys(torch.arange(1000), 9)
    assert len(draw_keys(keys, range(10)).unique()) == 90_000
    rows = torch.randint(1000, (50,), generator=torch.Generator().manual_seed(0))
    numbers = torch.arange(50) % 9
    assert torch.equal(row_keys(rows, numbers), keys.view(1000, 9)[rows, numbers])
    assert torch.equal(row_keys(rows), row_keys(rows, torch.zeros_like(rows)))

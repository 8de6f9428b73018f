from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.models.passes import BatchSize, NoGradientError, logits_of, single_pass
from robustbench_cli.core.errors import UserError

IMAGES = torch.rand(300, 1, 2, 2, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("rows", "cost", "longest"), [(None, 1, 300), (1, 1, 1), (7, 1, 7), (7, 3, 2), (2, 3, 1), (999, 1, 300)]
)
def test_slices_fit_and_are_equal(rows: int | None, cost: float, longest: int) -> None:
    """They cover the whole range once, none is longer than allowed, and their lengths differ by at most 1."""
    slices = list(BatchSize(rows).slices(300, cost=cost))
    assert [index for part in slices for index in range(part.start, part.stop)] == list(range(300))
    lengths = [part.stop - part.start for part in slices]
    assert max(lengths) <= longest
    assert max(lengths) - min(lengths) <= 1


def test_halving_begins_at_the_rows_that_are_there(caplog: pytest.LogCaptureFixture) -> None:
    """For 300 rows of which 50 fit, three attempts fail (300, 150, 75) although 4,096 are allowed; the log has one line."""
    attempts: list[int] = []

    class Small(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            attempts.append(len(images))
            if len(images) > 50:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return images.flatten(1)

    size = BatchSize(4096)
    torch.testing.assert_close(logits_of(Small(), IMAGES, size), IMAGES.flatten(1))
    assert [attempt for attempt in attempts if attempt > 50] == [300, 150, 75]
    attempts.clear()
    logits_of(Small(), IMAGES, size)
    assert max(attempts) <= 50
    assert caplog.messages == ["out of memory with a batch of 300 rows: the batch size is halved until it fits"]


def test_an_error_that_is_no_lack_of_memory_is_the_models() -> None:
    """It is raised at once. If not even a single row fits, one line says so."""

    def fails(images: Tensor) -> Tensor:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    def never_fits(images: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(RuntimeError, match="mat1"):
        logits_of(fails, IMAGES, BatchSize())  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"^out of memory with a batch of one image: give another --device \(OutOf"):
        logits_of(never_fits, IMAGES, BatchSize())  # type: ignore[arg-type]


def test_a_model_that_writes_into_its_input_gets_a_copy() -> None:
    """The images do not change, with and without a graph, and the gradient is right."""
    images = IMAGES.clone()
    torch.testing.assert_close(single_pass(lambda rows: rows.sqrt_().flatten(1), images), IMAGES.sqrt().flatten(1))
    leaf = images.clone().requires_grad_()
    single_pass(lambda rows: rows.sqrt_().flatten(1), leaf).sum().backward()
    torch.testing.assert_close(leaf.grad, 0.5 / IMAGES.sqrt())
    assert torch.equal(images, IMAGES)


def test_a_single_row_may_come_without_its_batch() -> None:
    """``(K,)`` for one row becomes ``(1, K)``; for two rows, and in any other shape, it is an error."""
    squeezed = single_pass(lambda rows: rows.flatten(1).squeeze(0), IMAGES[:1])
    torch.testing.assert_close(squeezed, IMAGES[:1].flatten(1))
    for model in (lambda rows: rows.flatten(), lambda rows: rows, lambda rows: None, lambda rows: rows[:1].flatten(1)):
        with pytest.raises(UserError, match=r"^the model gives logits of (shape|type) .* for 2 images"):
            single_pass(model, IMAGES[:2])  # type: ignore[arg-type]


class Turning(Tensor):
    """A tensor whose gradients have the opposite sign."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_function__(func, types, args, kwargs)
        return tuple(-gradient for gradient in result) if func is torch.autograd.grad else result


def test_logits_of_another_class_become_a_plain_tensor() -> None:
    """With the gradient of the numbers, which the class had turned around."""
    leaf = torch.ones(1, 1, 2, 2, requires_grad=True)
    turned = leaf.flatten(1).as_subclass(Turning)
    assert bool((torch.autograd.grad(turned.sum(), leaf)[0] == -1).all())
    logits = single_pass(lambda rows: rows.flatten(1).as_subclass(Turning), leaf)
    assert type(logits) is Tensor
    assert bool((torch.autograd.grad(logits.sum(), leaf)[0] == 1).all())


class InNumpy(nn.Module):
    """Rounds in NumPy, which has no gradient."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.from_numpy(images.numpy().round()).flatten(1)


def test_a_model_that_leaves_pytorch_is_told_of_bpda() -> None:
    """PyTorch's own advice, detach(), would cut the gradient; without a gradient the model is one like any other."""
    assert single_pass(InNumpy(), IMAGES).shape == (300, 4)
    with pytest.raises(
        NoGradientError, match=r"numpy.*BPDALayer \(docs/randomized-defense\.md\).*attack on its scores"
    ):
        single_pass(InNumpy(), IMAGES.clone().requires_grad_())

    def broken(images: Tensor) -> Tensor:
        raise RuntimeError("another error")

    with pytest.raises(RuntimeError, match="another error"):
        single_pass(broken, IMAGES.clone().requires_grad_())

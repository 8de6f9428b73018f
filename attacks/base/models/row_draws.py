"""Makes the random draws of a model depend on the image, and not on the batch in which the image passes.

Models draw from torch's global generators, for a whole batch at once. An image's draw then depends on its position in
the batch, on the batch size and on the device. This module replaces the random operations of a pass, in three steps:

1. **Record.** The model runs on batches of one, two and three copies of an image. :class:`_Recording` notes each random
   operation and the shape of its result.
2. **Classify.** Operation by operation, the shapes for two and for three rows are compared. An axis of length 2 and
   then 3 is the row axis: the operation draws for each row. Equal shapes mean one draw that all rows share. If neither
   applies, or if two equal passes differ, each row must pass through the model alone.
3. **Replace.** :class:`_RowDrawing` computes each row's numbers from a hash of the row's key, by a counter-based
   generator in integer arithmetic. They are the same at any batch size, in any order and on any device.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from copy import copy
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from robustbench_cli.attacks.base.rng import (
    mix,
    normal_from,
    preserve_generators,
    seed_from,
    seed_generators,
    uniform_from,
)
from robustbench_cli.core.errors import is_out_of_memory, one_line

__all__ = ["RowDraws", "Unit", "draw_keys", "row_keys"]

Unit = Literal["row", "pass", "alone"]
"""The unit that has a random draw of its own.

``"row"``: each row of a batch. ``"pass"``: each pass, whose rows share the draw. ``"alone"``: each row, but it must pass
through the model alone, since the operations do not show how the rows of a batch draw.
"""

_MODEL_ERRORS = RuntimeError, ValueError, IndexError, TypeError, AssertionError
"""Exceptions that a model may raise on a batch of two or three images, if it was not written for that."""


_PASSES = 3
"""Recorded passes per batch size. A draw that depends on the data shows as a difference between them."""

_COPY = 0x2545F4914F6CDD1D
"""The distance of the keys of two copies, odd and large. With 1, draw d of copy c would be draw c of copy d for an image
whose mixed index is 0.
"""

_logger = logging.getLogger(__name__)


class _UnexpectedDrawError(Exception):
    """A random operation differs from the recorded one."""


@dataclass(frozen=True)
class _Draw:
    """One random operation of a recorded pass.

    Attributes:
        operation: The operation's name, without its overload.
        shape: The shape of its result.
        drew: Whether it took numbers from a generator. Attention without dropout does not.
    """

    operation: str
    shape: tuple[int, ...]
    drew: bool


@dataclass(frozen=True)
class _Kind:
    """How an operation draws.

    Attributes:
        axis: The row axis of its result; ``None`` if the rows share the draw, or if nothing is drawn.
        shape: The shape of a shared draw; ``None`` otherwise.
    """

    axis: int | None = None
    shape: tuple[int, ...] | None = None


_IDLE = _Kind()
"""The kind of an operation that draws nothing."""


class RowDraws:
    """A randomized model whose draws are a function of a seed and an image's key, and of nothing else.

    The module's docstring describes the algorithm. A draw that all rows share is the same in every pass with one seed. If
    the model is of :data:`Unit` ``"alone"``, each row gets a pass of its own, for which torch's generators are seeded.

    Args:
        model: In ``eval()`` mode.
        images: ``(N, C, H, W)`` in [0, 1], N >= 1; copies of the first three are used to record how the model draws.
        batch_size: The largest number of rows in a pass; ``None`` for no limit. With 1, a batch of two passes only if the
            draws of one row could also be those of a pass.
    """

    def __init__(self, model: nn.Module, images: Tensor, *, batch_size: int | None = None) -> None:
        self._model = model
        self._kinds = _classify(model, images, batch_size)
        self._draws_in_backward = bool(self.number) and _draws_in_backward(model, images[:1])

    def of_copy(self, model: nn.Module) -> RowDraws:
        """The same for a copy of the model, without any pass through it."""
        draws = copy(self)
        vars(draws)["_model"] = model
        return draws

    @property
    def number(self) -> int | None:
        """The number of operations of a pass that draw; ``None`` if it varies between passes."""
        return None if self._kinds is None else sum(kind != _IDLE for kind in self._kinds)

    @property
    def unit(self) -> Unit:
        """The unit that has a draw of its own; ``"pass"`` also if a randomized model uses none of torch's generators."""
        if self._kinds is None:
            return "alone"
        return "row" if self.number and all(kind.shape is None for kind in self._kinds) else "pass"

    @contextmanager
    def __call__(self, keys: Tensor, seed: int) -> Iterator[Callable[[Tensor], Tensor]]:
        """Ties the model's draws to rows with these keys. Backward passes must also run inside the block.

        Args:
            keys: ``(M,)`` int64, one per row.
            seed: The seed of the pass.

        Yields:
            The function from rows ``(M, C, H, W)`` to logits ``(M, K)``.
        """
        if self._kinds is None:
            yield lambda rows: self._one_by_one(rows, keys, seed)
            return
        seed_generators(seed)
        drawing = _RowDrawing(self._kinds, keys)
        with drawing if self._draws_in_backward else nullcontext():
            yield lambda rows: self._together(rows, keys, seed, drawing)

    def _together(self, rows: Tensor, keys: Tensor, seed: int, drawing: _RowDrawing) -> Tensor:
        try:
            # The dispatch mode slows down each operation by microseconds, also in a backward pass, so it ends here if
            # it can.
            with nullcontext() if self._draws_in_backward else drawing:
                logits: Tensor = self._model(rows)
        except _UnexpectedDrawError:
            _logger.warning("%s draws unlike before: each image passes through it alone", type(self._model).__name__)
            self._kinds = None
            logits = self._one_by_one(rows, keys, seed)
        return logits

    def _one_by_one(self, rows: Tensor, keys: Tensor, seed: int) -> Tensor:
        logits = []
        for row, key in zip(rows.split(1), keys.tolist(), strict=True):
            seed_generators(seed_from(seed, key))
            logits.append(self._model(row))
        return torch.cat(logits)


def row_keys(indices: Tensor, copies: int | Tensor = 1) -> Tensor:
    """Keys for several copies of each image.

    Args:
        indices: ``(N,)`` int64, one number per image.
        copies: The number of copies, which are adjacent; or ``(N,)`` int64, of each row the number among its image's copies.

    Returns:
        ``(N * copies,)`` int64, or ``(N,)``.
    """
    if isinstance(copies, Tensor):
        return mix(mix(indices) + copies * _COPY)
    return mix(mix(indices)[:, None] + torch.arange(copies, device=indices.device) * _COPY).flatten()


def draw_keys(keys: Tensor, draws: range) -> Tensor:
    """Keys for several draws of each row: first all rows with the first draw, then all rows with the next.

    Args:
        keys: ``(N,)`` int64, the rows' keys.
        draws: The numbers of the draws.

    Returns:
        ``(len(draws) * N,)`` int64.
    """
    numbers = torch.arange(draws.start, draws.stop, device=keys.device)
    return mix(keys + mix(numbers)[:, None]).flatten()


def _classify(model: nn.Module, images: Tensor, batch_size: int | None) -> list[_Kind] | None:
    """The kind of each random operation of a pass, in order; ``None`` if the recorded passes do not show it."""
    try:
        with torch.no_grad(), preserve_generators():
            ones = [_recorded(model, images[index % len(images)][None]) for index in range(_PASSES)]
            if not any(draw.drew for one in ones for draw in one):
                return [_IDLE] * len(ones[0])
            if batch_size == 1 and all(one == ones[0] for one in ones) and all(map(_has_row_axis, ones[0])):
                return [_Kind(axis=0) if draw.drew else _IDLE for draw in ones[0]]
            twos, threes = (
                [_recorded(model, images[:1].repeat(count, 1, 1, 1)) for _ in range(_PASSES)] for count in (2, 3)
            )
    except _MODEL_ERRORS as error:
        if is_out_of_memory(error) and batch_size != 1:
            raise
        _logger.warning(
            "%s fails on a batch of two or three images, so each image passes through it alone: %s",
            type(model).__name__,
            one_line(error),
        )
        return None
    if len({tuple(draw.operation for draw in run) for run in (*ones, *twos, *threes)}) > 1:
        return None
    if any(run != runs[0] for runs in (twos, threes) for run in runs):
        return None
    kinds = [_kind(*draws) for draws in zip(twos[0], threes[0], strict=True)]
    clear = [kind for kind in kinds if kind is not None]
    return clear if len(clear) == len(kinds) else None


def _has_row_axis(draw: _Draw) -> bool:
    """Whether the first axis of a draw for one row must be the row axis: it has length 1, and another axis follows."""
    return not draw.drew or (len(draw.shape) > 1 and draw.shape[0] == 1 and draw.operation in _BY_ROW)


def _kind(two: _Draw, three: _Draw) -> _Kind | None:
    """The kind of an operation by its shapes for two and for three rows; ``None`` if the shapes do not show it."""
    if not three.drew:
        return _IDLE
    if two.shape == three.shape:
        return _Kind(shape=two.shape)
    if len(two.shape) != len(three.shape) or three.operation not in _BY_ROW:
        return None
    different = [axis for axis in range(len(two.shape)) if two.shape[axis] != three.shape[axis]]
    axis = different[0]
    return _Kind(axis) if len(different) == 1 and (two.shape[axis], three.shape[axis]) == (2, 3) else None


def _draws_in_backward(model: nn.Module, images: Tensor) -> bool:
    """Whether a model also draws in a backward pass, as gradient checkpointing does when it recomputes a part."""
    try:
        with torch.enable_grad(), preserve_generators():
            logits = model(images.clone().requires_grad_())
            if not logits.requires_grad:
                return False
            recording = _Recording()
            with recording:
                logits.sum().backward()
    except _MODEL_ERRORS as error:
        _logger.warning(
            "%s fails in a trial backward pass, which is taken to draw nothing: %s",
            type(model).__name__,
            one_line(error),
        )
        return False
    return any(draw.drew for draw in recording.draws)


def _recorded(model: nn.Module, rows: Tensor) -> list[_Draw]:
    recording = _Recording()
    with recording:
        model(rows)
    return recording.draws


@cache
def _is_random(operation: OpOverload) -> bool:
    return torch.Tag.nondeterministic_seeded in operation.tags


class _Recording(TorchDispatchMode):
    """Records every random operation.

    Attributes:
        draws: The operations in order.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.draws: list[_Draw] = []

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if not _is_random(func):
            return func(*args, **(kwargs or {}))
        states = _torch_generator_states()
        result = func(*args, **(kwargs or {}))
        drawn = result[0] if isinstance(result, tuple) else result
        drew = (kwargs or {}).get("generator") is not None or _torch_generator_states() != states
        self.draws.append(_Draw(_name(func), tuple(drawn.shape), drew))
        return result


def _torch_generator_states() -> list[bytes]:
    """The states of torch's generators on the CPU and on every CUDA device in use."""
    on_devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return [state.numpy().tobytes() for state in (torch.get_rng_state(), *on_devices)]


class _RowDrawing(TorchDispatchMode):
    """Replaces torch's generators in the random operations of a pass.

    Each operation takes one number, its nonce, from torch's CPU generator, or from the generator that the operation
    names. The nonce and a row's key determine all numbers of that row. A model that seeds its generator in every pass
    therefore draws the same in every pass. Gradient checkpointing resets the generator before it recomputes a part, so
    the nonces and the draws repeat.

    Args:
        kinds: The kinds of a pass's operations, in order.
        keys: ``(M,)`` int64, one per row.
    """

    def __init__(self, kinds: list[_Kind], keys: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._kinds = kinds
        # By device: a model may draw on the CPU, and copying the keys there waits for a GPU.
        self._keys = {keys.device: keys}
        self._done = 0
        self._kind_by_nonce: dict[int, _Kind] = {}

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if not _is_random(func):
            return func(*args, **kwargs)
        generator = kwargs.get("generator")
        source = generator if generator is not None and generator.device.type == "cpu" else torch.default_generator
        nonce = int(torch.randint(2**62, (), generator=source))
        kind = self._kind(nonce)
        if kind.axis is None:
            result = func(*args, **kwargs)
            if kind.shape is not None and tuple(result.shape) != kind.shape:
                raise _UnexpectedDrawError
            return result
        rule = _BY_ROW[_name(func)]
        return rule(_Rows(self._keys, nonce, kind.axis), *args, **{k: v for k, v in kwargs.items() if k != "generator"})

    def _kind(self, nonce: int) -> _Kind:
        """The kind of the next operation; a nonce that occurred before belongs to a recomputed operation."""
        if nonce not in self._kind_by_nonce:
            if self._done == len(self._kinds):
                raise _UnexpectedDrawError
            self._kind_by_nonce[nonce] = self._kinds[self._done]
            self._done += 1
        return self._kind_by_nonce[nonce]


def _name(operation: OpOverload) -> str:
    return str(operation.overloadpacket.__name__)


@dataclass(frozen=True)
class _Rows:
    """The rows of a pass at one random operation.

    Attributes:
        keys: By device: ``(M,)`` int64, one per row. A copy for another device is added where it is needed.
        nonce: The operation's number.
        axis: The row axis of the result.
    """

    keys: dict[torch.device, Tensor]
    nonce: int
    axis: int

    def uniform(self, like: Tensor) -> Tensor:
        """float32 numbers in [0, 1) with the shape and the device of ``like``."""
        return self._drawn(uniform_from, like)

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal float32 numbers with the shape and the device of ``like``."""
        return self._drawn(normal_from, like)

    def _drawn(self, draw: Callable[[Tensor, int], Tensor], like: Tensor) -> Tensor:
        rows = like.shape[self.axis]
        keys = self.keys.get(like.device)
        if keys is None:
            keys = self.keys[like.device] = next(iter(self.keys.values())).to(like.device)
        if rows != len(keys):
            raise _UnexpectedDrawError
        rest = [*like.shape[: self.axis], *like.shape[self.axis + 1 :]]
        numbers = draw(mix(keys + self.nonce), math.prod(rest))
        return numbers.view(rows, *rest).movedim(0, self.axis)


def _empty(size: Any, **kwargs: Any) -> Tensor:
    named = {name: kwargs.get(name) for name in ("dtype", "layout", "device")}
    return torch.empty(size, **named)


def _empty_like(like: Tensor, **kwargs: Any) -> Tensor:
    return torch.empty_like(like, dtype=kwargs.get("dtype"), device=kwargs.get("device"))


def _rand(rows: _Rows, size: Any, **kwargs: Any) -> Tensor:
    into = _empty(size, **kwargs)
    return rows.uniform(into).to(into.dtype)


def _rand_like(rows: _Rows, like: Tensor, **kwargs: Any) -> Tensor:
    into = _empty_like(like, **kwargs)
    return rows.uniform(into).to(into.dtype)


def _uniform_(rows: _Rows, into: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    return into.copy_(low + (high - low) * rows.uniform(into))


def _randn(rows: _Rows, size: Any, **kwargs: Any) -> Tensor:
    into = _empty(size, **kwargs)
    return rows.normal(into).to(into.dtype)


def _randn_like(rows: _Rows, like: Tensor, **kwargs: Any) -> Tensor:
    into = _empty_like(like, **kwargs)
    return rows.normal(into).to(into.dtype)


def _normal_(rows: _Rows, into: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    numbers = rows.normal(into)
    return into.copy_(numbers if (mean, std) == (0.0, 1.0) else mean + std * numbers)


def _normal(rows: _Rows, mean: Tensor | float, std: Tensor | float = 1.0, **kwargs: Any) -> Tensor:
    like = mean + torch.zeros_like(std) if isinstance(std, Tensor) else mean
    assert isinstance(like, Tensor)
    return (mean + std * rows.normal(like)).to(like.dtype)


def _bernoulli(rows: _Rows, probability: Tensor, value: float | None = None) -> Tensor:
    share = probability if value is None else value
    return (rows.uniform(probability) < share).to(probability.dtype)


def _bernoulli_(rows: _Rows, into: Tensor, probability: Tensor | float = 0.5) -> Tensor:
    return into.copy_(rows.uniform(into) < probability)


def _native_dropout(rows: _Rows, values: Tensor, rate: float, train: bool | None) -> tuple[Tensor, Tensor]:
    if train is False:
        return values.clone(), torch.ones_like(values, dtype=torch.bool)
    mask = rows.uniform(values) < 1 - rate
    return values * mask / (1 - rate), mask


def _exponential_(rows: _Rows, into: Tensor, rate: float = 1.0) -> Tensor:
    return into.copy_((1 - rows.uniform(into)).log() / -rate)


def _randint(rows: _Rows, *bounds_and_size: Any, **kwargs: Any) -> Tensor:
    *bounds, size = bounds_and_size
    return _integers(rows, _empty(size, **({"dtype": torch.int64} | _not_none(kwargs))), *bounds)


def _randint_like(rows: _Rows, like: Tensor, *bounds: int, **kwargs: Any) -> Tensor:
    return _integers(rows, _empty_like(like, **kwargs), *bounds)


def _random_(rows: _Rows, into: Tensor, *bounds: int | None) -> Tensor:
    limits = [bound for bound in bounds if bound is not None]
    if not limits:
        raise _UnexpectedDrawError
    return _integers(rows, into, *limits)


def _integers(rows: _Rows, into: Tensor, *bounds: int) -> Tensor:
    low, high = bounds if len(bounds) > 1 else (0, *bounds)
    # A uniform number has 24 random bits.
    if high - low > 1 << 24:
        raise _UnexpectedDrawError
    return into.copy_(low + (rows.uniform(into).double() * (high - low)).floor())


def _not_none(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in kwargs.items() if value is not None}


_BY_ROW: dict[str, Callable[..., Any]] = {
    "rand": _rand,
    "rand_like": _rand_like,
    "uniform_": _uniform_,
    "randn": _randn,
    "randn_like": _randn_like,
    "normal_": _normal_,
    "normal": _normal,
    "bernoulli": _bernoulli,
    "bernoulli_": _bernoulli_,
    "native_dropout": _native_dropout,
    "exponential_": _exponential_,
    "randint": _randint,
    "randint_like": _randint_like,
    "random_": _random_,
}
"""For each of torch's random operations, by name: a function that computes its result row by row."""

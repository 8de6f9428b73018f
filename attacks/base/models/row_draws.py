"""Random draws of a model that belong to an image, not to the batch in which the image passes through the model."""

from __future__ import annotations

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

__all__ = ["RowDraws", "Unit", "draw_keys", "row_keys"]

Unit = Literal["row", "pass", "alone"]
"""What has a random draw of its own: each row of a batch; each pass, so that its rows share the draw; or each row, which
then has to pass through the model alone, because how its rows draw cannot be told apart.
"""

_RETRIES = RuntimeError, ValueError, IndexError, TypeError, AssertionError
"""What a model may raise on a batch of two or three images that it was not made for."""


_PASSES = 3
"""Passes of each size in which a model is watched: what depends on the data shows as a difference between them."""


class _UnexpectedDrawError(Exception):
    """A model drew in a pass what it did not draw when it was measured."""


@dataclass(frozen=True)
class _Draw:
    """One operation of a pass that may draw.

    Attributes:
        operation: The operation's name, without its overload.
        shape: Of what it drew.
        drew: Whether it took numbers from a generator, which attention without dropout does not.
    """

    operation: str
    shape: tuple[int, ...]
    drew: bool


@dataclass(frozen=True)
class _Kind:
    """What an operation draws for.

    Attributes:
        axis: Of what it draws, along which rows are told apart; ``None`` where they share it, or where nothing is drawn.
        shape: Of what the rows share.
    """

    axis: int | None = None
    shape: tuple[int, ...] | None = None


_IDLE = _Kind()


class RowDraws:
    """A randomized model whose draws are a function of a seed, an image's key and nothing else.

    Models draw from torch's global generators, a whole batch at once, so that what an image draws hangs on its place in
    the batch. Here each random operation of a pass is recognized as drawing for each row or for all rows together. What
    is drawn for a row comes from a counter-based generator whose key is the row's own, computed in integers. So an image
    meets the same draws at any batch size, in any order, among any other images and on any device.

    A draw that all rows share is the same in every pass of one seed. A model whose draws are of neither kind (their shapes
    depend on the data, or the operation has no counter-based form here) gets each row in a pass of its own, which torch's
    generators are seeded for.

    Args:
        model: In ``eval()`` mode.
        images: ``(N, C, H, W)`` in [0, 1], N >= 1, to measure how the model draws; copies of the first three are used.
        batch_size: Rows that may pass through the model at once; ``None`` for any number. With 1, two rows pass together
            only where the draws of one row cannot be told from those of a pass.
    """

    def __init__(self, model: nn.Module, images: Tensor, *, batch_size: int | None = None) -> None:
        self._model = model
        self._kinds = _kinds(model, images, batch_size)
        self._draws_again = bool(self.number) and _draws_in_passes_back(model, images[:1])

    def of_copy(self, model: nn.Module) -> RowDraws:
        """The same for a copy of the model, which is asked nothing for it."""
        draws = copy(self)
        vars(draws)["_model"] = model
        return draws

    @property
    def number(self) -> int | None:
        """How many operations of a pass draw; ``None`` where that is not the same in each."""
        return None if self._kinds is None else sum(kind != _IDLE for kind in self._kinds)

    @property
    def unit(self) -> Unit:
        """What has a draw of its own; ``"pass"`` also where a randomized model draws from no generator of torch's."""
        if self._kinds is None:
            return "alone"
        return "row" if self.number and all(kind.shape is None for kind in self._kinds) else "pass"

    @contextmanager
    def __call__(self, keys: Tensor, seed: int) -> Iterator[Callable[[Tensor], Tensor]]:
        """Within it, the model draws for rows with these keys; the passes back belong inside it too.

        Args:
            keys: ``(M,)`` int64, one a row.
            seed: Of the pass.

        Yields:
            The function from rows ``(M, C, H, W)`` to logits ``(M, K)``.
        """
        if self._kinds is None:
            yield lambda rows: self._one_by_one(rows, keys, seed)
            return
        seed_generators(seed)
        drawing = _RowDrawing(self._kinds, keys)
        with drawing if self._draws_again else nullcontext():
            yield lambda rows: self._together(rows, keys, seed, drawing)

    def _together(self, rows: Tensor, keys: Tensor, seed: int, drawing: _RowDrawing) -> Tensor:
        try:
            # Each operation costs some microseconds more inside, in a pass back too.
            with nullcontext() if self._draws_again else drawing:
                logits: Tensor = self._model(rows)
        except _UnexpectedDrawError:
            self._kinds = None
            logits = self._one_by_one(rows, keys, seed)
        return logits

    def _one_by_one(self, rows: Tensor, keys: Tensor, seed: int) -> Tensor:
        logits = []
        for row, key in zip(rows.split(1), keys.tolist(), strict=True):
            seed_generators(seed_from(seed, key))
            logits.append(self._model(row))
        return torch.cat(logits)


def row_keys(places: Tensor, copies: int = 1) -> Tensor:
    """``(N * copies,)``: a key for each copy of images, side by side, with the numbers ``places`` ``(N,)`` int64."""
    return mix(mix(places)[:, None] + torch.arange(copies, device=places.device)).flatten()


def draw_keys(keys: Tensor, draws: range) -> Tensor:
    """``(len(draws) * N,)``: a key for each draw of rows with keys ``(N,)``, one draw of all rows after the other."""
    numbers = torch.arange(draws.start, draws.stop, device=keys.device)
    return mix(keys + mix(numbers)[:, None]).flatten()


def _kinds(model: nn.Module, images: Tensor, batch_size: int | None) -> list[_Kind] | None:
    """What each operation of a pass that may draw does; ``None`` where that cannot be told."""
    try:
        with torch.no_grad(), preserve_generators():
            ones = [_recorded(model, images[index % len(images)][None]) for index in range(_PASSES)]
            if not any(draw.drew for one in ones for draw in one):
                return [_IDLE] * len(ones[0])
            if batch_size == 1 and all(one == ones[0] for one in ones) and all(map(_counts_rows_first, ones[0])):
                return [_Kind(axis=0) if draw.drew else _IDLE for draw in ones[0]]
            twos, threes = (
                [_recorded(model, images[:1].repeat(count, 1, 1, 1)) for _ in range(_PASSES)] for count in (2, 3)
            )
    except _RETRIES:
        return None
    if len({tuple(draw.operation for draw in run) for run in (*ones, *twos, *threes)}) > 1:
        return None
    if any(run != runs[0] for runs in (twos, threes) for run in runs):
        return None
    kinds = [_kind(*draws) for draws in zip(twos[0], threes[0], strict=True)]
    known = [kind for kind in kinds if kind is not None]
    return known if len(known) == len(kinds) else None


def _counts_rows_first(draw: _Draw) -> bool:
    """Whether a draw of one row can only be that row's: it has more dimensions than one, of which the first has length 1."""
    return not draw.drew or (len(draw.shape) > 1 and draw.shape[0] == 1 and draw.operation in _BY_ROW)


def _kind(two: _Draw, three: _Draw) -> _Kind | None:
    """What the same operation draws for, by its shapes for two and for three rows; ``None`` where they do not tell."""
    if not three.drew:
        return _IDLE
    if two.shape == three.shape:
        return _Kind(shape=two.shape)
    if len(two.shape) != len(three.shape) or three.operation not in _BY_ROW:
        return None
    different = [axis for axis in range(len(two.shape)) if two.shape[axis] != three.shape[axis]]
    axis = different[0]
    return _Kind(axis) if len(different) == 1 and (two.shape[axis], three.shape[axis]) == (2, 3) else None


def _draws_in_passes_back(model: nn.Module, images: Tensor) -> bool:
    """Whether a model draws in a pass back too, as it does where gradient checkpointing computes a part of it again."""
    try:
        with torch.enable_grad(), preserve_generators():
            logits = model(images.clone().requires_grad_())
            if not logits.requires_grad:
                return False
            recording = _Recording()
            with recording:
                logits.sum().backward()
    except _RETRIES:
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
    """Notes every random operation.

    Attributes:
        draws: In order.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.draws: list[_Draw] = []

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if not _is_random(func):
            return func(*args, **(kwargs or {}))
        before = _states()
        result = func(*args, **(kwargs or {}))
        drawn = result[0] if isinstance(result, tuple) else result
        drew = (kwargs or {}).get("generator") is not None or _states() != before
        self.draws.append(_Draw(_name(func), tuple(drawn.shape), drew))
        return result


def _states() -> list[bytes]:
    """The states of torch's generators on the CPU and on every CUDA device that is in use."""
    on_devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return [state.numpy().tobytes() for state in (torch.get_rng_state(), *on_devices)]


class _RowDrawing(TorchDispatchMode):
    """Takes the place of torch's generators in the random operations of a pass.

    Every operation takes one number from torch's generator on the CPU (or its own, if it names one), from which and a
    row's key all that the row draws follows. So a model that seeds its generator in each pass draws the same in each, and
    gradient checkpointing, which sets the generator back before it computes again, computes what it has computed before.

    Args:
        kinds: What the operations of a pass do, in order.
        keys: ``(M,)`` int64.
    """

    def __init__(self, kinds: list[_Kind], keys: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._kinds = kinds
        self._keys = keys
        self._done = 0
        self._seen: dict[int, _Kind] = {}

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
        """What the next operation does; or, where it is computed once more for a pass back, what that one did."""
        if nonce not in self._seen:
            if self._done == len(self._kinds):
                raise _UnexpectedDrawError
            self._seen[nonce] = self._kinds[self._done]
            self._done += 1
        return self._seen[nonce]


def _name(operation: OpOverload) -> str:
    return str(operation.overloadpacket.__name__)


@dataclass(frozen=True)
class _Rows:
    """The rows of a pass at one of its random operations.

    Attributes:
        keys: ``(M,)`` int64.
        nonce: The operation's own number.
        axis: Of what is drawn, along which rows are told apart.
    """

    keys: Tensor
    nonce: int
    axis: int

    def uniform(self, like: Tensor) -> Tensor:
        """float32 numbers in [0, 1) of the shape of ``like``, on its device."""
        return self._drawn(uniform_from, like)

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal float32 numbers of the shape of ``like``, on its device."""
        return self._drawn(normal_from, like)

    def _drawn(self, draw: Callable[[Tensor, int], Tensor], like: Tensor) -> Tensor:
        rows = like.shape[self.axis]
        if rows != len(self.keys):
            raise _UnexpectedDrawError
        rest = [*like.shape[: self.axis], *like.shape[self.axis + 1 :]]
        numbers = draw(mix(self.keys.to(like.device) + self.nonce), math.prod(rest))
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
    kept = rows.uniform(values) < 1 - rate
    return values * kept / (1 - rate), kept


def _exponential_(rows: _Rows, into: Tensor, rate: float = 1.0) -> Tensor:
    return into.copy_((1 - rows.uniform(into)).log() / -rate)


def _randint(rows: _Rows, *bounds_and_size: Any, **kwargs: Any) -> Tensor:
    *bounds, size = bounds_and_size
    return _integers(rows, _empty(size, **({"dtype": torch.int64} | _given(kwargs))), *bounds)


def _randint_like(rows: _Rows, like: Tensor, *bounds: int, **kwargs: Any) -> Tensor:
    return _integers(rows, _empty_like(like, **kwargs), *bounds)


def _random_(rows: _Rows, into: Tensor, *bounds: int | None) -> Tensor:
    given = [bound for bound in bounds if bound is not None]
    if not given:
        raise _UnexpectedDrawError
    return _integers(rows, into, *given)


def _integers(rows: _Rows, into: Tensor, *bounds: int) -> Tensor:
    low, high = bounds if len(bounds) > 1 else (0, *bounds)
    if high - low > 1 << 24:
        raise _UnexpectedDrawError
    return into.copy_(low + (rows.uniform(into).double() * (high - low)).floor())


def _given(kwargs: dict[str, Any]) -> dict[str, Any]:
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
"""torch's random operations that can be computed for each row by itself, by the operation's name."""

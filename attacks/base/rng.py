"""Random numbers that depend on the image, and not on its position in a batch."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

__all__ = [
    "Random",
    "mix",
    "normal_from",
    "preserve_generators",
    "seed_from",
    "seed_generators",
    "seeded",
    "uniform_from",
]

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_FIRST = -4658895280553007687  # 0xBF58476D1CE4E5B9
_SECOND = -7723592293110705685  # 0x94D049BB133111EB


class Random:
    """A stream of random numbers for each of N images.

    An image's numbers are a function of its seed and of the number of earlier draws. They are computed in integer
    arithmetic, so they are the same for any batch size, any order, any other images in the batch and any device.

    Source: SplitMix64, in Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators. OOPSLA 2014.

    Args:
        seeds: ``(N,)`` int64, one per image.
    """

    def __init__(self, seeds: Tensor) -> None:
        self._seeds = seeds
        self._draws = 0

    @classmethod
    def of(cls, seed: int, images: Tensor, *, indices: Tensor | None = None) -> Random:
        """The streams of a batch.

        Args:
            seed: The seed of the attack.
            images: ``(N, ...)``; their number and device are used.
            indices: ``(N,)`` int64, a unique number per image; 0 to N - 1 by default.
        """
        indices = torch.arange(len(images)) if indices is None else indices
        return cls(seed_from(seed, "attack") + indices.to(images.device))

    def select(self, rows: Tensor) -> Random:
        """The streams of the images ``rows`` (int64 indices or a mask), in their current state."""
        chosen = Random(self._seeds[rows])
        chosen._draws = self._draws
        return chosen

    @classmethod
    def joined(cls, streams: Sequence[Random]) -> Random:
        """The streams of several batches, one after another.

        Args:
            streams: At least one; all with the same number of earlier draws, such as those of new splits.
        """
        # The streams are of this class.
        joined = cls(torch.cat([stream._seeds for stream in streams]))  # noqa: SLF001
        (joined._draws,) = {stream._draws for stream in streams}  # noqa: SLF001
        return joined

    def split(self) -> Random:
        """Independent new streams for the same images; draws from them do not advance these streams."""
        return Random(self._bits(1)[:, 0])

    def _bits(self, count: int) -> Tensor:
        """``(N, count)`` int64 with 64 random bits each."""
        self._draws += 1
        state = mix(self._seeds * _GOLDEN + _signed(self._draws * 0xD1342543DE82EF95))
        counter = torch.arange(1, count + 1, device=self._seeds.device) * _GOLDEN
        return mix(state[:, None] + counter)

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """``(N, *shape)`` float32, uniform in [0, 1)."""
        bits = _shift(self._bits(math.prod(shape)), 40)
        return (bits.to(torch.float32) * 2.0**-24).view(-1, *shape)

    def normal(self, shape: Sequence[int]) -> Tensor:
        """``(N, *shape)`` float32, standard normal (Box and Muller, 1958)."""
        radius = (-2 * (1 - self.uniform(shape)).log()).sqrt()
        return radius * (2 * math.pi * self.uniform(shape)).cos()

    def integers(self, high: int, shape: Sequence[int] = ()) -> Tensor:
        """Uniform integers.

        Args:
            high: The exclusive bound, far below 2**40, so that the bias of the remainder is negligible.
            shape: The shape of one image's numbers.

        Returns:
            ``(N, *shape)`` int64 in [0, high).
        """
        return (_shift(self._bits(math.prod(shape)), 24) % high).view(-1, *shape)

    def signs(self, shape: Sequence[int]) -> Tensor:
        """``(N, *shape)`` float32, -1 or 1 with equal probability."""
        return 2.0 * self.integers(2, shape) - 1


def uniform_from(keys: Tensor, count: int) -> Tensor:
    """Uniform numbers; each row is a function of its key.

    Args:
        keys: ``(M,)`` int64.
        count: The number of values per row.

    Returns:
        ``(M, count)`` float32 in [0, 1).
    """
    return _numbers_from(keys, count, lambda first, second: (first.mul_(2.0**-24), second.mul_(2.0**-24)))


def normal_from(keys: Tensor, count: int) -> Tensor:
    """Standard normal numbers (Box and Muller, 1958); each row is a function of its key.

    Args:
        keys: ``(M,)`` int64.
        count: The number of values per row.

    Returns:
        ``(M, count)`` float32.
    """
    return _numbers_from(keys, count, _box_muller)


def _box_muller(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    radius = first.add_(1).mul_(2.0**-24).log_().mul_(-2).sqrt_()
    angle = second.mul_(2 * math.pi * 2.0**-24)
    return radius * angle.cos(), radius.mul_(angle.sin_())


_CHUNK = 1 << 14
"""The number of 64-bit integers per chunk on a CPU, so that a chunk stays in the cache between operations."""


def _numbers_from(keys: Tensor, count: int, finish: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Tensor:
    """``(M, count)`` numbers; ``finish`` maps two integers in [0, 2**24), from one mixed 64-bit word, to two numbers."""
    half = (count + 1) // 2
    counter = torch.arange(1, half + 1, device=keys.device) * _GOLDEN
    rows_per_chunk = max(1, _CHUNK // max(1, half)) if keys.device.type == "cpu" else max(1, len(keys))
    numbers = torch.empty(len(keys), count, device=keys.device)
    for start in range(0, len(keys), rows_per_chunk):
        rows = slice(start, start + rows_per_chunk)
        bits = mix(keys[rows, None] + counter)
        first, second = finish(_shift(bits, 40).float(), (bits & 0xFFFFFF).float())
        numbers[rows, :half] = first
        numbers[rows, half:] = second[:, : count - half]
    return numbers


def seed_from(*parts: int | str) -> int:
    """A seed in [0, 2**62), which is a hash of the parts and of their order."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 2


def seed_generators(seed: int) -> None:
    """Seeds torch's generators on the CPU and, if CUDA is in use, on every CUDA device.

    ``torch.manual_seed`` does the same, but takes as long as a pass of a small network if CUDA is not in use.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


@contextmanager
def preserve_generators() -> Iterator[None]:
    """Restores torch's generators on the CPU and on every CUDA device at the end of the context."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        yield


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds torch's generators inside the context, and restores the caller's generators at its end."""
    with preserve_generators():
        seed_generators(seed)
        yield


def _signed(number: int) -> int:
    """The lowest 64 bits of a non-negative integer, read as a signed integer."""
    low = number & 0xFFFFFFFFFFFFFFFF
    return low - (1 << 64) if low >> 63 else low


def _shift(bits: Tensor, count: int) -> Tensor:
    """The logical right shift: torch's arithmetic shift with the copies of the sign bit masked away."""
    return (bits >> count) & ((1 << (64 - count)) - 1)


def mix(state: Tensor) -> Tensor:
    """The finalizer of SplitMix64 on int64 numbers: each bit of the result depends on all bits of the input."""
    state = (state ^ _shift(state, 30)) * _FIRST
    state = (state ^ _shift(state, 27)) * _SECOND
    return state ^ _shift(state, 31)

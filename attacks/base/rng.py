"""Random numbers that belong to an image, not to its place in a batch."""

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

    An image's numbers are a function of its own seed and of how many draws came before, computed by the SplitMix64
    generator (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014) in integer arithmetic.
    So they are the same whatever the batch size, the batch mates, the order and the device.

    Args:
        seeds: ``(N,)`` int64, one an image.
    """

    def __init__(self, seeds: Tensor) -> None:
        self._seeds = seeds
        self._draws = 0

    @classmethod
    def of(cls, seed: int, images: Tensor, *, places: Tensor | None = None) -> Random:
        """Streams for a batch whose images are told apart by their places ``(N,)``, 0 to N - 1 where not given."""
        places = torch.arange(len(images)) if places is None else places
        return cls(seed_from(seed, "attack") + places.to(images.device))

    def select(self, rows: Tensor) -> Random:
        """The streams of the images ``rows`` (int64 indices or a mask), where they stand now."""
        chosen = Random(self._seeds[rows])
        chosen._draws = self._draws
        return chosen

    def split(self) -> Random:
        """New streams for the same images: what is drawn from them leaves these here where they stand."""
        return Random(self._bits(1)[:, 0])

    def _bits(self, count: int) -> Tensor:
        """``(N, count)`` int64 whose 64 bits are all random."""
        self._draws += 1
        state = mix(self._seeds * _GOLDEN + _signed(self._draws * 0xD1342543DE82EF95))
        place = torch.arange(1, count + 1, device=self._seeds.device) * _GOLDEN
        return mix(state[:, None] + place)

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """``(N, *shape)`` float32, uniform in [0, 1)."""
        bits = _shift(self._bits(math.prod(shape)), 40)
        return (bits.to(torch.float32) * 2.0**-24).view(-1, *shape)

    def normal(self, shape: Sequence[int]) -> Tensor:
        """``(N, *shape)`` float32, standard normal (Box and Muller, 1958)."""
        radius = (-2 * (1 - self.uniform(shape)).log()).sqrt()
        return radius * (2 * math.pi * self.uniform(shape)).cos()

    def integers(self, high: int, shape: Sequence[int] = ()) -> Tensor:
        """``(N, *shape)`` int64, uniform in [0, high) for a ``high`` far below 2**40."""
        return (_shift(self._bits(math.prod(shape)), 24) % high).view(-1, *shape)


def uniform_from(keys: Tensor, count: int) -> Tensor:
    """``(M, count)`` float32 uniform in [0, 1), each row a function of its key.

    Args:
        keys: ``(M,)`` int64.
        count: Numbers for each.
    """
    return _numbers_from(keys, count, lambda one, other: (one.mul_(2.0**-24), other.mul_(2.0**-24)))


def normal_from(keys: Tensor, count: int) -> Tensor:
    """``(M, count)`` float32 standard normal (Box and Muller, 1958), each row a function of its key.

    Args:
        keys: ``(M,)`` int64.
        count: Numbers for each.
    """
    return _numbers_from(keys, count, _box_muller)


def _box_muller(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    radius = one.add_(1).mul_(2.0**-24).log_().mul_(-2).sqrt_()
    angle = other.mul_(2 * math.pi * 2.0**-24)
    return radius * angle.cos(), radius.mul_(angle.sin_())


_CACHED = 1 << 14
"""64-bit integers that are mixed at a time on a CPU, whose cache holds them between the operations."""


def _numbers_from(keys: Tensor, count: int, finish: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Tensor:
    """``(M, count)``, by what ``finish`` makes of two integers in [0, 2**24) as float32; 64 random bits give both."""
    half = (count + 1) // 2
    places = torch.arange(1, half + 1, device=keys.device) * _GOLDEN
    at_once = max(1, _CACHED // max(1, half)) if keys.device.type == "cpu" else max(1, len(keys))
    numbers = torch.empty(len(keys), count, device=keys.device)
    for start in range(0, len(keys), at_once):
        rows = slice(start, start + at_once)
        bits = mix(keys[rows, None] + places)
        first, second = finish(_shift(bits, 40).float(), (bits & 0xFFFFFF).float())
        numbers[rows, :half] = first
        numbers[rows, half:] = second[:, : count - half]
    return numbers


def seed_from(*parts: int | str) -> int:
    """A seed in [0, 2**62) that is a function of the parts, and unlike that of any other parts."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 2


def seed_generators(seed: int) -> None:
    """Lets torch's random numbers follow from ``seed``, on the CPU and on every CUDA device where any is in use.

    ``torch.manual_seed`` does so too, and takes as long as a small network's pass where no CUDA device is in use.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


@contextmanager
def preserve_generators() -> Iterator[None]:
    """Within it, torch's generators may be seeded; afterwards those of the CPU and of every CUDA device are as before."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        yield


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within it, torch's random numbers follow from ``seed``; the caller's stay as they were."""
    with preserve_generators():
        seed_generators(seed)
        yield


def _signed(number: int) -> int:
    """A non-negative integer's lowest 64 bits, read as a signed integer."""
    low = number & 0xFFFFFFFFFFFFFFFF
    return low - (1 << 64) if low >> 63 else low


def _shift(bits: Tensor, count: int) -> Tensor:
    """The logical right shift, which torch's arithmetic one becomes when the sign's copies are masked away."""
    return (bits >> count) & ((1 << (64 - count)) - 1)


def mix(state: Tensor) -> Tensor:
    """The finalizer of SplitMix64 on int64 numbers: each bit of the result depends on all bits of the argument."""
    state = (state ^ _shift(state, 30)) * _FIRST
    state = (state ^ _shift(state, 27)) * _SECOND
    return state ^ _shift(state, 31)

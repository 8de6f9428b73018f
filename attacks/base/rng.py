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
_DRAW = 0xD1342543DE82EF95
"""What a draw adds to the state ``seed * _GOLDEN`` of a stream."""


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
        return Random(_finished(self._words(1))[:, 0])

    def ahead(self, steps: int, *, draws: int = 1) -> Random:
        """The streams at the next ``steps`` steps of a loop, side by side; these streams advance past them.

        Drawing once for many steps takes far fewer kernels than drawing at each step, and gives the same numbers.

        Args:
            steps: S, the number of steps.
            draws: The number of draws in each step.

        Returns:
            Streams whose numbers have the shape ``(S, N, ...)``.

        >>> images = torch.zeros(2, 1, 1, 1)
        >>> one_by_one, together = Random.of(0, images), Random.of(0, images).ahead(3)
        >>> bool((torch.stack([one_by_one.uniform((4,)) for _ in range(3)]) == together.uniform((4,))).all())
        True
        """
        before = torch.arange(0, steps * draws, draws, device=self._seeds.device)[:, None]
        later = Random(torch.add(self._seeds, before, alpha=_DRAW_OF_SEEDS))
        later._draws = self._draws
        self._draws += steps * draws
        return later

    def _words(self, count: int) -> Tensor:
        """``(..., count)`` int64, whose upper 31 bits are random; :func:`_finished` makes all 64 so."""
        self._draws += 1
        state = mix(self._seeds * _GOLDEN + _signed(self._draws * _DRAW))
        counter = torch.arange(1, count + 1, device=state.device)
        return _stirred(torch.add(state[..., None], counter, alpha=_GOLDEN))

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """``(N, *shape)`` float32, uniform in [0, 1)."""
        bits = _upper_24(self._words(math.prod(shape)))
        return bits.to(torch.float32).mul_(2.0**-24).view(*self._seeds.shape, *shape)

    def normal(self, shape: Sequence[int]) -> Tensor:
        """``(N, *shape)`` float32, standard normal (Box and Muller, 1958)."""
        radius = (1 - self.uniform(shape)).log_().mul_(-2).sqrt_()
        return radius.mul_(self.uniform(shape).mul_(2 * math.pi).cos_())

    def integers(self, high: int, shape: Sequence[int] = ()) -> Tensor:
        """Uniform integers.

        Args:
            high: The exclusive bound, far below 2**40, so that the bias of the remainder is negligible.
            shape: The shape of one image's numbers.

        Returns:
            ``(N, *shape)`` int64 in [0, high).
        """
        upper = _shift(_finished(self._words(math.prod(shape))), 24)
        # The remainder by a power of 2, without a division.
        numbers = upper.remainder_(high) if high & (high - 1) else upper.bitwise_and_(high - 1)
        return numbers.view(*self._seeds.shape, *shape)

    def signs(self, shape: Sequence[int]) -> Tensor:
        """``(N, *shape)`` float32, -1 or 1 with equal probability."""
        return self.integers(2, shape).to(torch.float32).mul_(2).sub_(1)


def uniform_from(keys: Tensor, count: int) -> Tensor:
    """Uniform numbers; each row is a function of its key.

    Args:
        keys: ``(M,)`` int64.
        count: The number of values per row.

    Returns:
        ``(M, count)`` float32 in [0, 1).
    """
    return _numbers_from(keys, count, _unit_interval)


def normal_from(keys: Tensor, count: int) -> Tensor:
    """Standard normal numbers, by the inverse of the distribution function; each row is a function of its key.

    Args:
        keys: ``(M,)`` int64.
        count: The number of values per row.

    Returns:
        ``(M, count)`` float32, between -5.42 and 5.42.
    """
    return _numbers_from(keys, count, _normal)


_Finish = Callable[[Tensor, Tensor], object]
"""Maps random int32 numbers to float32 numbers, which it writes to the second tensor. It may write into both."""


def _unit_interval(bits: Tensor, numbers: Tensor) -> None:
    # The lower 24 bits, all of which a float32 number holds.
    numbers.copy_(bits.bitwise_and_(0xFFFFFF)).mul_(2.0**-24)


def _normal(bits: Tensor, numbers: Tensor) -> None:
    # Just below 2**-31, so that no number is mapped to 1, where the inverse is infinite. A Box-Muller pair takes four
    # transcendental functions.
    numbers.copy_(bits).mul_((1 - 2.0**-24) * 2.0**-31).erfinv_().mul_(math.sqrt(2))


_CHUNK = 1 << 16
"""The number of 64-bit integers per chunk on a CPU, so that a chunk stays in the cache between operations."""


def _numbers_from(keys: Tensor, count: int, finish: _Finish) -> Tensor:
    """``(M, count)`` numbers; ``finish`` maps the two halves of a mixed 64-bit word to two numbers that are adjacent."""
    half = (count + 1) // 2
    counter = torch.arange(1, half + 1, device=keys.device).mul_(_GOLDEN)
    numbers = torch.empty(len(keys), count, device=keys.device)
    # On a GPU all at once.
    largest = _CHUNK if keys.device.type == "cpu" else max(1, len(keys) * half)
    rows = max(1, largest // max(1, half))
    memory = torch.empty(2, min(largest, len(keys) * half), dtype=torch.int64, device=keys.device)
    for start in range(0, len(keys), rows):
        some = keys[start : start + rows, None]
        for first in range(0, half, largest):
            counts = counter[first : first + largest]
            words, spare = memory[:, : len(some) * len(counts)].view(2, len(some), len(counts))
            _stirred(torch.add(some, counts, out=words), out=words, spare=spare)
            part = numbers[start : start + rows, 2 * first : 2 * (first + largest)]
            finish(_finished(words, out=words, spare=spare).view(torch.int32)[:, : part.shape[1]], part)
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
    """The lowest 64 bits of an integer, read as a signed integer."""
    low = number & 0xFFFFFFFFFFFFFFFF
    return low - (1 << 64) if low >> 63 else low


_DRAW_OF_SEEDS = _signed(_DRAW * pow(_GOLDEN, -1, 1 << 64))
"""What to add to a seed in place of a draw: it becomes ``_DRAW`` where the seed is multiplied by ``_GOLDEN``."""


def _shift(bits: Tensor, count: int, *, out: Tensor | None = None) -> Tensor:
    """The logical right shift: torch's arithmetic shift with the copies of the sign bit masked away."""
    return torch.bitwise_right_shift(bits, count, out=out).bitwise_and_((1 << (64 - count)) - 1)


def mix(state: Tensor) -> Tensor:
    """The finalizer of SplitMix64 on int64 numbers: each bit of the result depends on all bits of the input."""
    return _finished(_stirred(state))


def _stirred(state: Tensor, *, out: Tensor | None = None, spare: Tensor | None = None) -> Tensor:
    """The finalizer without its last step, which leaves the upper 31 bits as they are.

    Args:
        state: int64.
        out: Takes the result, and may be the state; new memory by default.
        spare: Takes intermediate results; new memory by default. Both as large as the state.
    """
    words = torch.bitwise_xor(state, _shift(state, 30, out=spare), out=out).mul_(_FIRST)
    return words.bitwise_xor_(_shift(words, 27, out=spare)).mul_(_SECOND)


def _finished(words: Tensor, *, out: Tensor | None = None, spare: Tensor | None = None) -> Tensor:
    """The last step of the finalizer, see :func:`_stirred`."""
    return torch.bitwise_xor(words, _shift(words, 31, out=spare), out=out)


def _upper_24(words: Tensor) -> Tensor:
    """The upper 24 bits, as integers in [0, 2**24)."""
    return _shift(words, 40)

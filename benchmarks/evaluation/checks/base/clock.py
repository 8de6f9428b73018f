"""A clock that starts at a given time, for the passes of a model."""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from robustbench_cli.attacks.base.models.user_code import code_of, replaced_names

__all__ = ["clock_from"]

_TICK = 1_000_000
"""The nanoseconds between two readings: a model that waits until some time has passed does not wait forever."""

_SECONDS = ("time", "monotonic", "perf_counter", "process_time", "thread_time")
_PRESENT_BY_DEFAULT = {"localtime": 0, "gmtime": 0, "ctime": 0, "asctime": 0, "strftime": 1}
"""The functions of ``time`` with an argument that is the present time by default, and its position."""


@contextmanager
def clock_from(nanoseconds: int, model: nn.Module) -> Iterator[None]:
    """Lets the clocks of Python show a given time inside the context, in this thread.

    A model that reads them in the same order reads the same times again. The functions of ``time`` and the classes of
    ``datetime`` are replaced in their modules, and where the code of the model has imported or stored them by name.

    Args:
        nanoseconds: The time at the first reading, since 1970. Each reading is a millisecond later.
        model: The model.
    """
    clock = _Clock(nanoseconds)
    replacements: dict[int, Any] = {id(getattr(time, name)): _Reading(clock, name, 1e9) for name in _SECONDS}
    replacements |= {id(getattr(time, f"{name}_ns")): _Reading(clock, f"{name}_ns", 1) for name in _SECONDS}
    replacements |= {
        id(getattr(time, name)): _WithDefault(clock, name, position) for name, position in _PRESENT_BY_DEFAULT.items()
    }
    replacements |= {id(dt.datetime): _datetime_of(clock), id(dt.date): _date_of(clock)}
    namespaces = [*code_of(model), *model.modules(), time, dt]
    with replaced_names(namespaces, lambda value: replacements.get(id(value), value)):
        yield


class _Clock:
    """The time of one thread; other threads have the true one.

    Args:
        nanoseconds: The time at the first reading.
    """

    def __init__(self, nanoseconds: int) -> None:
        self._next = nanoseconds
        self._thread = threading.get_ident()

    def read(self) -> int | None:
        """The nanoseconds since 1970; ``None`` in another thread."""
        if threading.get_ident() != self._thread:
            return None
        self._next += _TICK
        return self._next - _TICK


class _Reading:
    """A function without arguments that returns the time in a unit. It is an object, so that it does not become a method of a class.

    Args:
        clock: The clock.
        name: The function of ``time`` that it replaces.
        unit: In nanoseconds; 1 for integers.
    """

    def __init__(self, clock: _Clock, name: str, unit: float) -> None:
        self._clock, self._true, self._unit = clock, getattr(time, name), unit

    def __call__(self) -> float:
        now = self._clock.read()
        if now is None:
            return self._true()  # type: ignore[no-any-return]
        return now if self._unit == 1 else now / self._unit


class _WithDefault:
    """A function with a last argument that is the present time by default.

    Args:
        clock: The clock.
        name: The function of ``time`` that it replaces.
        position: That of the argument.
    """

    def __init__(self, clock: _Clock, name: str, position: int) -> None:
        self._clock, self._true, self._position = clock, getattr(time, name), position
        self._local = time.localtime if name in {"asctime", "strftime"} else float

    def __call__(self, *given: Any) -> Any:
        left_out = len(given) == self._position or given[self._position :] == (None,)
        now = self._clock.read() if left_out else None
        return self._true(*given) if now is None else self._true(*given[: self._position], self._local(now / 1e9))


def _datetime_of(clock: _Clock) -> type[dt.datetime]:
    """A class whose present is that of a clock."""

    class Datetime(dt.datetime):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> Any:
            now = clock.read()
            return super().now(tz) if now is None else cls.fromtimestamp(now / 1e9, tz)

        @classmethod
        def utcnow(cls) -> Any:
            return cls.now(dt.UTC).replace(tzinfo=None)

        @classmethod
        def today(cls) -> Any:
            return cls.now()

    return Datetime


def _date_of(clock: _Clock) -> type[dt.date]:
    """A class whose present day is that of a clock."""

    class Date(dt.date):
        @classmethod
        def today(cls) -> Any:
            now = clock.read()
            return super().today() if now is None else cls.fromtimestamp(now / 1e9)

    return Date

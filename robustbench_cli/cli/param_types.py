"""The types of option values: numbers as they are written, names, radii, settings, devices."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click
from click.shell_completion import CompletionItem

from robustbench_cli.attacks.base.gradients.draws import Draws
from robustbench_cli.cli.completion import complete_names
from robustbench_cli.core.cores import usable_cores
from robustbench_cli.core.errors import did_you_mean

if TYPE_CHECKING:
    from robustbench_cli.attacks.base.eps import Eps

__all__ = [
    "BATCH_SIZE",
    "DEVICE",
    "EOT_TYPE",
    "EPS",
    "GPUS",
    "JOBS",
    "SETTING",
    "SHARD",
    "Decimal",
    "NameOf",
    "OneOf",
    "Setting",
    "Whole",
    "as_written",
    "decimal",
    "whole",
]

T = TypeVar("T")


def whole(text: str) -> int:
    """Reads a whole number in plain digits; Python would also read 1_0, and the digits of other scripts.

    Raises:
        ValueError: It is not a whole number.
    """
    if not re.fullmatch(r"[+-]?[0-9]{1,4000}", text):
        raise ValueError(text)
    return int(text)


def decimal(text: str) -> float:
    """Reads a finite decimal number in plain digits.

    Raises:
        ValueError: It is not a number, not finite, or so small that it would be read as 0.
    """
    match = re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", text)
    value = float(text) if match else math.nan
    if match is None or not math.isfinite(value) or (value == 0 and re.search("[1-9]", match[1])):
        raise ValueError(text)
    return value


class Whole(click.IntRange):
    """A whole number of a range, written in plain digits."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Reads it; see :func:`whole`."""
        try:
            number = whole(value) if isinstance(value, str) else value
        except ValueError:
            self.fail(f"'{value}' is no whole number: give digits, such as 10", param, ctx)
        return super().convert(number, param, ctx)


class Decimal(click.FloatRange):
    """A finite number of a range, written in plain digits."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Reads it; see :func:`decimal`."""
        try:
            number = decimal(value) if isinstance(value, str) else value
        except ValueError:
            self.fail(f"'{value}' is no number: give a decimal one, such as 0.25", param, ctx)
        return super().convert(number, param, ctx)


def as_written(kind: click.ParamType[Any]) -> click.ParamType[Any]:
    """The type that reads only plain digits, for one of click's number types; any other type as it is."""
    if isinstance(kind, Whole | Decimal):
        return kind
    for click_type, strict_type in ((click.IntRange, Whole), (click.FloatRange, Decimal)):
        if isinstance(kind, click_type):
            bounds: Any = {key: getattr(kind, key) for key in ("min", "max", "min_open", "max_open", "clamp")}
            return strict_type(**bounds)
    if kind is click.INT:
        return Whole()
    return Decimal() if kind is click.FLOAT else kind


class OneOf(click.Choice[str]):
    """One of a few words."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Takes singular and plural: ``attack`` for ``attacks``, and ``attacks`` for ``attack``."""
        text = str(value)
        for form in (text, f"{text}s", text.removesuffix("s")):
            if form in self.choices:
                return form
        noun = "value" if param is None else max(param.opts, key=len).lstrip("-")
        suggestion = did_you_mean(text, self.choices)
        is_close = suggestion.startswith("did you mean")
        hint = f": {suggestion}" if is_close else f" (choose from {', '.join(self.choices)})"
        raise click.BadParameter(f"unknown {noun} '{text}'{hint}", ctx=ctx, param=param)


class NameOf(click.ParamType[str]):
    """The name of an attack, a suite or the like; an unknown one is refused at once.

    Args:
        kind: One of :data:`~.catalog.KINDS`.
        prefix: What may stand before a name, such as ``eot-``.
    """

    name = "name"

    def __init__(self, kind: str, *, prefix: str = "") -> None:
        self._kind = kind
        self._prefix = prefix
        self._complete = complete_names(kind, prefix=prefix)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Checks that the name is known; its options after a ``?`` are checked later.

        Raises:
            UserError: It is not.
        """
        from robustbench_cli.cli.catalog import names, require_known

        text = str(value)
        name = text.partition("?")[0] if self._kind == "dataset" else text
        if self._prefix and name not in names(self._kind):
            name = name.removeprefix(self._prefix)
        require_known(self._kind, name)
        return text

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """See :func:`complete_names`."""
        return self._complete(ctx, param, incomplete)


class _AsNamed(click.ParamType[T]):
    """A type whose name the help shows as it is; click would write it in capitals."""

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return self.name


class _EpsType(_AsNamed["Eps"]):
    """A radius on the [0, 1] pixel scale, with the text that it was written in."""

    name = "RADIUS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Eps:
        from robustbench_cli.attacks.base.eps import Eps, parse_eps

        return value if isinstance(value, Eps) else parse_eps(value)


class _EotType(_AsNamed[Draws]):
    """The draws per gradient of a randomized defense: a number, all of them, or one frozen draw."""

    name = "K|exact|frozen"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Draws:
        if value in ("exact", "frozen"):
            return value  # type: ignore[no-any-return]
        try:
            draws = whole(str(value))
        except ValueError:
            draws = 0
        if draws < 1:
            self.fail(f"'{value}' is no number of draws: give 1, 10, ..., 'exact' or 'frozen'", param, ctx)
        return draws


class Setting(NamedTuple):
    """A value of ``--set``: ``hrs.channels=[5, 5]`` is ``("hrs", "channels", "[5, 5]")``.

    Attributes:
        name: The attack or defense; ``None`` where the key alone identifies it.
        key: The parameter.
        value: Its value as written; :func:`~.settings.read_value` reads it.
    """

    name: str | None
    key: str
    value: str


class _SettingType(_AsNamed[Setting]):
    name = "[NAME.]KEY=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Setting:
        if isinstance(value, Setting):
            return value
        path, equals, written = str(value).partition("=")
        name, dot, key = path.strip().rpartition(".")
        if not equals or not key.isidentifier() or (dot and not name):
            self.fail(f"'{value}' sets nothing: give KEY=VALUE or NAME.KEY=VALUE, such as pgd.steps=100", param, ctx)
        return Setting(name or None, key, written.strip())

    def split_envvar_value(self, rv: str) -> list[str]:
        """Splits an environment variable at ``;``, since a value may contain spaces."""
        return [part for part in rv.split(";") if part.strip()]


class _BatchSizeType(_AsNamed["int | None"]):
    name = "auto|N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        if value == "auto":
            return None
        try:
            size = whole(str(value))
        except ValueError:
            size = 0
        if size < 1:
            self.fail(f"'{value}' is no batch size: give 'auto' or the number of images", param, ctx)
        return size


_MOST_PROCESSES = 1024
"""The most processes of one machine; each takes some hundred megabytes."""


class _JobsType(_AsNamed[int]):
    """A number of processes; ``auto`` is one for each core that this process may use."""

    name = "N|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if value == "auto":
            return usable_cores()
        try:
            number = whole(str(value))
        except ValueError:
            number = 0
        if not 1 <= number <= _MOST_PROCESSES:
            self.fail(f"'{value}' is no number of processes: give 1 to {_MOST_PROCESSES}, or 'auto'", param, ctx)
        return number


class _DeviceType(_AsNamed[str]):
    name = "auto|cpu|cuda|cuda:N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,4})?", str(value)):
            self.fail(f"'{value}' is no device: give auto, cpu, cuda or cuda:N", param, ctx)
        return str(value)


class _ShardType(_AsNamed[tuple[int, int]]):
    name = "I/N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", str(value))
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            self.fail(f"'{value}' is no shard: give I/N, such as 1/4", param, ctx)
        return int(match[1]), int(match[2])


class _GpusType(_AsNamed[tuple[int, ...]]):
    name = "I[,I...]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        if not re.fullmatch(r"[0-9]{1,4}(,[0-9]{1,4})*", str(value)):
            self.fail(f"'{value}' names no GPUs: give their numbers, such as 0,1", param, ctx)
        return tuple(dict.fromkeys(int(part) for part in str(value).split(",")))


EPS = _EpsType()
EOT_TYPE = _EotType()
SETTING = _SettingType()
BATCH_SIZE = _BatchSizeType()
DEVICE = _DeviceType()
JOBS = _JobsType()
SHARD = _ShardType()
GPUS = _GpusType()

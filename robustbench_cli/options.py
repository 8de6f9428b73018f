"""The options that commands share, the types of their values, and the rules that hold for every option.

One rule names the environment variable of each option of each command: ``--data-dir`` is ``ADVDEF_DATA_DIR``. The
command line wins over the environment, that over the file of ``--config``, that over the defaults.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Literal, NamedTuple, ParamSpec, TypeVar

import click

from robustbench_cli import console
from robustbench_cli.attacks.base.errors import UserError, did_you_mean
from robustbench_cli.exits import Interrupted

if TYPE_CHECKING:
    import torch

    from robustbench_cli.benchmarks.cell import Eps

__all__ = [
    "DEFAULT_STORE",
    "EOT",
    "EPS",
    "PAGE",
    "SETTING",
    "Command",
    "Common",
    "OneOf",
    "Setting",
    "all_words",
    "command",
    "computing",
    "long_name",
    "output_format",
]

P = ParamSpec("P")
T = TypeVar("T")

DEFAULT_STORE = "./advdef-runs"
"""The folder of results where none is named."""

PAGE = {"help_option_names": ["-h", "--help"], "max_content_width": 110}
"""How every page of help is asked for, and its largest width."""


class OneOf(click.Choice[str]):
    """One of a few words."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Takes a word in the other number too: ``attack`` where ``attacks`` is meant, and the other way round."""
        words = (str(value), f"{value}s", str(value).removesuffix("s"))
        return super().convert(next((word for word in words if word in self.choices), value), param, ctx)

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        """The message for any other word."""
        return f"unknown word '{value}': {did_you_mean(str(value), self.choices)}"


class _AsNamed(click.ParamType[T]):
    """A type that the help shows by its name as it is, where click would put it in capitals."""

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return self.name


class _EpsType(_AsNamed["Eps"]):
    """A radius on the [0, 1] pixel scale, which keeps the words it was written in."""

    name = "RADIUS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Eps:
        from robustbench_cli.benchmarks.cell import Eps, parse_eps

        return value if isinstance(value, Eps) else parse_eps(value)


class _EotType(_AsNamed[int | Literal["exact"]]):
    """The number of draws that an expectation over a defense's randomness is taken over, or all there are."""

    name = "K|exact"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | Literal["exact"]:
        if value == "exact":
            return "exact"
        try:
            draws = int(value)
        except ValueError:
            draws = 0
        if draws < 1:
            self.fail(f"'{value}' is no number of draws: give 1, 10, ... or 'exact'", param, ctx)
        return draws


class Setting(NamedTuple):
    """What ``--set`` gives: ``hrs.channels=[5, 5]`` is ``("hrs", "channels", "[5, 5]")``.

    Attributes:
        name: The attack or defense, or ``None`` where only one of those named has such a parameter.
        key: The parameter.
        value: Its value as written, for :func:`~.method.read_value` to read.
    """

    name: str | None
    key: str
    value: str


class _SettingType(_AsNamed[Setting]):
    name = "[NAME.]KEY=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Setting:
        if isinstance(value, Setting):
            return value
        place, equals, written = str(value).partition("=")
        name, dot, key = place.strip().rpartition(".")
        if not equals or not key.isidentifier() or (dot and not name):
            self.fail(f"'{value}' sets nothing: give KEY=VALUE or NAME.KEY=VALUE, such as pgd.steps=100", param, ctx)
        return Setting(name or None, key, written.strip())

    def split_envvar_value(self, rv: str) -> list[str]:
        """``;`` separates the settings of an environment variable, since a value may have spaces in it."""
        return [part for part in rv.split(";") if part.strip()]


class _BatchSizeType(_AsNamed["int | None"]):
    name = "auto|N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        if value == "auto":
            return None
        try:
            size = int(value)
        except ValueError:
            size = 0
        if size < 1:
            self.fail(f"'{value}' is no batch size: give 'auto' or the number of images", param, ctx)
        return size


class _DeviceType(_AsNamed[str]):
    name = "auto|cpu|cuda|cuda:N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", str(value)):
            self.fail(f"'{value}' is no device: give auto, cpu, cuda or cuda:N", param, ctx)
        return str(value)


EPS = _EpsType()
EOT = _EotType()
SETTING = _SettingType()


@dataclass(frozen=True)
class Common:
    """The options that all commands have that compute.

    Attributes:
        store: The folder that results are kept in.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        seed: What every random number of the command comes from.
        data_dir: The folder that data sets are read from and downloaded to, or ``None`` for the usual ones.
        batch_size: How many images go through the model at once; ``None`` chooses.
    """

    store: Path
    device: str
    seed: int
    data_dir: Path | None
    batch_size: int | None

    def torch_device(self) -> torch.device:
        """The device to compute on; ``auto`` is the first CUDA device, or the CPU where there is none.

        Raises:
            UserError: There is no such device here.
        """
        import torch

        there_are = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if self.device == "auto":
            return torch.device("cuda" if there_are else "cpu")
        device = torch.device(self.device)
        if device.type == "cuda" and (device.index or 0) >= there_are:
            here = f"cuda:0 to cuda:{there_are - 1} and cpu are here" if there_are > 1 else "cuda and cpu are here"
            raise UserError(
                f"no device {self.device}: {here if there_are else f'torch {torch.__version__} sees no CUDA device here'}"
            )
        return device


class Command(click.Command):
    """A command whose options follow the rules: an environment variable for each, ``-q`` and ``-v`` with all."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += [
            click.Option(
                ["-q", "--quiet"],
                is_flag=True,
                expose_value=False,
                callback=_quiet,
                help="Show no progress and no notes; warnings and errors stay.",
            ),
            click.Option(
                ["-v", "--verbose"],
                is_flag=True,
                expose_value=False,
                callback=_verbose,
                help="Show the traceback of an internal error.",
            ),
        ]
        for option in self.params:
            if isinstance(option, click.Option):
                option.envvar = f"ADVDEF_{long_name(option).replace('-', '_').upper()}"
                option.show_envvar = True
                if isinstance(option.type, click.IntRange) and option.metavar is None:
                    option.metavar = "N"


def command(name: str) -> Callable[[Callable[..., None]], Command]:
    """Makes a function the command ``name``; its options are click's, and its docstring is the help."""
    return click.command(name, cls=Command, context_settings=PAGE)


def long_name(option: click.Parameter) -> str:
    """The name by which a file or an environment variable sets an option: ``data-dir``; an argument's own name."""
    return next((word.removeprefix("--") for word in option.opts if word.startswith("--")), option.name or "")


def computing(function: Callable[Concatenate[Common, P], None]) -> Callable[..., None]:
    """Adds the options of a command that computes; they arrive as the first argument, a :class:`Common`.

    Put it next to the function, below the command's own options::

        @command("attack")
        @click.option("--eps", type=EPS, multiple=True)
        @computing
        def attack(common: Common, eps: tuple[Eps, ...]) -> None: ...
    """

    @click.option(
        "--store",
        type=click.Path(file_okay=False, path_type=Path),
        default=DEFAULT_STORE,
        show_default=True,
        help="Keep results in this folder; what is there already is not computed again.",
    )
    @click.option(
        "--config",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        is_eager=True,
        expose_value=False,
        callback=_read_config,
        help="Read options from a YAML file whose keys are their long names.",
    )
    @click.option("--device", type=_DeviceType(), default="auto", show_default=True, help="Compute on this device.")
    @click.option(
        "--seed",
        type=click.IntRange(0, 2**32 - 1),
        default=0,
        show_default=True,
        help="Draw every random number from this seed.",
    )
    @click.option(
        "--data-dir",
        type=click.Path(file_okay=False, path_type=Path),
        help="Look for data sets in this folder first, and download to it.",
    )
    @click.option(
        "--batch-size",
        type=_BatchSizeType(),
        default="auto",
        show_default=True,
        help="Put so many images through the model at once.",
    )
    @functools.wraps(function)
    def with_common(
        *,
        store: Path,
        device: str,
        seed: int,
        data_dir: Path | None,
        batch_size: int | None,
        **its_own: Any,
    ) -> None:
        try:
            function(Common(store, device, seed, data_dir, batch_size), **its_own)  # type: ignore[call-arg]
        except Interrupted:
            raise
        except KeyboardInterrupt as interrupt:
            raise Interrupted from interrupt

    return with_common


def output_format(*formats: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Adds ``--format``; the first of the formats is the default."""
    return click.option(
        "--format",
        "output_format",
        type=OneOf(formats),
        default=formats[0],
        show_default=True,
        help="Write stdout in this format.",
    )


def _quiet(context: click.Context, option: click.Parameter, value: bool) -> None:
    console.settings.quiet = value


def _verbose(context: click.Context, option: click.Parameter, value: bool) -> None:
    console.settings.verbose = value


def _read_config(context: click.Context, config: click.Parameter, path: Path | None) -> None:
    """Makes the file's values the defaults of the command's options.

    click would ignore an unknown key, read 1.5 as the integer 1, and take a word apart into letters where an option may
    be given several times; so each value is looked at here.
    """
    if path is None:
        return
    options = {long_name(each): each for each in context.command.params if each is not config}
    values: dict[str, Any] = {}
    for written, value in _mapping_of(path).items():
        key = str(written).replace("_", "-")
        if key not in options:
            raise UserError(f"{path}: unknown key '{written}': {did_you_mean(key, options)}")
        option = options[key]
        assert option.name is not None
        if option.name in values:
            raise UserError(f"{path}: {written}: '{key}' is given twice, with '_' and with '-': give it once")
        try:
            values[option.name] = _words_of(option, value)
            option.type_cast_value(context, values[option.name])
        except click.BadParameter as error:
            raise UserError(f"{path}: {written}: {error.message.rstrip('.')}") from None
        except UserError as error:
            raise UserError(f"{path}: {written}: {error}") from None
    context.default_map = values


def _mapping_of(path: Path) -> dict[Any, Any]:
    import yaml

    from robustbench_cli.attacks.base.plain_yaml import read_yaml

    try:
        content = read_yaml(path.read_text(encoding="utf-8"))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a text file in UTF-8 ({error.reason} at byte {error.start})") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise UserError(f"{path}{where}: not YAML: {getattr(error, 'problem', None) or 'unreadable'}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{path}: give a mapping of options, such as 'seed: 1', not a {type(content).__name__}")
    return content


def _words_of(option: click.Parameter, value: Any) -> Any:
    """A value of the file in the words in which the command line would give it."""
    if isinstance(option, click.Option) and option.is_flag:
        if not isinstance(value, bool):
            raise UserError(f"is {_as_written(value)}: give true or false")
        return value
    if option.multiple or option.nargs != 1:
        if isinstance(value, dict) and option.type is SETTING:
            return [f"{key}={_as_written(each)}" for key, each in value.items()]
        return [_word(each) for each in (value if isinstance(value, list) else [value])]
    return _word(value)


def _word(value: Any) -> str:
    if value is None or isinstance(value, list | dict):
        raise UserError(f"is {_as_written(value)}: give one value")
    return _as_written(value)


def _as_written(value: Any) -> str:
    if isinstance(value, str) and "\0" in value:
        raise UserError(f"is {value!r}, which has a zero byte in it: leave it out")
    return value if isinstance(value, str) else json.dumps(value, default=str)


def all_words(parameters: Iterable[click.Parameter]) -> list[str]:
    """Every word that starts with a dash and that a command understands."""
    options = [each for each in parameters if isinstance(each, click.Option)]
    return [word for option in options for word in (*option.opts, *option.secondary_opts)]

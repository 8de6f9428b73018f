"""The options that commands share, and the rules that hold for every option.

One rule names the environment variable of each option of each command: ``--data-dir`` is ``ADVDEF_DATA_DIR``. The
command line wins over the environment, that over the file of ``--config``, that over the defaults.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

import click
from click.core import ParameterSource

from robustbench_cli.benchmarks.reports.formats import file_endings
from robustbench_cli.cli import console
from robustbench_cli.cli.config_file import long_name, read_config
from robustbench_cli.cli.exit_codes import Interrupted
from robustbench_cli.cli.param_types import BATCH_SIZE, DEVICE, EOT_TYPE, OneOf, as_written
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.training.processes import Processes

if TYPE_CHECKING:
    import torch

__all__ = [
    "DEFAULT_STORE",
    "PAGE",
    "VARIABLES",
    "Command",
    "Common",
    "command",
    "computing",
    "eot_option",
    "first_images",
    "option_names",
    "output_file",
    "output_format",
    "repeats_option",
    "stores_or_default",
    "warn_of_fewer_images",
]

P = ParamSpec("P")

DEFAULT_STORE = "./advdef-runs"
"""The folder of results where none is named."""

VARIABLES = "ADVDEF_"
"""What the names of the options' environment variables begin with."""

PAGE = {"help_option_names": ["-h", "--help"], "max_content_width": 110}
"""How every page of help is asked for, and its largest width."""


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

    def on(self, device: str) -> Common:
        """The same options with another device."""
        return replace(self, device=device)

    def torch_device(self) -> torch.device:
        """The device to compute on; ``auto`` is the first CUDA device, or the CPU where there is none.

        Several processes that a launcher has started are connected, and each gets a CUDA device of its own.

        Raises:
            UserError: There is no such device here, or the processes cannot be connected.
        """
        import torch

        processes = Processes.launched()
        there_are = torch.cuda.device_count() if torch.cuda.is_available() else 0
        device = torch.device(("cuda" if there_are else "cpu") if self.device == "auto" else self.device)
        if processes.number > 1 and device.index is not None:
            raise UserError(f"--device {self.device} for {processes.number} processes: give cuda, and each takes one")
        if device.type == "cuda" and (device.index or 0) >= there_are:
            here = f"cuda:0 to cuda:{there_are - 1} and cpu are here" if there_are > 1 else "cuda and cpu are here"
            raise UserError(
                f"no device {self.device}: {here if there_are else f'torch {torch.__version__} sees no CUDA device here'}"
            )
        return device if processes.number == 1 else processes.device(device.type)


class Command(click.Command):
    """A command whose options follow the rules: an environment variable for each, ``-q`` and ``-v`` with all.

    Args:
        *args: Click's.
        in_processes: Whether several processes that a launcher has started share its work; otherwise each would do all.
        **kwargs: Click's.
    """

    def __init__(self, *args: Any, in_processes: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.in_processes = in_processes
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
                option.envvar = f"{VARIABLES}{long_name(option).replace('-', '_').upper()}"
                option.show_envvar = True
                option.type = as_written(option.type)
                if isinstance(option.type, click.IntRange) and option.metavar is None:
                    option.metavar = "N"

    def invoke(self, ctx: click.Context) -> Any:
        """Runs it, where that is done once.

        Raises:
            UserError: A launcher has started several processes, each of which would do the same.
        """
        started = Processes.launched().number
        if started > 1 and not self.in_processes:
            raise UserError(
                f"{ctx.command_path} was started {started} times by a launcher, which only 'advdef train' is for: start it "
                "without one; 'advdef sweep --gpus 0,1' or --jobs uses several GPUs or processes"
            )
        with console.stdout_for_the_report():
            return super().invoke(ctx)


def command(name: str, *, in_processes: bool = False) -> Callable[[Callable[..., None]], Command]:
    """Makes a function a command; its options are click's, and its docstring is the help.

    Args:
        name: The command's.
        in_processes: See :class:`Command`.
    """
    return click.command(name, cls=Command, context_settings=PAGE, in_processes=in_processes)


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
        callback=read_config,
        help="Read options from a YAML file whose keys are their long names.",
    )
    @click.option("--device", type=DEVICE, default="auto", show_default=True, help="Compute on this device.")
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
        type=BATCH_SIZE,
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


def stores_or_default(stores: Sequence[Path]) -> Sequence[Path]:
    """The folders of results that were named; where none was, the one of the environment, or the usual one."""
    return stores or (Path(os.environ.get("ADVDEF_STORE") or DEFAULT_STORE),)


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


def output_file(
    *, any_table: bool = False, multiple: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Adds ``-o``, the file of the table; it arrives as ``output``.

    Args:
        any_table: Whether the table has other columns than the table of results.
        multiple: Whether several files may be given; they arrive as ``outputs``.
    """
    *endings, last = file_endings(any_table=any_table)
    return click.option(
        "-o",
        "--output",
        "outputs" if multiple else "output",
        multiple=multiple,
        type=click.Path(dir_okay=False, path_type=Path),
        help=f"Write the table to a {', '.join(endings)} or {last} file.",
    )


def first_images(words: str, *, default: int = 1000) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Adds ``--n``, how many test images are used, from the first on; ``words`` are its help."""
    return click.option("--n", type=click.IntRange(min=1), default=default, show_default=True, help=words)


def warn_of_fewer_images(n: int, there: int, of: str) -> None:
    """Tells who asked for more images than there are by ``--n``, whose default asks for none in particular."""
    context = click.get_current_context(silent=True)
    source = None if context is None else context.get_parameter_source("n")
    if n > there and source not in {None, ParameterSource.DEFAULT}:
        console.warn(f"--n {n}: {of} has {there} test images, and all of them are taken")


eot_option = click.option(
    "--eot",
    type=EOT_TYPE,
    help="Average gradients over K draws of a randomized defense, or over all, or follow one frozen draw.  "
    "[default: 10, or exact where that costs no more]",
)
"""Adds ``--eot``, the draws behind a gradient."""

repeats_option = click.option(
    "--repeats", type=click.IntRange(min=1), help="Score a randomized defense on so many fresh draws.  [default: 10]"
)
"""Adds ``--repeats``, the draws that score an image."""


def _quiet(context: click.Context, option: click.Parameter, value: bool) -> None:
    console.settings.quiet = value


def _verbose(context: click.Context, option: click.Parameter, value: bool) -> None:
    console.settings.verbose = value


def option_names(parameters: Iterable[click.Parameter]) -> list[str]:
    """Every word that starts with a dash and that a command understands."""
    options = [each for each in parameters if isinstance(each, click.Option)]
    return [word for option in options for word in (*option.opts, *option.secondary_opts)]

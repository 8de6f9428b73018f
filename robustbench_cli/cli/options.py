"""The options that commands share, and the rules for every option.

The environment variable of an option is ``ADVDEF_`` and its long name: ``ADVDEF_DATA_DIR`` for ``--data-dir``. The command
line overrides the environment, which overrides the file of ``--config``, which overrides ``[tool.advdef]`` in the nearest
``pyproject.toml``, which overrides the defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from robustbench_cli.benchmarks.datasets import DEFAULT_N
from robustbench_cli.benchmarks.reports.formats import file_endings
from robustbench_cli.cli import console
from robustbench_cli.cli.config_file import read_config, read_project
from robustbench_cli.cli.help_page import PAGE, Option, epilog, option, variable, write_options
from robustbench_cli.cli.option_sets import Decorator, OptionSet, collect
from robustbench_cli.cli.param_types import BATCH_SIZE, DEVICE, EOT_TYPE, GPUS, JOBS, SETTING, OneOf, as_written
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.training.processes import Processes

if TYPE_CHECKING:
    import torch

__all__ = [
    "DEFAULT_STORE",
    "Command",
    "Common",
    "ProcessArgs",
    "command",
    "computing",
    "computing_options",
    "data_dir_option",
    "eot_option",
    "first_images",
    "is_from_project",
    "is_given",
    "is_on_command_line",
    "named_stores",
    "option",
    "option_names",
    "output_files",
    "output_format",
    "process_options",
    "repeats_option",
    "training_settings",
    "warn_of_fewer_images",
]

DEFAULT_STORE = "./advdef-runs"
"""The folder of results by default."""


@dataclass(frozen=True)
class Common:
    """The options of every command that computes.

    Attributes:
        store: The folder of results.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        seed: The seed of every random number.
        data_dir: The folder of data sets; ``None`` for the usual ones.
        batch_size: The number of images in a pass; ``None`` chooses it.
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
        """The device to compute on; ``auto`` is the first CUDA device, or the CPU without one.

        If a launcher started several processes, they are connected, and each gets its own CUDA device.

        Raises:
            UserError: This machine has no such device, or the processes cannot be connected.
        """
        import torch

        processes = Processes.from_environment()
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        device = torch.device(("cuda" if count else "cpu") if self.device == "auto" else self.device)
        if processes.number > 1 and device.index is not None:
            raise UserError(f"--device {self.device} for {processes.number} processes: give cuda, and each takes one")
        if device.type == "cuda" and (device.index or 0) >= count:
            available = f"cuda:0 to cuda:{count - 1} and cpu are here" if count > 1 else "cuda and cpu are here"
            if not count:
                available = f"torch {torch.__version__} sees no CUDA device here"
            raise UserError(f"no device {self.device}: {available}")
        return device if processes.number == 1 else processes.device(device.type)


class Command(click.Command):
    """A command whose options follow the rules of this file, and which takes ``-q`` and ``-v``.

    Args:
        *args: See :class:`click.Command`.
        in_processes: Whether the processes of a launcher share its work; otherwise each would do all of it.
        **kwargs: See :class:`click.Command`.
    """

    def __init__(self, *args: Any, in_processes: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.in_processes = in_processes
        self.params += [
            Option(
                ["-q", "--quiet"],
                is_flag=True,
                expose_value=False,
                callback=_quiet,
                help="Show no progress and no notes; warnings, errors and the notes of a table stay.",
            ),
            Option(
                ["-v", "--verbose"],
                is_flag=True,
                expose_value=False,
                callback=_verbose,
                help="Show the traceback of an internal error.",
            ),
        ]
        for parameter in self.params:
            if isinstance(parameter, click.Option):
                parameter.envvar = variable(parameter)
                parameter.type = as_written(parameter.type)
                if isinstance(parameter.type, click.IntRange) and parameter.metavar is None:
                    parameter.metavar = "N"

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the options in their groups."""
        write_options(self, ctx, formatter)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes how else options are set."""
        formatter.write_paragraph()
        formatter.write_text(epilog(self))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parses the arguments, and makes one argument of each set of options.

        Raises:
            UserError: A set refuses its values, or a launcher started several processes that would each do the same.
        """
        if not ctx.resilient_parsing and {*self.get_help_option_names(ctx)}.isdisjoint(args):
            read_project(ctx)
        rest = super().parse_args(ctx, args)
        if not ctx.resilient_parsing:
            started = Processes.from_environment().number
            if started > 1 and not self.in_processes:
                raise UserError(
                    f"{ctx.command_path} was started {started} times by a launcher, which only 'advdef train' is for: start "
                    "it without one; 'advdef sweep --gpus 0,1' or --jobs uses several GPUs or processes"
                )
            collect(self.callback, ctx.params)
            ctx.with_resource(console.stdout_for_the_report())
        return rest


def command(name: str, *, in_processes: bool = False) -> Callable[[Callable[..., None]], Command]:
    """Makes a function a command; its options are declared by :func:`option`, and its docstring is the help.

    Args:
        name: The command's name.
        in_processes: See :class:`Command`.
    """
    return click.command(name, cls=Command, context_settings=PAGE, in_processes=in_processes)


data_dir_option = option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    group="Data",
    help="Folder of data sets: searched first, and downloaded to.",
)
"""Adds ``--data-dir``."""

_COMMON_OPTIONS: tuple[Decorator, ...] = (
    option(
        "--config",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        is_eager=True,
        expose_value=False,
        callback=read_config,
        help="Read options from a YAML file whose keys are their long names.",
    ),
    option("--device", type=DEVICE, default="auto", show_default=True, help="Device to compute on."),
    option(
        "--seed",
        type=click.IntRange(0, 2**32 - 1),
        default=0,
        show_default=True,
        help="Seed of every random number.",
    ),
    data_dir_option,
    option("--batch-size", type=BATCH_SIZE, default="auto", show_default=True, help="Batch size, in images."),
)


def _store_option(*, hidden: bool) -> Decorator:
    return option(
        "--store",
        type=click.Path(file_okay=False, path_type=Path),
        default=DEFAULT_STORE,
        show_default=True,
        group="Output",
        hidden=hidden,
        help="Folder of results; cells that it has are not computed again.",
    )


def computing_options(*, stores_results: bool) -> OptionSet:
    """The options of a command that computes; they arrive as ``common``, a :class:`Common`.

    Args:
        stores_results: Whether the command writes to the store. Otherwise ``--store`` is accepted, for a configuration
            that several commands share, and is not in the help.
    """

    def build(**values: Any) -> Common:
        if not stores_results and _source("store") is ParameterSource.COMMANDLINE:
            console.warn("--store changes nothing: this command stores no results")
        return Common(**values)

    return OptionSet("common", build, (_store_option(hidden=not stores_results), *_COMMON_OPTIONS))


computing = computing_options(stores_results=True)
"""Adds the options of a command that computes and stores results; they arrive as ``common``, a :class:`Common`::

    @command("attack")
    @option("--eps", type=EPS, multiple=True, group="Attack")
    @computing
    def attack(common: Common, eps: tuple[Eps, ...]) -> None: ...
"""


@dataclass(frozen=True)
class ProcessArgs:
    """The processes of a command.

    Attributes:
        jobs: The number of processes; ``None`` where the user gave none.
        gpus: The GPUs to run on; ``None`` where the user gave none.
        per_gpu: The number of processes per GPU; ``None`` where the user gave none.
        split: Whether several processes may compute one cell.
    """

    jobs: int | None
    gpus: tuple[int, ...] | None
    per_gpu: int | None
    split: bool

    def devices(self, common: Common) -> list[str]:
        """A torch device for each process that is to be started on this machine; none where this process does all of it.

        Args:
            common: The options of the command.

        Raises:
            UserError: The options contradict each other, or this machine has no such device.
        """
        if self.per_gpu is not None and self.gpus is None:
            raise UserError(
                "--per-gpu is for --gpus, which says what GPUs there are: give --gpus 0,1 too, or --jobs N alone"
            )
        if self.jobs is not None and self.gpus is not None:
            raise UserError(
                "--jobs and --gpus both say how many processes there are: give one, or --gpus and --per-gpu"
            )
        if self.gpus is not None:
            return [str(common.on(f"cuda:{gpu}").torch_device()) for _ in range(self.per_gpu or 1) for gpu in self.gpus]
        return [str(common.torch_device())] * (self.jobs or 0)


def process_options(*, split: bool) -> OptionSet:
    """The options that say in which processes a command computes; they arrive as ``processes``, a :class:`ProcessArgs`.

    Args:
        split: Whether several processes may compute one cell by default.
    """
    options = (
        option(
            "--jobs",
            type=JOBS,
            group="Run",
            help="Number of processes; auto: one per core.  [default: 1]",
        ),
        option("--gpus", type=GPUS, group="Run", help="GPUs to run on, such as 0,1: a process on each."),
        option(
            "--per-gpu",
            type=click.IntRange(min=1),
            group="Run",
            help="Number of processes per GPU, with --gpus or Ray.  [default: 1]",
        ),
        option(
            "--split/--no-split",
            default=split,
            show_default=True,
            group="Run",
            help="Let several processes share the images of one cell.",
        ),
    )
    return OptionSet("processes", ProcessArgs, options)


def _named_stores(*, stores: tuple[Path, ...], store: Path) -> tuple[Path, ...]:
    if stores and is_on_command_line("store"):
        raise UserError(f"{stores[0]} and --store {store} both name a store: give one of them")
    return stores or (store,)


named_stores = OptionSet(
    "stores",
    _named_stores,
    (
        click.argument("stores", nargs=-1, type=click.Path(file_okay=False, path_type=Path), metavar="[STORE ...]"),
        _store_option(hidden=True),
    ),
)
"""Adds the stores that a command reads; they arrive as ``stores``, at least one.

Without an argument it is that of ``--store``, wherever that is set: a report reads what an attack wrote.
"""


def output_format(*formats: str) -> Decorator:
    """Adds ``--format``; the first of the formats is the default."""
    return option(
        "--format",
        "output_format",
        type=OneOf(formats),
        default=formats[0],
        show_default=True,
        group="Output",
        help="Format of stdout.",
    )


def output_files(formats: Collection[str] | None = None, *, content: str = "table") -> Decorator:
    """Adds ``-o``, the files of the table; they arrive as ``outputs``.

    Args:
        formats: The possible formats; ``None`` for all.
        content: What is written.
    """
    *endings, last = file_endings(formats)
    return option(
        "-o",
        "--output",
        "outputs",
        multiple=True,
        type=click.Path(dir_okay=False, path_type=Path),
        group="Output",
        help=f"Write the {content} to a {', '.join(endings)} or {last} file too; repeatable.",
    )


def first_images(text: str, *, default: int = DEFAULT_N) -> Decorator:
    """Adds ``--n``, the number of test images, from the first on.

    Args:
        text: The help.
        default: The number where the user gives none.
    """
    return option("--n", type=click.IntRange(min=1), default=default, show_default=True, group="Data", help=text)


def is_given(name: str) -> bool:
    """Whether the user set a parameter of the running command, on the command line, in the environment or in a file.

    Args:
        name: The parameter.
    """
    return _source(name) not in {None, ParameterSource.DEFAULT}


def is_from_project(name: str) -> bool:
    """Whether a ``pyproject.toml`` sets a parameter of the running command, which has no ``--config``.

    Args:
        name: The parameter.
    """
    return _source(name) is ParameterSource.DEFAULT_MAP


def is_on_command_line(name: str) -> bool:
    """Whether the user set a parameter of the running command on the command line itself.

    Args:
        name: The parameter.
    """
    return _source(name) is ParameterSource.COMMANDLINE


def warn_of_fewer_images(n: int, available: int, dataset: str, *, location: str = "") -> None:
    """Warns a user who asks for more images than a data set has.

    Args:
        n: The number that the user gave.
        available: The number of test images.
        dataset: The data set's name.
        location: The file and line of ``n``; empty for ``--n``.
    """
    if n > available:
        where = f"{location}n is {n}" if location else f"--n {n}"
        console.warn(f"{where}: {dataset} has {available} test images, and all of them are used")


def _source(name: str) -> ParameterSource | None:
    """Where the value of a parameter of the running command comes from."""
    context = click.get_current_context(silent=True)
    return None if context is None else context.get_parameter_source(name)


training_settings = option(
    "--set",
    "settings",
    type=SETTING,
    multiple=True,
    group="Defense",
    help="Parameter of a defense or of the training, such as train.lr=0.01; see 'advdef show training'.",
)
"""Adds ``--set`` to a command without an attack; it arrives as ``settings``."""

eot_option = option(
    "--eot",
    type=EOT_TYPE,
    group="Attack",
    help="Draws per gradient of a randomized defense: K draws, all draws (exact), or one frozen draw.  "
    "[default: 10, or exact where that costs no more]",
)
"""Adds ``--eot``, the draws per gradient."""

repeats_option = option(
    "--repeats",
    type=click.IntRange(min=1),
    group="Defense",
    help="Held-out draws on which a randomized defense is scored.  [default: 10]",
)
"""Adds ``--repeats``, the draws that score an image."""


def _quiet(context: click.Context, option: click.Parameter, value: bool) -> None:
    console.settings.quiet = value


def _verbose(context: click.Context, option: click.Parameter, value: bool) -> None:
    console.settings.verbose = value


def option_names(parameters: Iterable[click.Parameter]) -> list[str]:
    """The names of a command's options, each with its dashes."""
    options = [parameter for parameter in parameters if isinstance(parameter, click.Option)]
    return [name for entry in options for name in (*entry.opts, *entry.secondary_opts)]

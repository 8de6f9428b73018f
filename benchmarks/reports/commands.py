"""The command that computes a stored cell again."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from functools import reduce
from operator import getitem
from pathlib import Path, PurePath
from typing import Any

from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec
from robustbench_cli.benchmarks.models import registry as models
from robustbench_cli.benchmarks.store.cell import Cell
from robustbench_cli.benchmarks.store.records import Result
from robustbench_cli.defenses.base.training.recipes import registry as recipes

__all__ = ["reproducing_command"]


def reproducing_command(result: Result, results: Mapping[str, Result]) -> str | None:
    """The command line that computes a cell again, quoted for a POSIX shell.

    Args:
        result: The result of the cell.
        results: The results of the store by cell: at a larger radius, images that are broken at a smaller one are not
            attacked again, so the smaller radii belong to the command.

    Returns:
        The command; ``None`` for a cell of a cascade or of another accounting, which only its whole suite computes, and for
        one whose smaller radius is not in the store, or whose foreign checkpoint no result names. A model of
        the user's cache is trained again by the same recipe.
    """
    cell, chain = result.cell, _chain(result, results)
    model = _model(result, results)
    if chain is None or model is None or cell.accounting != "expected":
        return None
    words = ["advdef", "attack", *model, "--dataset", cell.dataset, "--n", str(cell.n)]
    words += _with_settings("--attack", cell.attack)
    if cell.corruption is not None:
        severity = cell.corruption.parameters["severity"]
        words += ["--corruption", cell.corruption.name, "--severity", str(severity)]
    words += ["--norm", cell.norm]
    words += [word for earlier in chain if earlier.eps for word in ("--eps", earlier.eps)]
    words += _options(cell)
    return shlex.join(words)


def _model(result: Result, results: Mapping[str, Result]) -> list[str] | None:
    """The options that choose the defended model; ``None`` where the file that it starts from is not known."""
    cell = result.cell
    defenses = [word for spec in cell.defenses for word in _with_settings("--defense", spec)]
    if not _is_cached(result.checkpoint):
        return [*_file(result.checkpoint, result), *(defenses if _is_foreign(result.checkpoint) else [])]
    if result.origin.base:
        added = cell.defenses[result.origin.base_defenses :]
        defenses = [word for spec in added for word in _with_settings("--defense", spec)]
        return [*_file(result.origin.base, result), *defenses, *_recipe(result)]
    if result.mean is None:
        return ["--model", cell.model, *(defenses or ["--defense", "none"]), *_recipe(result)]
    bases = {
        other.checkpoint
        for other in results.values()
        if (other.cell.model, other.mean, other.std) == (cell.model, result.mean, result.std)
        and not _is_cached(other.checkpoint)
    }
    return ["--checkpoint", bases.pop(), *_network(result), *defenses] if len(bases) == 1 else None


def _file(path: str, result: Result) -> list[str]:
    """The options that choose a checkpoint. One of this project names its network, but a user's code only the user may name."""
    if _is_foreign(path):
        return ["--checkpoint", path, *_network(result)]
    return ["--checkpoint", path, *([] if models.is_installed(result.cell.model) else ["--model", result.cell.model])]


def _is_foreign(path: str) -> bool:
    """Whether a checkpoint is not of this project, so that it does not say what is in it. The file is not read."""
    return Path(path).suffix != ".safetensors"


def _network(result: Result) -> list[str]:
    """The options that say what a foreign checkpoint does not."""
    words = ["--model", result.cell.model]
    for option, values in (("--mean", result.mean), ("--std", result.std)):
        words += [] if values is None else [option, ",".join(f"{value:.9g}" for value in values)]
    return words


def _recipe(result: Result) -> Iterator[str]:
    """The options of a training that is not the usual one. Its seed is an option only where it is not the cell's."""
    for name, value in result.origin.recipe.items():
        if name == "recipe" and value in recipes.names():
            yield from ("--recipe", str(value))
        elif (name, value) != ("seed", result.cell.seed):
            yield from ("--set", f"train.{name}={_text(value)}")


def _is_cached(checkpoint: str) -> bool:
    """Whether a file is one of a training that the user's cache holds, on this machine or another."""
    path = PurePath(checkpoint)
    return "advdef" in path.parts and path.parent.name == "checkpoints" and bool(_CACHED.search(path.name))


_CACHED = re.compile(r"-[0-9a-f]{12}\.safetensors$")


def _chain(result: Result, results: Mapping[str, Result]) -> list[Result] | None:
    """The results at smaller radii that a result continues, the smallest first, and itself."""
    chain = [result]
    while chain[-1].cell.after is not None:
        earlier = results.get(chain[-1].cell.after)
        if chain[-1].cell.cascade or earlier is None or earlier in chain:
            return None
        chain.append(earlier)
    return None if chain[-1].cell.cascade else chain[::-1]


def _with_settings(option: str, spec: MethodSpec) -> Iterator[str]:
    """The option that chooses a method, and those that set its parameters."""
    yield from (option, spec.name)
    for key in spec.changed:
        value: Any = reduce(getitem, key.split("."), spec.parameters)
        yield from ("--set", f"{spec.name}.{key}={_text(value)}")


def _text(value: Any) -> str:
    """The value of a parameter, as a user writes it."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _options(cell: Cell) -> Iterator[str]:
    """The options of a cell that differ from those of a deterministic model and an untargeted attack."""
    options = {
        "--targeted": (cell.targeted, "no"),
        "--eot": (cell.eot, 1),
        "--repeats": (cell.repeats, 1),
        "--precision": (cell.precision, "tf32"),
        "--stop-when-decided": (cell.stop_when_decided, None),
    }
    for option, (value, usual) in options.items():
        if value != usual:
            yield from (option, str(value))
    yield from ("--seed", str(cell.seed))

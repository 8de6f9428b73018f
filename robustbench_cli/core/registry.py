"""Finds attacks, defenses, models and data sets by the name that a user types."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from robustbench_cli.core.code_hash import hash_of_code
from robustbench_cli.core.errors import UserError, did_you_mean, one_line
from robustbench_cli.core.isolation import isolated

__all__ = ["Registry"]


@dataclass(frozen=True)
class Registry:
    """The named objects of one kind.

    A name is looked up, in this order, as

    1. a file of ``package``: ``cw-pgd`` is the one name in ``__all__`` of ``cw_pgd.py``; adding a file adds a name;
    2. an entry point of the group ``advdef.<kind>s`` of any installed distribution;
    3. ``package.module:object``;
    4. ``path/to/file.py:object``.

    Nothing is imported before it is loaded. There are two ways to a name. One that the **user** gave, on the command
    line, in the environment, in a config or a suite file, goes to :meth:`load` or :meth:`find`, and may be any of the
    four. One that a **file** of data gave, a checkpoint or a store, goes through :meth:`trusted` first, and may be 1 or
    2 only, by exact match: whoever made the file may not choose what code runs.

    Attributes:
        kind: What the objects are, in the singular, for messages and for the entry points' group.
        package: The dotted name of the package whose files are the project's own objects of this kind.
        base: The class that they all derive from, as ``package.module:class``; ``None`` where they need not be classes.
        not_named: Files of that package that are not themselves such an object.
        argument: What may follow the colon of an installed name where a file of data gives it, as a regular
            expression: ``resnet18`` in ``torchvision:resnet18``. ``None`` where objects of this kind take no argument,
            from nobody.
    """

    kind: str
    package: str
    base: str | None = None
    not_named: frozenset[str] = field(default=frozenset())
    argument: str | None = None

    @cached_property
    def _files(self) -> dict[str, str]:
        path = importlib.import_module(self.package).__path__
        return {
            module.name.replace("_", "-"): f"{self.package}.{module.name}"
            for module in pkgutil.iter_modules(path)
            if not module.ispkg and module.name not in self.not_named
        }

    @cached_property
    def _entry_points(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=f"advdef.{self.kind}s")}

    def names(self) -> list[str]:
        """The names that need no path: the project's own and those of installed entry points, sorted."""
        return sorted({*self._files, *self._entry_points})

    def module_of(self, name: str) -> str | None:
        """The module of one of the project's own objects, without an import; ``None`` for any other name."""
        return self._files.get(name)

    def trusted(self, name: str, *, file: object, named: Collection[str | None] = ()) -> str:
        """A name that a file of data gave, if it is safe to load: the one way from such a file to an object.

        Args:
            name: As the file gives it.
            file: The file, for messages.
            named: Names that the user gave: what the file names too may then be code of their own.

        Returns:
            The name, for :meth:`load` or :meth:`find`.

        Raises:
            UserError: It is neither installed, by exact match, nor among those that the user gave.
        """
        installed, argument = self._parted(name)
        allowed = argument is None or re.fullmatch(self.argument or "", argument, flags=re.DOTALL) is not None
        if name in named or (installed is not None and allowed):
            return name
        shown = name if len(name) <= 200 else f"{name[:199]}…"
        if any(sign in name for sign in ":./\\"):
            raise UserError(
                f"{file} needs the code {shown}: if you trust it, name it yourself with --{self.kind} {shown}"
            )
        raise UserError(f"{file}: unknown {self.kind} '{shown}': {did_you_mean(name[:200], self.names())}")

    def _parted(self, name: str) -> tuple[str | None, str | None]:
        """The installed name in a name and its argument; nothing installed where it is a path to a user's code."""
        if name in self._files or name in self._entry_points:
            return name, None
        word, colon, argument = name.partition(":")
        if self.argument is not None and colon and (word in self._files or word in self._entry_points):
            return word, argument
        return None, None

    def name_of(self, thing: type) -> str:
        """The name under which ``thing`` is loaded again: its file's name, an entry point's, or ``module:object``."""
        for name, module in self._files.items():
            if thing.__module__ == module:
                return name
        for name, point in self._entry_points.items():
            if point.value == f"{thing.__module__}:{thing.__qualname__}":
                return name
        return f"{thing.__module__}:{thing.__qualname__}"

    def source_of(self, name: str) -> str | None:
        """The sha256 of a user's own code behind ``name``, for telling its versions apart; ``None`` for our own.

        It covers the file that the name leads to, the one that the object is written in, and what these import from
        their own folders.

        Raises:
            UserError: As for :meth:`load`.
        """
        installed, _ = self._parted(name)
        if installed in self._files:
            return None
        module, thing = self._found(installed or name)
        while isinstance(thing, partial):
            thing = thing.func
        written_in = thing.__module__ if inspect.isclass(thing) or inspect.isroutine(thing) else type(thing).__module__
        return hash_of_code(module.__name__, written_in)

    def find(self, words: str) -> tuple[Any, str | None]:
        """The object that a user's words name, and its argument: what follows a name's colon, as ``PATH`` in ``npz:PATH``.

        Raises:
            UserError: As for :meth:`load`.
        """
        installed, argument = self._parted(words)
        return self._found(installed or words)[1], argument

    def load(self, name: str) -> Any:
        """Imports and returns the object that a user's name stands for.

        Raises:
            UserError: The name is unknown, its module or file cannot be imported, or the object is not of this kind.
        """
        return self.find(name)[0]

    def _found(self, name: str) -> tuple[ModuleType, Any]:
        """The module that ``name`` leads to, and the object in it; see :meth:`load`."""
        if name in self._files:
            module = importlib.import_module(self._files[name])
            return module, getattr(module, module.__all__[0])
        if name in self._entry_points:
            place, attribute = self._entry_points[name].module, self._entry_points[name].attr
        else:
            place, colon, attribute = name.rpartition(":")
            if not colon:
                raise UserError(f"unknown {self.kind} '{name}': {did_you_mean(name, self.names(), kind=self.kind)}")
        with isolated():
            module = _module_of_file(Path(place)) if place.endswith(".py") else _module(place)
        try:
            thing = getattr(module, attribute)
        except AttributeError:
            public = [
                word
                for word, value in vars(module).items()
                if not (word.startswith("_") or isinstance(value, ModuleType))
            ]
            raise UserError(f"{place} has no '{attribute}': {did_you_mean(attribute, public)}") from None
        self._check(thing, name)
        return module, thing

    def _check(self, thing: Any, name: str) -> None:
        if self.base is None:
            return
        module, _, attribute = self.base.partition(":")
        base = getattr(importlib.import_module(module), attribute)
        if not (inspect.isclass(thing) and issubclass(thing, base)):
            raise UserError(f"'{name}' is no {self.kind}: give a class that derives from {module}.{attribute}")
        if missing := sorted(getattr(thing, "__abstractmethods__", ())):
            raise UserError(f"'{name}' is no complete {self.kind}: its class lacks {', '.join(missing)}")


_FORMS = "give package.module:object or path/to/file.py:object"


def _module(place: str) -> ModuleType:
    if not all(word.isidentifier() for word in place.split(".")):
        raise UserError(f"'{place}' is no module: {_FORMS}")
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{place}.".startswith(f"{error.name}."):
            raise UserError(f"no module {error.name}: {_FORMS}") from None
        raise _import_failed(place, error) from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise _import_failed(place, error) from error


def _module_of_file(path: Path) -> ModuleType:
    """The module of a user's file, executed once; a stable name lets a second load find the same classes."""
    if not path.is_file():
        raise UserError(f"no file {path}: {_FORMS}")
    name = f"advdef_file_{path.resolve().as_posix().replace('/', '_').removesuffix('.py')}"
    if name in sys.modules:
        return sys.modules[name]
    specification = importlib.util.spec_from_file_location(name, path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    try:
        specification.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, KeyboardInterrupt):
            raise
        raise _import_failed(path, error) from error
    return module


def _import_failed(place: object, error: BaseException) -> UserError:
    return UserError(f"{place} cannot be imported: {one_line(error)}")

"""Finds attacks, defenses, models and data sets by their names."""

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
from typing import Any, Protocol

from robustbench_cli.core.class_source import source_of
from robustbench_cli.core.code_hash import hash_of_code
from robustbench_cli.core.errors import UserError, did_you_mean, one_line
from robustbench_cli.core.isolation import isolated
from robustbench_cli.core.own_code import note_own_code, require_allowed

__all__ = ["Family", "Registry"]


class Family(Protocol):
    """Many objects behind one name, such as the attacks of another library: each is named ``torchattacks:PGD``."""

    def member(self, argument: str) -> Any:
        """The object behind the name.

        Args:
            argument: What follows the colon; empty if nothing does.

        Raises:
            UserError: There is no such object.
        """

    def version(self) -> str:
        """What distinguishes its versions in the identity of a result."""


@dataclass(frozen=True)
class Registry:
    """The named objects of one kind.

    A name is looked up, in this order, as

    1. a file of ``package``: ``cw-pgd`` is the first name in ``__all__`` of ``cw_pgd.py``, so a new file is a new name;
    2. an entry point of the group ``advdef.<kind>s`` of any installed distribution;
    3. ``package.module:object``;
    4. ``path/to/file.py:object``.

    An object's module is imported only when the object is loaded. Names have two sources. A name from the **user**, on
    the command line, in the environment, in a config file or in a suite file, goes to :meth:`load` or :meth:`find` and
    may have any of the four forms. A name from a **data file**, a checkpoint or a store, must first pass
    :meth:`trusted`, which accepts only forms 1 and 2, by exact match. The author of a data file must not choose which
    code runs.

    Attributes:
        kind: The kind of object, in the singular, for messages and for the group of entry points.
        package: The dotted name of the package whose files are the project's own objects of this kind.
        base: The base class of the objects, as ``package.module:class``; ``None`` if they need not be classes.
        not_named: Files of the package that are not themselves such an object.
        argument: A regular expression for what may follow the colon of an installed name from a data file, such as
            ``resnet18`` in ``torchvision:resnet18``. ``None`` if objects of this kind take no argument at all.
        own_argument: The same for the project's own objects, where it is different: none of them takes it for a path.
        families: The files whose object is the class of a :class:`Family`. Only these names take an argument, and they need
            one. A data file never names a member, because that would import another library.
        instead: The end of the message about an object of another kind: what else the user may want, with ``{name}``.
    """

    kind: str
    package: str
    base: str | None = None
    not_named: frozenset[str] = field(default=frozenset())
    argument: str | None = None
    own_argument: str | None = None
    families: frozenset[str] = field(default=frozenset())
    instead: str = ""

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
        """The installed names, sorted: the project's own and those of entry points, without :attr:`families`."""
        return sorted({*self._files, *self._entry_points} - self.families)

    def module_of(self, name: str) -> str | None:
        """The module of one of the project's own objects, without an import; ``None`` for any other name."""
        return self._files.get(name)

    def classes(self) -> dict[str, str]:
        """The first name in ``__all__`` of each of the project's own files, and its module, without an import of them."""
        modules = {}
        for name, module in self._files.items():
            exported = re.search(rb'^__all__ = \[\s*"(\w+)"', source_of(module) or b"", flags=re.MULTILINE)
            if exported and name not in self.families:
                modules[exported[1].decode()] = module
        return modules

    def trusted(self, name: str, *, file: object, named: Collection[str | None] = ()) -> str:
        """Checks a name from a data file. No other way leads from a data file to an object.

        Args:
            name: The name in the file.
            file: The file, for messages.
            named: Names that the user gave in this run. They may also name the user's own code.

        Returns:
            The name, for :meth:`load` or :meth:`find`.

        Raises:
            UserError: The name is neither an installed name, by exact match, nor among those of the user.
        """
        if name in named or self.is_installed(name):
            return name
        shown = name if len(name) <= 200 else f"{name[:199]}…"
        if any(character in name for character in ":./\\"):
            raise UserError(
                f"{file} needs the code {shown}: if you trust it, name it yourself with --{self.kind} {shown}"
            )
        raise UserError(f"{file}: unknown {self.kind} '{shown}': {did_you_mean(name[:200], self.names())}")

    def is_installed(self, name: str) -> bool:
        """Whether a name, with an argument that may stand in a data file, is an installed one; its code is not imported."""
        installed, argument = self._split(name)
        pattern = (installed in self._files and self.own_argument) or self.argument or ""
        allowed = argument is None or re.fullmatch(pattern, argument, flags=re.DOTALL) is not None
        return installed is not None and installed not in self.families and allowed

    def _split(self, name: str) -> tuple[str | None, str | None]:
        """The installed name and its argument; ``(None, None)`` if the name is a path to a user's code."""
        if name in self._files or name in self._entry_points:
            return name, None
        installed, colon, argument = name.partition(":")
        takes_argument = installed in self.families if self.families else self.argument is not None
        if takes_argument and colon and (installed in self._files or installed in self._entry_points):
            return installed, argument
        return None, None

    def require_known(self, name: str) -> None:
        """Refuses an unknown name from the user, without an import.

        Args:
            name: A name that :meth:`load` or :meth:`find` will get.

        Raises:
            UserError: It is neither an installed name nor of the form of a path.
        """
        if self._split(name)[0] is not None:
            return
        if ":" not in name:
            is_class = name.isidentifier() and name[0].isupper() and not name.isupper()
            otherwise = f"your own is named with its file, as in file.py:{name}" if is_class else None
            suggestion = did_you_mean(name, self.names(), kind=self.kind, otherwise=otherwise)
            raise UserError(f"unknown {self.kind} '{name}': {suggestion}")
        if suggestion := self._other_prefix(name):
            raise UserError(f"unknown {self.kind} '{name}': {suggestion}")

    def name_of(self, target: type) -> str:
        """The name that loads a class again: that of its file, of an entry point, or ``module:object``."""
        for name, module in self._files.items():
            if target.__module__ == module:
                return name
        for name, point in self._entry_points.items():
            if point.value == f"{target.__module__}:{target.__qualname__}":
                return name
        return f"{target.__module__}:{target.__qualname__}"

    def source_of(self, name: str) -> str | None:
        """What distinguishes the versions of the code behind a name; ``None`` for the project's own.

        It is the version of a :class:`Family`, and the sha256 of a user's own code, which covers the file that the
        name leads to, the file that defines the object, and what these import from their own folders.

        Args:
            name: A name from the user.

        Raises:
            UserError: See :meth:`load`.
        """
        installed, _ = self._split(name)
        if installed in self.families:
            version: str = self._lookup(installed)[1]().version()
            return version
        if installed in self._files:
            return None
        module, target = self._lookup(installed or name)
        while isinstance(target, partial):
            target = target.func
        is_definition = inspect.isclass(target) or inspect.isroutine(target)
        defined_in = target.__module__ if is_definition else type(target).__module__
        return hash_of_code(module.__name__, defined_in)

    def find(self, name: str) -> tuple[Any, str | None]:
        """Imports an object by a name with an argument.

        Args:
            name: A name from the user, such as ``npz:PATH``.

        Returns:
            The object, and what follows the colon; ``None`` without an argument.

        Raises:
            UserError: See :meth:`load`.
        """
        installed, argument = self._split(name)
        return self._lookup(installed or name)[1], argument

    def load(self, name: str) -> Any:
        """Imports an object by its name.

        Args:
            name: A name from the user.

        Raises:
            UserError: The name is unknown, its module or file cannot be imported, or the object is not of this kind.
        """
        target, argument = self.find(name)
        return target().member(argument or "") if self._split(name)[0] in self.families else target

    def _lookup(self, name: str) -> tuple[ModuleType, Any]:
        """The module that a name leads to, and the object in it; see :meth:`load`."""
        if name in self._files:
            module = importlib.import_module(self._files[name])
            return module, getattr(module, module.__all__[0])
        if name in self._entry_points:
            location, attribute = self._entry_points[name].module, self._entry_points[name].attr
        else:
            self.require_known(name)
            require_allowed(name)
            location, _, attribute = name.rpartition(":")
        with isolated():
            module = _module_of_file(Path(location)) if location.endswith(".py") else _module(location)
        try:
            target = getattr(module, attribute)
        except AttributeError:
            raise UserError(f"{location} has no '{attribute}': {did_you_mean(attribute, _own_names(module))}") from None
        self._check(target, name)
        if name not in self._entry_points:
            note_own_code(module.__file__, f"{self.kind} {name}")
        return module, target

    def _other_prefix(self, name: str) -> str:
        """The end of a message about a misspelled prefix, such as ``torchvison:resnet18``; empty if it names the user's code."""
        prefix, _, argument = name.partition(":")
        prefixes = self.families or (self.names() if self.argument is not None else ())
        if not prefixes or re.fullmatch(r"[\w-]+", prefix) is None or importlib.util.find_spec(prefix) is not None:
            return ""
        suggestion = did_you_mean(prefix, prefixes)
        if not suggestion.startswith("did you mean"):
            return ""
        return re.sub(r"'([\w-]+)'", lambda match: f"'{match[1]}:{argument}'", suggestion)

    def _check(self, target: Any, name: str) -> None:
        """Checks that an object is of this kind, and complete."""
        if self.base is None:
            return
        module, _, attribute = self.base.partition(":")
        base = getattr(importlib.import_module(module), attribute)
        if not (inspect.isclass(target) and issubclass(target, base)):
            raise UserError(
                f"'{name}' is no {self.kind}: give a class that derives from {module}.{attribute}"
                f"{self.instead.format(name=name)}"
            )
        if missing := sorted(getattr(target, "__abstractmethods__", ())):
            raise UserError(f"'{name}' is no complete {self.kind}: its class lacks {', '.join(missing)}")


def _own_names(module: ModuleType) -> list[str]:
    """The public names that a module defines; where it only imports, as a package may, those that it imports."""
    public = {
        name: value
        for name, value in vars(module).items()
        if not (name.startswith("_") or isinstance(value, ModuleType))
    }
    return [name for name, value in public.items() if _is_defined_in(module, value)] or list(public)


def _is_defined_in(module: ModuleType, value: Any) -> bool:
    if inspect.isclass(value) or inspect.isroutine(value):
        return bool(value.__module__ == module.__name__)
    return type(value).__module__ not in {"typing", "__future__"}


_FORMS = "give package.module:object or path/to/file.py:object"


def _module(name: str) -> ModuleType:
    """Imports a module by its dotted name."""
    if not all(part.isidentifier() for part in name.split(".")):
        raise UserError(f"'{name}' is no module: {_FORMS}")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise UserError(f"no module {error.name}: {_FORMS}") from None
        raise _import_failed(name, error) from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise _import_failed(name, error) from error


def _module_of_file(path: Path) -> ModuleType:
    """Executes a user's file as a module, once per process.

    The module's name depends on the path only, so that a second load returns the same classes.
    """
    if not path.is_file():
        raise UserError(f"no file {path}: {_FORMS}")
    name = f"advdef_file_{path.resolve().as_posix().replace('/', '_').removesuffix('.py')}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, KeyboardInterrupt):
            raise
        raise _import_failed(path, error) from error
    return module


def _import_failed(location: object, error: BaseException) -> UserError:
    return UserError(f"{location} cannot be imported: {one_line(error)}")

"""Attacks of other libraries: their classes become attacks whose parameters are those of the class's constructor."""

from __future__ import annotations

import contextlib
import importlib.metadata
import inspect
import io
import math
import random as python_random
import typing
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import ModuleType, new_class
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import ConfigDict, Field, PlainValidator
from torch import Tensor, nn

from robustbench_cli.attacks.base.attack import Attack
from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.gradients.source_module import SourceModule
from robustbench_cli.attacks.base.norm import NORMS, Norm
from robustbench_cli.attacks.base.rng import Random, seeded
from robustbench_cli.attacks.base.threat import Threat
from robustbench_cli.core.errors import UserError, did_you_mean, is_out_of_memory, one_line
from robustbench_cli.core.libraries import require_library

__all__ = ["Access", "Call", "ForeignAttack", "Library", "Member"]

Access = Literal["gradients", "scores", "decisions"]
"""The access to the model that an attack needs; see :class:`~robustbench_cli.attacks.base.attack.Attack`."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """What must be declared about a library's attack, beyond its constructor.

    Attributes:
        norms: The norms that it supports.
        minimal_norm: Whether it searches for the smallest perturbation.
        access: Its access to the model.
    """

    norms: tuple[Norm, ...]
    minimal_norm: bool = False
    access: Access = "gradients"


@dataclass(frozen=True, kw_only=True)
class Call:
    """One run of an attack on a batch, as a library needs it.

    Attributes:
        name: The attack as the user names it, for messages.
        model: Images to logits; it can be differentiated once.
        images: ``(N, C, H, W)`` in [0, 1].
        labels: ``(N,)``, the classes to leave, or to reach.
        norm: The norm.
        eps: The radius; ``None`` for a minimal-norm attack.
        targeted: Whether the labels are the classes to reach.
        classes: K.
        seed: >= 0 and < 2**31, for libraries that take one.
        parameters: The parameters of the constructor.
    """

    name: str
    model: nn.Module
    images: Tensor
    labels: Tensor
    norm: Norm
    eps: float | None
    targeted: bool
    classes: int
    seed: int
    parameters: Mapping[str, Any]


class Library(ABC):
    """A library of attacks, named ``library:Class``; see :class:`~robustbench_cli.core.registry.Family`.

    Attributes:
        paper: The library's own paper.
        name: The name before the colon.
        distribution: The name on the package index.
        module: The module that has the attacks.
        reserved: The parameters of constructors that are given by options of the command line, or by the program.
    """

    paper: ClassVar[str]
    name: ClassVar[str]
    distribution: ClassVar[str]
    module: ClassVar[str]
    reserved: ClassVar[frozenset[str]]

    @abstractmethod
    def members(self) -> Mapping[str, Member]:
        """The attacks that can be run, by the names of their classes."""

    @abstractmethod
    def call(self, kind: type, call: Call) -> Tensor:
        """Runs an attack.

        Args:
            kind: The class of the library.
            call: What it runs on, and its parameters.

        Returns:
            Perturbed images ``(N, C, H, W)``.
        """

    def member(self, argument: str) -> type[Attack]:
        """The attack behind ``library:Class``.

        Args:
            argument: The name of the class.

        Raises:
            UserError: The library is not installed, or has no such attack that can be run.
        """
        return _attack_class(type(self), argument)

    def version(self) -> str:
        """The library and its version."""
        self.imported()
        return f"{self.distribution} {importlib.metadata.version(self.distribution)}"

    def imported(self) -> ModuleType:
        """The module of the attacks.

        Raises:
            UserError: The library is not installed, or cannot be imported.
        """
        with _quiet():
            return require_library(
                self.module, needed_by=f"attack {self.name}", install=f"pip install {self.distribution}"
            )


_STEPS = (("alpha", "steps"), ("eps_step", "max_iter"), ("abs_stepsize", "steps"))
"""The parameters with the step size and the number of steps in torchattacks, ART and Foolbox."""


class ForeignAttack(Attack):
    """An attack of another library.

    It sees an ordinary module that takes images in [0, 1] and gives logits. The global generators of Python, NumPy and torch
    are seeded while it runs, by the first image of the batch, so its random numbers depend on the batch.

    Attributes:
        library: The class of the library.
        foreign: The name of the attack's class in the library.
    """

    model_config = ConfigDict(protected_namespaces=())

    norms: ClassVar[tuple[Norm, ...]] = NORMS
    library: ClassVar[type[Library]]
    foreign: ClassVar[str]

    def needs_full_precision(self) -> bool:
        return True

    def reach(self) -> float | None:
        for step_size, steps in _STEPS:
            size, number = getattr(self, step_size, None), getattr(self, steps, None)
            if isinstance(size, int | float) and isinstance(number, int | float):
                return float(size * number)
        return None

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        perturbed = images.clone()
        seed = int(random.integers(2**31)[0])
        with _global_seeds(seed), _quiet():
            classes = source.logits(images[:1]).shape[-1]
            for eps in threat.eps.unique().tolist():
                if eps > 0:
                    rows = threat.eps == eps
                    call = Call(
                        name=type(self).__name__,
                        model=SourceModule(source, images, labels[rows]),
                        images=images[rows].clone(),
                        labels=labels[rows].clone(),
                        norm=threat.norm,
                        eps=None if math.isinf(eps) else eps,
                        targeted=threat.targeted,
                        classes=classes,
                        seed=seed,
                        parameters={key: getattr(self, key) for key in type(self).model_fields},
                    )
                    perturbed[rows] = _checked(self._called(call), call)
        return perturbed

    def _called(self, call: Call) -> object:
        """What the library returns.

        Raises:
            UserError: The attack failed.
        """
        library = self.library()
        try:
            return library.call(getattr(library.imported(), self.foreign), call)
        except Exception as error:
            if isinstance(error, UserError) or is_out_of_memory(error):
                raise
            raise UserError(f"{call.name} failed: {one_line(error)}") from error


def _checked(returned: object, call: Call) -> Tensor:
    """The images that an attack returned, in the type of the clean ones.

    Raises:
        UserError: They are no tensor, or have another shape.
    """
    if not isinstance(returned, Tensor) or returned.shape != call.images.shape:
        what = f"shape {tuple(returned.shape)}" if isinstance(returned, Tensor) else f"type {type(returned).__name__}"
        raise UserError(f"{call.name} returned images of {what} instead of {tuple(call.images.shape)}")
    return returned.detach().to(call.images)


@contextlib.contextmanager
def _global_seeds(seed: int) -> Iterator[None]:
    """Seeds the global generators of Python, NumPy and torch inside the context, and restores them at its end."""
    # NumPy's global generator is the one that other libraries draw from.
    of_python, of_numpy = python_random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with seeded(seed):
            python_random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            yield
    finally:
        python_random.setstate(of_python)
        np.random.set_state(of_numpy)  # noqa: NPY002


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drops what a library prints or warns of: the standard output is for the report alone."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@cache
def _attack_class(library: type[Library], argument: str) -> type[Attack]:
    """The attack class of a class of a library; see :meth:`Library.member`."""
    of_library = library()
    module, members = of_library.imported(), of_library.members()
    if argument not in members:
        names = sorted(members)
        if not argument:
            raise UserError(
                f"{library.name} is a library: name an attack of it, {library.name}:NAME: {', '.join(names)}"
            )
        raise UserError(f"{library.name} has no attack '{argument}' that can run here: {did_you_mean(argument, names)}")
    kind, member = getattr(module, argument), members[argument]
    fields = dict(_fields(kind, library.reserved))
    annotations = {name: annotation for name, (annotation, _) in fields.items()}
    constants = {
        "norms": member.norms,
        "minimal_norm": member.minimal_norm,
        "access": member.access,
        "paper": f"see the documentation of {of_library.version()}",
        "library": library,
        "foreign": argument,
    }
    namespace = {
        "__module__": library.__module__,
        "__doc__": f"{argument} of {of_library.version()}.",
        "__annotations__": annotations | dict.fromkeys(constants, ClassVar[Any]),
        **{name: field for name, (_, field) in fields.items()},
        **constants,
    }
    with _quiet():
        # A parameter may have the name of an inherited attribute.
        name = f"{library.name}:{argument}"
        attack: type[Attack] = new_class(name, (ForeignAttack,), exec_body=lambda body: body.update(namespace))
    return attack


def _fields(kind: type, reserved: frozenset[str]) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """The type and the field of each parameter of a constructor that a user can write as JSON.

    Args:
        kind: The class of a library.
        reserved: Parameters to leave out.
    """
    hints: Mapping[str, Any] = {}
    # Some annotations name classes that are not imported.
    with contextlib.suppress(NameError, TypeError):
        hints = typing.get_type_hints(kind.__init__)  # type: ignore[misc]
    for name, parameter in list(inspect.signature(kind.__init__).parameters.items())[1:]:  # type: ignore[misc]
        if name in reserved or parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}:
            continue
        annotation = _annotation(parameter.default, hints.get(name))
        if annotation is not None:
            default = ... if parameter.default is parameter.empty else parameter.default
            yield name, (annotation, Field(default, description=f"a parameter of {kind.__name__}'s constructor"))


_SCALARS = (bool, int, float, str)


def _annotation(default: Any, hint: Any) -> Any:
    """The type of a parameter; ``None`` if JSON cannot hold its values.

    Args:
        default: Its default, or ``inspect.Parameter.empty``.
        hint: Its annotation; ``None`` without one.
    """
    hinted = [kind for kind in (typing.get_args(hint) or (hint,)) if kind in _SCALARS]
    if default is None or default is inspect.Parameter.empty:
        kinds = hinted or ([] if hint is not None else list(_SCALARS))
        return _one_of(*kinds, *([type(None)] if default is None else [])) if kinds else None
    if isinstance(default, float) and not math.isfinite(default):
        return None
    if type(default) is int:
        # Without an annotation, an integer may stand for any number.
        return _one_of(int) if hinted == [int] else _one_of(int, float)
    if type(default) in _SCALARS:
        return _one_of(type(default))
    if isinstance(default, tuple | list) and all(type(value) in _SCALARS for value in default):
        return tuple[_one_of(int, float), ...]  # type: ignore[misc]
    return None


def _one_of(*kinds: type) -> Any:
    """The type of a value of one of several types, with one message for all."""
    names = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)

    def check(value: Any) -> Any:
        if type(value) in kinds or (float in kinds and type(value) is int):
            return value
        raise ValueError(f"give {names}")

    return typing.Annotated[typing.Union[kinds], PlainValidator(check)]  # noqa: UP007 - of a tuple of types

"""Calls the class or the function of a model with those usual parameters that it takes."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from inspect import Parameter
from typing import Any

import torch
from torch import nn

from robustbench_cli.attacks.base.inputs import checked_model
from robustbench_cli.core.errors import UserError, one_line
from robustbench_cli.core.isolation import isolated

__all__ = ["PARAMETERS", "make", "unwrapped"]

PARAMETERS = ("shape", "classes", "num_classes", "in_channels", "in_chans")
"""The parameters that a class or a function of a model may take; it gets those that it has."""

_CLASSES = frozenset({"classes", "num_classes"})
_CHANNELS = frozenset({"in_channels", "in_chans"})

# The keywords to try on a function with **keywords: those of timm, of torchvision and of our own models. For images that are
# not in color, keywords with channels come first.
_COLOR = (
    ("num_classes",),
    ("num_classes", "in_channels"),
    ("num_classes", "in_chans"),
    ("shape", "classes"),
    ("shape", "num_classes"),
    ("classes",),
    (),
)
_OTHER = (
    ("num_classes", "in_chans"),
    ("num_classes", "in_channels"),
    ("shape", "classes"),
    ("shape", "num_classes"),
    ("num_classes",),
    ("classes",),
    (),
)

_WAYS = f"a model is a class or a function with no parameters or any of {', '.join(PARAMETERS)}, or an nn.Module"


def unwrapped(target: Any) -> Any:
    """The object inside any ``functools.partial``."""
    while isinstance(target, partial):
        target = target.func
    return target


def make(
    target: Any,
    *,
    name: str,
    shape: tuple[int, int, int],
    classes: int,
    argument: str | None,
    finish: Callable[[nn.Module], nn.Module],
) -> nn.Module:
    """Makes a model.

    A function whose ``**keywords`` hide its parameters is called in several ways, each from the same random state.

    Args:
        target: A class or a function with no parameters or any of :data:`PARAMETERS` (others have defaults); or an
            ``nn.Module``, which is copied.
        name: The model's name in messages.
        shape: ``(C, H, W)``.
        classes: K.
        argument: What follows the colon in the model's name, for a parameter ``argument``.
        finish: Turns the network into the model; it raises :class:`UserError` if the network does not fit the images.

    Raises:
        UserError: No way of calling ``target`` gives a model for these images.
    """
    if isinstance(target, nn.Module):
        if argument is not None:
            raise UserError(f"{name} takes nothing after its name, not ':{argument}'")
        return finish(_network(_copied(target, name), name))
    if not callable(target):
        raise UserError(f"{name} is a {type(target).__name__}: {_WAYS}")
    values: dict[str, Any] = {"shape": shape, "classes": classes, "num_classes": classes}
    values |= dict.fromkeys(_CHANNELS, shape[0])
    state = torch.get_rng_state()
    failures: list[tuple[int, UserError]] = []
    for positional, keywords in _calls(target, values, argument, name):
        torch.set_rng_state(state)
        try:
            with isolated():
                made = target(*positional, **keywords)
        except UserError as error:
            failures.append((1, error))
        except Exception as error:  # noqa: BLE001 - a user's code can raise any exception
            failure = UserError(f"{name} cannot be built: {one_line(error)}")
            failure.__cause__ = error
            failures.append((3 if "unexpected keyword argument" in str(error) else 2, failure))
        else:
            try:
                return finish(_network(made, name))
            except UserError as error:
                failures.append((0, error))
    # The error of a network that was built tells more than that of a call that failed.
    raise min(failures, key=lambda failure: failure[0])[1]


Call = tuple[tuple[Any, ...], dict[str, Any]]


def _calls(target: Any, values: Mapping[str, Any], argument: str | None, name: str) -> list[Call]:
    """The positional and the keyword arguments of the calls to try, in order."""
    try:
        parameters = list(inspect.signature(target).parameters.values())
    except (TypeError, ValueError):
        # A function written in C has no signature.
        return [((), {})]
    # The user has set the keywords of a partial.
    fixed = set(target.keywords) if isinstance(target, partial) else set()
    kinds = {parameter.kind for parameter in parameters}
    names = fixed | {parameter.name for parameter in parameters}
    available = dict(values) if argument is None else {**values, "argument": argument}
    positional, keywords = _arguments(
        [parameter for parameter in parameters if parameter.name not in fixed], available, name
    )
    if argument is not None and "argument" not in {parameter.name for parameter in parameters}:
        if Parameter.VAR_KEYWORD not in kinds:
            raise UserError(f"{name} takes nothing after its name, not ':{argument}'")
        keywords["argument"] = argument
    if Parameter.VAR_KEYWORD in kinds:
        combinations = _hidden_keywords(names, color=values["shape"][0] == 3)
        return [(positional, keywords | {key: values[key] for key in keys}) for keys in combinations]
    calls: list[Call] = [(positional, keywords)]
    if Parameter.VAR_POSITIONAL in kinds and not positional and not keywords:
        calls += [((values["classes"],), {}), ((values["shape"], values["classes"]), {})]
    return calls


def _arguments(parameters: Iterable[Parameter], available: Mapping[str, Any], name: str) -> Call:
    """The arguments for the named parameters of a function.

    Args:
        parameters: Its parameters.
        available: The values, by name.
        name: The model's name in messages.

    Raises:
        UserError: A parameter has neither a value nor a default.
    """
    positional: list[Any] = []
    keywords: dict[str, Any] = {}
    for parameter in parameters:
        if parameter.kind in {Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD}:
            continue
        if parameter.name not in available and parameter.default is Parameter.empty:
            raise UserError(
                f"{name} needs '{parameter.name}', which nothing gives: set it by functools.partial; {_WAYS}"
            )
        if parameter.kind is Parameter.POSITIONAL_ONLY:
            positional.append(available.get(parameter.name, parameter.default))
        elif parameter.name in available:
            keywords[parameter.name] = available[parameter.name]
    return tuple(positional), keywords


def _hidden_keywords(taken: Collection[str], *, color: bool) -> list[tuple[str, ...]]:
    """The combinations of keywords that ``**keywords`` may take, in the order to try them.

    Args:
        taken: Parameters that the function has by name.
        color: Whether images have three channels.
    """
    excluded = set(taken)
    for group in (_CLASSES, _CHANNELS):
        if group.intersection(taken):
            excluded |= group
    if "shape" in taken:
        excluded |= _CHANNELS
    combinations = (tuple(key for key in keys if key not in excluded) for keys in (_COLOR if color else _OTHER))
    return list(dict.fromkeys(combinations))


def _copied(network: nn.Module, name: str) -> nn.Module:
    try:
        return copy.deepcopy(network)
    except Exception as error:
        raise UserError(f"{name} cannot be copied: {one_line(error)}") from error


def _network(made: object, name: str) -> nn.Module:
    """Checks that an object is a network with weights in float32, and moves it to the CPU."""
    if not isinstance(made, nn.Module):
        what = f"the class {made.__name__}" if inspect.isclass(made) else f"a {type(made).__name__}"
        raise UserError(f"{name} gives {what}: it must return an nn.Module")
    network = checked_model(made, what=name)
    dtypes = {parameter.dtype for parameter in network.parameters() if parameter.is_floating_point()}
    if dtypes - {torch.float32}:
        names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
        raise UserError(f"{name} has weights in {names}: give them in float32, as model.float() has them")
    if any(tensor.device.type != "cpu" for tensor in (*network.parameters(), *network.buffers())):
        network = network.cpu()
    return network

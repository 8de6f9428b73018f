"""Calls what makes a model, with whichever of the usual parameters it takes."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Collection, Mapping
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
"""What is given to a class or a function that makes a model, of these what it takes."""

_CLASSES = frozenset({"classes", "num_classes"})
_CHANNELS = frozenset({"in_channels", "in_chans"})

# What a **keywords of unknown use is tried with: as timm, torchvision and our own models take it. The channels are needed
# first where images are not in color.
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


def unwrapped(thing: Any) -> Any:
    """What is inside of a ``functools.partial``."""
    while isinstance(thing, partial):
        thing = thing.func
    return thing


def make(
    thing: Any,
    *,
    name: str,
    shape: tuple[int, int, int],
    classes: int,
    argument: str | None,
    finish: Callable[[nn.Module], nn.Module],
) -> nn.Module:
    """Makes a model.

    Only where a ``**keywords`` hides what a function takes are several calls tried, each from the same random numbers.

    Args:
        thing: A class or a function with no parameters or any of :data:`PARAMETERS`, others of which have defaults; or an
            ``nn.Module``, which is copied.
        name: What it is called in a message.
        shape: ``(C, H, W)``.
        classes: K.
        argument: What followed the colon in the model's name, for a parameter ``argument``.
        finish: Makes the model of the network, and raises :class:`UserError` where that is no model of such images.

    Raises:
        UserError: Nothing that the thing can be called with gives such a model.
    """
    if isinstance(thing, nn.Module):
        if argument is not None:
            raise UserError(f"{name} takes nothing after its name, not ':{argument}'")
        return finish(_network(_copied(thing, name), name))
    if not callable(thing):
        raise UserError(f"{name} is a {type(thing).__name__}: {_WAYS}")
    values: dict[str, Any] = {"shape": shape, "classes": classes, "num_classes": classes}
    values |= dict.fromkeys(_CHANNELS, shape[0])
    state = torch.get_rng_state()
    failures: list[tuple[int, UserError]] = []
    for positional, keywords in _calls(thing, values, argument, name):
        torch.set_rng_state(state)
        try:
            with isolated():
                made = thing(*positional, **keywords)
        except UserError as error:
            failures.append((1, error))
        except Exception as error:  # noqa: BLE001 - a user's code can end in any exception
            failure = UserError(f"{name} cannot be built: {one_line(error)}")
            failure.__cause__ = error
            failures.append((3 if "unexpected keyword argument" in str(error) else 2, failure))
        else:
            try:
                return finish(_network(made, name))
            except UserError as error:
                failures.append((0, error))
    # What was built and is no such model tells more than what could not be called so.
    raise min(failures, key=lambda failure: failure[0])[1]


Call = tuple[tuple[Any, ...], dict[str, Any]]


def _calls(thing: Any, values: Mapping[str, Any], argument: str | None, name: str) -> list[Call]:
    """The positional and the keyword arguments to try, in order."""
    try:
        parameters = inspect.signature(thing).parameters.values()
    except (TypeError, ValueError):
        # What is written in C does not say what it takes.
        return [((), {})]
    known = dict(values) if argument is None else {**values, "argument": argument}
    # What a partial has set is what the user wants.
    fixed = set(thing.keywords) if isinstance(thing, partial) else set()
    kinds = {each.kind for each in parameters}
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for each in parameters:
        if each.kind in {Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD} or each.name in fixed:
            continue
        if each.name in known:
            if each.kind is Parameter.POSITIONAL_ONLY:
                positional.append(known[each.name])
            else:
                named[each.name] = known[each.name]
        elif each.default is Parameter.empty:
            raise UserError(f"{name} needs '{each.name}', which nothing gives: set it by functools.partial; {_WAYS}")
        elif each.kind is Parameter.POSITIONAL_ONLY:
            positional.append(each.default)
    if argument is not None and "argument" not in {each.name for each in parameters}:
        if Parameter.VAR_KEYWORD not in kinds:
            raise UserError(f"{name} takes nothing after its name, not ':{argument}'")
        named["argument"] = argument
    calls: list[Call] = [(tuple(positional), named)]
    if Parameter.VAR_KEYWORD in kinds:
        combinations = _hidden(fixed | {each.name for each in parameters}, color=values["shape"][0] == 3)
        return [(tuple(positional), named | {word: values[word] for word in words}) for words in combinations]
    if Parameter.VAR_POSITIONAL in kinds and not positional and not named:
        calls += [((values["classes"],), {}), ((values["shape"], values["classes"]), {})]
    return calls


def _hidden(taken: Collection[str], *, color: bool) -> list[tuple[str, ...]]:
    """The words that a ``**keywords`` may take, beside those that are taken already, in the order to try them."""
    without = set(taken)
    for group in (_CLASSES, _CHANNELS):
        if group.intersection(taken):
            without |= group
    if "shape" in taken:
        without |= _CHANNELS
    combinations = (tuple(word for word in each if word not in without) for each in (_COLOR if color else _OTHER))
    return list(dict.fromkeys(combinations))


def _copied(network: nn.Module, name: str) -> nn.Module:
    try:
        return copy.deepcopy(network)
    except Exception as error:
        raise UserError(f"{name} cannot be copied: {one_line(error)}") from error


def _network(made: object, name: str) -> nn.Module:
    """What was made, if it is a network that can be used here, on the CPU."""
    if not isinstance(made, nn.Module):
        what = f"the class {made.__name__}" if inspect.isclass(made) else f"a {type(made).__name__}"
        raise UserError(f"{name} gives {what}: it is to return an nn.Module")
    network = checked_model(made, what=name)
    kinds = {each.dtype for each in network.parameters() if each.is_floating_point()}
    if kinds - {torch.float32}:
        found = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds))
        raise UserError(f"{name} has weights in {found}: give them in float32, as model.float() has them")
    if any(each.device.type != "cpu" for each in (*network.parameters(), *network.buffers())):
        network = network.cpu()
    return network

"""Checks the arguments of the Python interface (images, labels, radii, models, devices) and converts them to tensors."""

from __future__ import annotations

import functools
import inspect
import itertools
import math
import re
from collections.abc import Callable
from numbers import Real
from typing import Any, ParamSpec, TypeVar, get_args, get_type_hints

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from robustbench_cli.attacks.base.models.passes import as_rows
from robustbench_cli.attacks.base.norm import NORMS, Norm
from robustbench_cli.core.errors import UserError, did_you_mean, is_out_of_memory, one_line

__all__ = [
    "Images",
    "Labels",
    "Radius",
    "checked_batch",
    "checked_call",
    "checked_count",
    "checked_device",
    "checked_eot",
    "checked_images",
    "checked_keywords",
    "checked_labels",
    "checked_logits",
    "checked_model",
    "checked_norm",
    "checked_radii",
    "checked_seed",
    "device_of",
    "match_model",
    "parse_radius",
    "range_hint",
    "require_classes",
]

P = ParamSpec("P")
R = TypeVar("R")

Images = Tensor | ArrayLike
"""Images ``(N, C, H, W)``, floats in [0, 1] or uint8: a tensor, an array, or nested lists."""

Labels = Tensor | ArrayLike
"""Labels ``(N,)`` or ``(N, 1)`` of any integer type: a tensor, an array, or a list."""

Radius = float | str | Tensor | ArrayLike
"""One radius, as a number or a fraction (``"8/255"``), or ``(N,)`` radii."""

_NUMBER = re.compile(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*")


def checked_keywords(function: Callable[P, R]) -> Callable[P, R]:
    """Decorates a function so that an unknown keyword raises a :class:`UserError` that suggests the right one.

    Args:
        function: May end with ``**options: Unpack[T]`` for a TypedDict T, but not with other ``**keywords``.
    """
    names = _keywords(function)
    name = function.__name__

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for key in kwargs:
            if key not in names:
                called = type(args[0]).__name__ if name == "__call__" else name
                raise UserError(f"{called} has no parameter '{key}': {did_you_mean(key, names)}")
        return function(*args, **kwargs)

    return checked


def _keywords(function: Callable[..., object]) -> list[str]:
    """The names of a function's parameters, including the keys of ``**options: Unpack[T]``."""
    names = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            (options,) = get_args(get_type_hints(function)[parameter.name])
            names += [*options.__annotations__]
        elif parameter.name != "self":
            names.append(parameter.name)
    return names


def checked_model(model: object, *, what: str = "the model") -> nn.Module:
    """Checks that an object is a model.

    Args:
        model: The caller's argument.
        what: The subject of the error message.

    Raises:
        UserError: The object is not an ``nn.Module``, or it has weights on the meta device.
    """
    if isinstance(model, nn.Module):
        if any(tensor.is_meta for tensor in itertools.chain(model.parameters(), model.buffers())):
            raise UserError(f"{what} has weights on the meta device, which holds no numbers: build it on another one")
        return model
    if inspect.isclass(model):
        raise UserError(f"{what} is the class {model.__name__}: give an instance of it")
    inner = getattr(model, "model", None)
    way = "give its .model" if isinstance(inner, nn.Module) else "give a torch.nn.Module"
    raise UserError(f"{what} is a {type(model).__name__}: {way}")


def checked_images(images: object, *, what: str = "the images") -> Tensor:
    """Checks images and converts them to a tensor on their device.

    Args:
        images: See :data:`Images`.
        what: The subject of the error message.

    Returns:
        ``(N, C, H, W)``, contiguous, in [0, 1], without a graph, in float64 if the images are and in float32 otherwise.

    Raises:
        UserError: The type or the shape does not match :data:`Images`, there are no images, or a pixel is NaN or outside
            [0, 1].
    """
    tensor = _tensor(images, what)
    if tensor.ndim != 4 or not tensor.numel():
        one = ", and one image is images[None]" if tensor.ndim == 3 else ""
        raise UserError(f"{what} have the shape {tuple(tensor.shape)}: give (N, C, H, W), each of them at least 1{one}")
    if tensor.dtype == torch.uint8:
        return tensor.float() / 255
    if not tensor.is_floating_point():
        raise UserError(f"{what} are of type {_name(tensor.dtype)}: give floats in [0, 1], or uint8")
    if tensor.dtype != torch.float64:
        tensor = tensor.float()
    low, high = (float(value) for value in tensor.aminmax())
    if math.isnan(low):
        raise UserError(f"{what} hold NaN: every pixel must be a number in [0, 1]")
    if low < 0 or high > 1:
        raise UserError(f"{what} reach from {low:.9g} to {high:.9g}: {range_hint(low, high)}")
    return tensor


def range_hint(low: float, high: float) -> str:
    """What to do about pixels outside [0, 1], as the end of a message.

    Args:
        low: The lowest pixel.
        high: The highest pixel.
    """
    if low >= -1e-3 and high <= 1 + 1e-3:
        return "cut them to [0, 1], as in images.clip(0, 1)"
    if low >= 0 and 1.5 < high <= 255:
        return "divide them by 255, pixels are floats in [0, 1] (or give uint8)"
    return "give pixels in [0, 1], and put the normalization inside the model"


def checked_labels(labels: object, count: int, *, what: str = "the labels") -> Tensor:
    """Checks labels and converts them to int64 on their device.

    Args:
        labels: See :data:`Labels`.
        count: N, the number of images.
        what: The subject of the error message.

    Returns:
        ``(N,)``.

    Raises:
        UserError: The type does not match :data:`Labels`, the number of labels is not N, or a label is negative.
    """
    tensor = _tensor(labels, what)
    if tensor.ndim == 2 and tensor.shape[1] == 1:
        tensor = tensor[:, 0]
    if tensor.ndim == 2 and len(tensor) == count:
        raise UserError(
            f"{what} have the shape {tuple(tensor.shape)}: give one class per image, as in labels.argmax(1)"
        )
    if tensor.shape != (count,):
        raise UserError(f"{count} images need as many labels: these have the shape {tuple(tensor.shape)}")
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise UserError(f"{what} are of type {_name(tensor.dtype)}: give whole numbers from 0, of any integer type")
    whole = tensor.to(torch.int64)
    if bool((whole < 0).any()):
        raise UserError(f"{what} reach down to {int(whole.min())}: classes are counted from 0")
    return whole


def checked_batch(images: object, labels: object) -> tuple[Tensor, Tensor]:
    """Checks images and their labels; see :func:`checked_images` and :func:`checked_labels`.

    Args:
        images: See :data:`Images`.
        labels: See :data:`Labels`.

    Returns:
        ``(N, C, H, W)`` and ``(N,)``.

    Raises:
        UserError: See :func:`checked_images` and :func:`checked_labels`.
    """
    checked = checked_images(images)
    return checked, checked_labels(labels, len(checked))


def require_classes(labels: Tensor, classes: int, *, name: str = "the model") -> None:
    """Checks that all labels are classes of a model.

    Args:
        labels: ``(N,)``.
        classes: K, the number of the model's classes.
        name: The model's name in the error message.

    Raises:
        UserError: A label is not in [0, K).
    """
    if len(labels) and not (labels.min() >= 0 and labels.max() < classes):
        raise UserError(
            f"the labels reach from {int(labels.min())} to {int(labels.max())}, and {name} gives {classes} logits per image: "
            f"labels must be 0 to {classes - 1}"
        )


def checked_norm(norm: object, supported: tuple[Norm, ...], *, name: str) -> Norm:
    """Checks a norm; the default is the first supported one.

    Args:
        norm: The caller's argument; ``None`` for the default.
        supported: The supported norms.
        name: What supports them, in the error message.

    Raises:
        UserError: The norm is not supported.
    """
    if norm is None:
        return supported[0]
    for candidate in supported:
        if norm == candidate:
            return candidate
    # NumPy writes norms as np.inf and 2.
    text = f"{norm:g}" if isinstance(norm, float) else str(norm)
    hint = f": {did_you_mean(text, supported)}" if text not in NORMS else ""
    if "did you mean" not in hint:
        hint = f": it knows {', '.join(supported)}"
    raise UserError(f"{name} does not know the norm {text}{hint}")


def parse_radius(eps: object) -> float:
    """Parses one radius on the [0, 1] pixel scale.

    Args:
        eps: A number, a scalar array or tensor, or a text such as ``"0.03"`` or ``"8/255"``.

    Raises:
        UserError: It is not a number.

    >>> parse_radius("1/4")
    0.25
    """
    value = eps.item() if isinstance(eps, Tensor | np.ndarray | np.generic) and eps.ndim == 0 else eps
    if isinstance(value, str):
        numerator, slash, denominator = value.partition("/")
        parts = [numerator, denominator] if slash else [numerator]
        if not all(_NUMBER.fullmatch(part) for part in parts) or (slash and not float(denominator)):
            raise UserError(f"eps is '{value}': give a number or a fraction, such as 0.03 or '8/255'")
        value = float(numerator) / (float(denominator) if slash else 1)
    if isinstance(value, bool) or not isinstance(value, Real):
        raise UserError(f"eps is {_shown(eps)}: give a number or a fraction, such as 0.03 or '8/255'")
    return float(value)


def checked_radii(eps: object, count: int, *, norm: Norm) -> Tensor:
    """Checks the radii of N images.

    Args:
        eps: See :data:`Radius`.
        count: N.
        norm: The norm of the radii.

    Returns:
        ``(N,)`` float64, on the CPU.

    Raises:
        UserError: The number of radii is neither 1 nor N, or a radius is not a number, negative, infinite, or above 1 in
            linf.
    """
    if isinstance(eps, str | Real) or getattr(eps, "ndim", None) == 0:
        radii = torch.full((count,), parse_radius(eps), dtype=torch.float64)
    elif isinstance(eps, list | tuple) and any(isinstance(radius, str) for radius in eps):
        radii = torch.tensor([parse_radius(radius) for radius in eps], dtype=torch.float64)
    else:
        values = _tensor(eps, "eps")
        if values.is_complex() or values.dtype == torch.bool:
            raise UserError(f"eps is {_shown(eps)}: give a number or a fraction, such as 0.03 or '8/255'")
        radii = values.cpu().to(torch.float64)
    if radii.shape == (1,):
        radii = radii.expand(count).clone()
    if radii.shape != (count,):
        raise UserError(f"{count} images need one eps or as many: these have the shape {tuple(radii.shape)}")
    if not bool((radii >= 0).all()):
        raise UserError(f"eps must be a number that is not negative: it is {radii.min().item():g}")
    largest = radii.max().item()
    if norm == "linf" and largest > 1:
        example = f", as in eps='{largest:g}/255'" if largest <= 255 else ""
        raise UserError(f"eps is {largest:g}: in linf it is at most 1, on the [0, 1] pixel scale{example}")
    if math.isinf(largest):
        raise UserError("eps is infinite: give a number, or leave eps out for a minimal-norm attack")
    # Turns -0.0 into 0.0.
    return radii.abs()


def checked_eot(eot: object) -> Any:
    """Checks the draws per gradient, :data:`~robustbench_cli.attacks.base.gradients.draws.EOTChoice`.

    Raises:
        UserError: It is neither ``"auto"``, ``"exact"``, ``"frozen"`` nor an integer >= 1.
    """
    if isinstance(eot, str):
        if eot in {"auto", "exact", "frozen"}:
            return eot
        raise UserError(f"eot is '{eot}': give 'auto', 'exact', 'frozen' or a number of draws, such as 10")
    return checked_count(eot, "eot", "give 'auto', 'exact', 'frozen' or a number of draws, such as 10")


def checked_count(number: object, what: str, advice: str = "give a whole number, at least 1", *, least: int = 1) -> int:
    """Checks an integer with a lower bound.

    Args:
        number: Of any integer type.
        what: The subject of the error message.
        advice: The end of the error message.
        least: The lower bound.

    Raises:
        UserError: It is not an integer, or smaller than the bound.
    """
    if isinstance(number, Tensor | np.ndarray) and number.ndim == 0:
        number = number.item()
    if isinstance(number, bool) or not isinstance(number, int | np.integer) or number < least:
        raise UserError(f"{what} is {_shown(number)}: {advice}")
    return int(number)


def checked_seed(seed: object) -> int:
    """Checks a seed, of any integer type.

    Args:
        seed: The caller's argument.

    Raises:
        UserError: It is not an integer, or below 0.
    """
    return checked_count(seed, "seed", "give a whole number, at least 0", least=0)


def checked_device(device: torch.device | str | int) -> torch.device:
    """Checks that a device is available.

    Args:
        device: A device, its name, or its number.

    Raises:
        UserError: The device does not exist or is not available.
    """
    try:
        checked: torch.device = torch.device(device)
        torch.empty(1, device=checked)
    except (RuntimeError, TypeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"device is {_shown(device)}: give cpu, cuda or cuda:N ({one_line(error)})") from None
    return checked


def device_of(model: nn.Module) -> torch.device:
    """The device of a model's first parameter or buffer; the CPU if it has none."""
    tensor = next(itertools.chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device


def match_model(images: Tensor, model: nn.Module) -> Tensor:
    """Moves images to a model's device, in float64 if all of its weights are in float64, and in float32 otherwise.

    Args:
        images: From :func:`checked_images`.
        model: The model.

    Returns:
        ``(N, C, H, W)``.
    """
    tensors = itertools.chain(model.parameters(), model.buffers())
    dtypes = {tensor.dtype for tensor in tensors if tensor.is_floating_point()}
    return images.to(device_of(model), torch.float64 if dtypes == {torch.float64} else torch.float32)


def checked_call(
    model: object, images: object, labels: object, device: torch.device | str | None
) -> tuple[Tensor, Tensor, torch.device]:
    """Checks a model, a batch and a device that a Python caller gave.

    Args:
        model: See :func:`checked_model`.
        images: See :data:`Images`.
        labels: See :data:`Labels`.
        device: Where to compute; ``None`` for the model's own device.

    Returns:
        ``(N, C, H, W)`` in the model's type, ``(N,)``, and the device.

    Raises:
        UserError: An argument is not allowed.
    """
    network = checked_model(model)
    tensor, classes = checked_batch(images, labels)
    tensor = tensor.to(match_model(tensor[:1], network).dtype)
    return tensor, classes, checked_device(device) if device is not None else device_of(network)


def checked_logits(model: nn.Module, images: Tensor, *, classes: int | None = None, name: str = "the model") -> Tensor:
    """Passes images through a model and checks that it returns logits.

    Args:
        model: In ``eval()`` mode.
        images: ``(N, C, H, W)`` in [0, 1], on the model's device.
        classes: The expected number of classes, for the error message.
        name: The subject of the error message.

    Returns:
        ``(N, K)`` floats, K >= 2, without a graph.

    Raises:
        UserError: The model fails on the images, or does not return float logits ``(N, K)`` on the device of the images.
    """
    with torch.no_grad():
        try:
            # A model may write into its input.
            logits = as_rows(model(images.clone()), len(images))
        except Exception as error:
            if isinstance(error, UserError) or is_out_of_memory(error):
                raise
            raise UserError(
                f"{name} fails on images of shape {tuple(images.shape[1:])}: {one_line(error)}{_hint(model, images)}"
            ) from error
    if not isinstance(logits, Tensor):
        raise UserError(f"{name} gives a {type(logits).__name__}: it must return one tensor of logits (N, K)")
    if logits.ndim != 2 or len(logits) != len(images) or logits.shape[1] < 2 or not logits.is_floating_point():
        raise UserError(
            f"{name} gives {logits.dtype} of shape {tuple(logits.shape)} for {len(images)} images: "
            f"it must give float logits ({len(images)}, {classes or 'K'})"
        )
    if logits.device != images.device:
        raise UserError(
            f"{name} gives logits on {logits.device} for images on {images.device}: let it compute where its images are"
        )
    return logits


def _hint(model: nn.Module, images: Tensor) -> str:
    """The end of an error message with a frequent reason for a model's failure; empty if none applies."""
    dtypes = (parameter.dtype for parameter in model.parameters())
    half = next((dtype for dtype in dtypes if dtype in {torch.float16, torch.bfloat16}), None)
    if half is not None:
        return f"; its weights are {_name(half)} and images float32: give model.float()"
    _, channels, height, width = images.shape
    taken = next((layer.in_channels for layer in model.modules() if isinstance(layer, nn.Conv2d)), channels)
    if {taken, channels} == {1, 3} and width > 3:
        return (
            f"; its first convolution takes {taken} channels, these images have {channels}: give --channels {taken}, or the "
            "keyword channels of load_dataset"
        )
    if width in {1, 3} and channels not in {1, 3} and height > 3:
        return "; the channels seem to come last: give (N, C, H, W), as in images.permute(0, 3, 1, 2)"
    return ""


def _tensor(values: object, what: str) -> Tensor:
    """Converts numbers to a dense tensor, which shares memory only with a contiguous tensor of the caller."""
    if isinstance(values, list | tuple) and values and all(isinstance(value, Tensor) for value in values):
        try:
            values = torch.stack(list(values))
        except RuntimeError as error:
            raise UserError(f"{what} are no tensor: {one_line(error)}") from None
    if isinstance(values, Tensor):
        if values.layout != torch.strided or values.is_nested or values.is_quantized or values.is_meta:
            raise UserError(
                f"{what} are a tensor of another kind ({values.layout}, {_name(values.dtype)}): give a dense one"
            )
        dense = values.detach().contiguous()
        # A tensor that was made in inference mode cannot have a gradient.
        return dense.clone() if dense.is_inference() else dense
    try:
        array = np.array(values, order="C")
    except Exception as error:  # noqa: BLE001 - an object's own __array__ may raise any exception
        raise UserError(f"{what} are no array of numbers: {one_line(error)}") from None
    if array.dtype.kind not in "biufc" or array.dtype.char in "gG":
        raise UserError(f"{what} are {'of type ' + str(array.dtype) if array.ndim else _shown(values)}: give numbers")
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        if array.size and int(array.max()) > torch.iinfo(torch.int64).max:
            raise UserError(f"{what} reach up to {int(array.max())}: give smaller numbers")
        array = array.astype(np.int64)
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _shown(value: object) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:79]}…"

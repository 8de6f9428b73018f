"""What Python callers give, made into checked tensors: images, labels, radii, a model, a device."""

from __future__ import annotations

import functools
import inspect
import itertools
import math
import re
from collections.abc import Callable
from numbers import Real
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from robustbench_cli.attacks.base.models.passes import as_rows
from robustbench_cli.attacks.base.norm import NORMS, Norm
from robustbench_cli.core.errors import UserError, did_you_mean, one_line

__all__ = [
    "Images",
    "Labels",
    "Radius",
    "checked_batch",
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
    "device_of",
    "match_model",
    "parse_radius",
    "require_classes",
]

P = ParamSpec("P")
R = TypeVar("R")

Images = Tensor | ArrayLike
"""Images ``(N, C, H, W)``: floats in [0, 1] or uint8, as a tensor, an array, or nested lists."""

Labels = Tensor | ArrayLike
"""Labels ``(N,)`` or ``(N, 1)`` of any integer type, as a tensor, an array, or a list."""

Radius = float | str | Tensor | ArrayLike
"""A radius as a number or a fraction (``"8/255"``), or ``(N,)`` radii."""

_NUMBER = re.compile(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*")


def checked_keywords(function: Callable[P, R]) -> Callable[P, R]:
    """Lets a function answer a keyword that it does not have with the one that was meant.

    Args:
        function: Takes no ``**keywords`` of its own.
    """
    known = [name for name in inspect.signature(function).parameters if name != "self"]
    name = function.__name__

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for key in kwargs:
            if key not in known:
                called = type(args[0]).__name__ if name == "__call__" else name
                raise UserError(f"{called} has no parameter '{key}': {did_you_mean(key, known)}")
        return function(*args, **kwargs)

    return checked


def checked_model(model: object, *, what: str = "the model") -> nn.Module:
    """A model, if it is one.

    Args:
        model: What the caller gave.
        what: The beginning of the message.

    Raises:
        UserError: It is no ``nn.Module``, or its weights are not initialized.
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
    """Images as a tensor of their own, on the device where they are; the caller's are left as they are.

    Args:
        images: See :data:`Images`.
        what: The beginning of the message.

    Returns:
        ``(N, C, H, W)``, contiguous, in [0, 1], without a graph: float64 if they were float64, float32 otherwise.

    Raises:
        UserError: They are not what :data:`Images` says, there are none, or a pixel is NaN or outside [0, 1].
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
        raise UserError(f"{what} hold NaN: every pixel is to be a number in [0, 1]")
    if low < 0 or high > 1:
        raise UserError(f"{what} reach from {low:.9g} to {high:.9g}: {_into_the_box(low, high)}")
    return tensor


def _into_the_box(low: float, high: float) -> str:
    if low >= -1e-3 and high <= 1 + 1e-3:
        return "cut them to [0, 1], as in images.clip(0, 1)"
    if low >= 0 and 1.5 < high <= 255:
        return "divide them by 255, pixels are floats in [0, 1] (or give uint8)"
    return "give pixels in [0, 1], and put the normalization inside the model"


def checked_labels(labels: object, count: int, *, what: str = "the labels") -> Tensor:
    """Labels as int64, on the device where they are.

    Args:
        labels: See :data:`Labels`.
        count: N, the number of images.
        what: The beginning of the message.

    Returns:
        ``(N,)``.

    Raises:
        UserError: They are not what :data:`Labels` says, are not one for each image, or one is negative.
    """
    tensor = _tensor(labels, what)
    if tensor.ndim == 2 and tensor.shape[1] == 1:
        tensor = tensor[:, 0]
    if tensor.ndim == 2 and len(tensor) == count:
        raise UserError(f"{what} have the shape {tuple(tensor.shape)}: give one class an image, as in labels.argmax(1)")
    if tensor.shape != (count,):
        raise UserError(f"{count} images need as many labels: these have the shape {tuple(tensor.shape)}")
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise UserError(f"{what} are of type {_name(tensor.dtype)}: give whole numbers from 0, of any integer type")
    whole = tensor.to(torch.int64)
    if bool((whole < 0).any()):
        raise UserError(f"{what} reach down to {int(whole.min())}: classes are counted from 0")
    return whole


def checked_batch(images: object, labels: object) -> tuple[Tensor, Tensor]:
    """Images and their labels; see :func:`checked_images` and :func:`checked_labels`.

    Args:
        images: See :data:`Images`.
        labels: See :data:`Labels`.

    Returns:
        ``(N, C, H, W)`` and ``(N,)``.

    Raises:
        UserError: They are not what they must be, or there is not one label for each image.
    """
    checked = checked_images(images)
    return checked, checked_labels(labels, len(checked))


def require_classes(labels: Tensor, classes: int, *, name: str = "the model") -> None:
    """Makes sure that a model knows the labels.

    Args:
        labels: ``(N,)``.
        classes: K.
        name: The model's, for the message.

    Raises:
        UserError: A label is not in [0, K).
    """
    if len(labels) and not (labels.min() >= 0 and labels.max() < classes):
        raise UserError(
            f"the labels reach from {int(labels.min())} to {int(labels.max())}, and {name} gives {classes} logits an image: "
            f"labels are to be 0 to {classes - 1}"
        )


def checked_norm(norm: object, known: tuple[Norm, ...], *, name: str) -> Norm:
    """A norm, or the first of the known ones where none is given.

    Args:
        norm: What the caller gave.
        known: What it may be.
        name: Whose norms they are, for the message.

    Raises:
        UserError: It is none of them.
    """
    if norm is None:
        return known[0]
    for each in known:
        if norm == each:
            return each
    # np.inf and 2 are norms to NumPy.
    word = f"{norm:g}" if isinstance(norm, float) else str(norm)
    meant = f": {did_you_mean(word, known)}" if word not in NORMS else ""
    if "did you mean" not in meant:
        meant = f": it knows {', '.join(known)}"
    raise UserError(f"{name} does not know the norm {word}{meant}")


def parse_radius(eps: object) -> float:
    """One radius on the [0, 1] pixel scale, from a number or from words such as ``"8/255"``.

    Raises:
        UserError: It is no number, or negative.
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
    """The radii of N images.

    Args:
        eps: See :data:`Radius`.
        count: N.
        norm: In which they are; those in linf are at most 1.

    Returns:
        ``(N,)`` float64, on the CPU.

    Raises:
        UserError: There are neither one nor N, or one is not a number, negative, infinite, or too large for its norm.
    """
    if isinstance(eps, str | Real) or getattr(eps, "ndim", None) == 0:
        radii = torch.full((count,), parse_radius(eps), dtype=torch.float64)
    elif isinstance(eps, list | tuple) and any(isinstance(each, str) for each in eps):
        radii = torch.tensor([parse_radius(each) for each in eps], dtype=torch.float64)
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
        instead = f", as in eps='{largest:g}/255'" if largest <= 255 else ""
        raise UserError(f"eps is {largest:g}: in linf it is at most 1, on the [0, 1] pixel scale{instead}")
    if math.isinf(largest):
        raise UserError("eps is infinite: give a number, or leave eps out for an attack of the smallest perturbation")
    # Not -0.0.
    return radii.abs()


def checked_eot(eot: object) -> Any:
    """The draws behind a gradient, as :data:`~robustbench_cli.attacks.base.gradients.draws.EOTChoice`.

    Raises:
        UserError: They are none of its words, and no whole number above 0.
    """
    if isinstance(eot, str):
        if eot in {"auto", "exact", "frozen"}:
            return eot
        raise UserError(f"eot is '{eot}': give 'auto', 'exact', 'frozen' or a number of draws, such as 10")
    return checked_count(eot, "eot", "give 'auto', 'exact', 'frozen' or a number of draws, such as 10")


def checked_count(number: object, what: str, right: str = "give a whole number, at least 1", *, least: int = 1) -> int:
    """A whole number of some size.

    Args:
        number: Of any integer type.
        what: The beginning of the message.
        right: Its end.
        least: The smallest that is allowed.

    Raises:
        UserError: It is no whole number, or smaller.
    """
    if isinstance(number, Tensor | np.ndarray) and number.ndim == 0:
        number = number.item()
    if isinstance(number, bool) or not isinstance(number, int | np.integer) or number < least:
        raise UserError(f"{what} is {_shown(number)}: {right}")
    return int(number)


def checked_device(device: torch.device | str | int) -> torch.device:
    """A device that is there.

    Args:
        device: Its name, its number, or itself.

    Raises:
        UserError: There is no such device.
    """
    try:
        found: torch.device = torch.device(device)
        torch.empty(1, device=found)
    except (RuntimeError, TypeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"device is {_shown(device)}: give cpu, cuda or cuda:N ({one_line(error)})") from None
    return found


def device_of(model: nn.Module) -> torch.device:
    """Where a model's first parameter or buffer is; the CPU where it has none."""
    held = next(itertools.chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if held is None else held.device


def match_model(images: Tensor, model: nn.Module) -> Tensor:
    """Images on a model's device, in float64 if its weights are in float64, and in float32 otherwise.

    Args:
        images: As :func:`checked_images` gives them.
        model: The model.
    """
    kinds = {each.dtype for each in itertools.chain(model.parameters(), model.buffers()) if each.is_floating_point()}
    return images.to(device_of(model), torch.float64 if kinds == {torch.float64} else torch.float32)


def checked_logits(model: nn.Module, images: Tensor, *, classes: int | None = None, name: str = "the model") -> Tensor:
    """A model's answer to some images, if it is one.

    Args:
        model: In ``eval()`` mode.
        images: ``(N, C, H, W)`` in [0, 1], on the model's device.
        classes: What K should be, for the message.
        name: The beginning of the message.

    Returns:
        ``(N, K)`` floats, K at least 2, without a graph.

    Raises:
        UserError: The model fails on the images, or gives anything else.
    """
    with torch.no_grad():
        try:
            # A model may write into what it is given.
            logits = as_rows(model(images.clone()), len(images))
        except (torch.OutOfMemoryError, UserError):
            raise
        except Exception as error:
            raise UserError(
                f"{name} fails on images of shape {tuple(images.shape[1:])}: {one_line(error)}{_hint(model, images)}"
            ) from error
    if not isinstance(logits, Tensor):
        raise UserError(f"{name} gives a {type(logits).__name__}: it is to return one tensor of logits (N, K)")
    if logits.ndim != 2 or len(logits) != len(images) or logits.shape[1] < 2 or not logits.is_floating_point():
        raise UserError(
            f"{name} gives {logits.dtype} of shape {tuple(logits.shape)} for {len(images)} images: "
            f"it is to give float logits ({len(images)}, {classes or 'K'})"
        )
    if logits.device != images.device:
        raise UserError(
            f"{name} gives logits on {logits.device} for images on {images.device}: let it compute where its images are"
        )
    return logits


def _hint(model: nn.Module, images: Tensor) -> str:
    """What is often the reason why a model fails, as the end of a message; empty where it is none of these."""
    half = next((each.dtype for each in model.parameters() if each.dtype in {torch.float16, torch.bfloat16}), None)
    if half is not None:
        return f"; its weights are {_name(half)} and images float32: give model.float()"
    _, channels, height, width = images.shape
    if width in {1, 3} and channels not in {1, 3} and height > 3:
        return "; the channels seem to come last: give (N, C, H, W), as in images.permute(0, 3, 1, 2)"
    return ""


def _tensor(values: object, what: str) -> Tensor:
    """Numbers as a dense tensor that shares no memory with the caller's, unless they are a tensor that is laid out so."""
    if isinstance(values, list | tuple) and values and all(isinstance(each, Tensor) for each in values):
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
        # What was made in inference mode can have no gradient.
        return dense.clone() if dense.is_inference() else dense
    try:
        array = np.array(values, order="C")
    except Exception as error:  # noqa: BLE001 - an object's own __array__ can end in any exception
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
    words = " ".join(repr(value).split())
    return words if len(words) <= 80 else f"{words[:79]}…"

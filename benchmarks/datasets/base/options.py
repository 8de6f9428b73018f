"""The options in a data set's name: ``imagefolder:photos?image_size=224`` is that folder with images of 224 x 224.

The name carries all options, so whatever has the name, such as a checkpoint or a cell, has them too.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import TypedDict
from urllib.parse import quote, unquote

from robustbench_cli.benchmarks.datasets import registry
from robustbench_cli.benchmarks.datasets.base.choices import Crop, Interpolation, OnBadImage
from robustbench_cli.benchmarks.datasets.base.preprocessing import Preprocessing
from robustbench_cli.core.errors import UserError

__all__ = [
    "PREPROCESSING",
    "DatasetOptions",
    "split_name",
    "takes_model_size",
    "trusted",
    "with_model_size",
    "with_options",
]

_QUERY = re.compile(r"[a-z_]+=[^&]*(&[a-z_]+=[^&]*)*")

PREPROCESSING = tuple(Preprocessing.__dataclass_fields__)
"""The options that every data set takes."""

_DEFAULTS = {"on_bad_image": "stop"}


class DatasetOptions(TypedDict, total=False):
    """The options that many data sets take; see :class:`~.preprocessing.Preprocessing`.

    ``on_bad_image`` says whether an image file that cannot be read is an error (``stop``) or is left out (``skip``).
    """

    image_size: int | str | Sequence[int] | None
    resize: int | None
    crop: Crop | None
    interpolation: Interpolation | None
    channels: int | None
    on_bad_image: OnBadImage | None


def split_name(name: str) -> tuple[str, dict[str, str]]:
    """Splits a data set's name.

    Args:
        name: Such as ``npz:x.npz?channels=3&image_size=64``.

    Returns:
        The name without options, and the options.

    >>> split_name("cifar10?image_size=64")
    ('cifar10', {'image_size': '64'})
    """
    plain, mark, query = name.rpartition("?")
    if not mark or not _QUERY.fullmatch(query):
        return name, {}
    pairs = (pair.partition("=") for pair in query.split("&"))
    return plain, {key: unquote(value) for key, _, value in pairs}


def with_options(name: str, options: Mapping[str, object]) -> str:
    """Puts options into a data set's name, in the form that every equal name has.

    Args:
        name: May have options, which the new ones replace.
        options: By name; those that are ``None`` are left out.

    Returns:
        The name with the options that differ from their defaults, sorted.

    Raises:
        UserError: A value of the preprocessing is not allowed.

    >>> with_options("cifar10?resize=80", {"image_size": (64, 64), "crop": "center"})
    'cifar10?image_size=64&resize=80'
    """
    plain, own = split_name(name)
    given = {**own, **{key: value for key, value in options.items() if value is not None}}
    preprocessing = Preprocessing.from_options({key: value for key, value in given.items() if key in PREPROCESSING})
    others = {key: str(value) for key, value in given.items() if key not in PREPROCESSING}
    texts = {
        key: text for key, text in sorted({**preprocessing.options, **others}.items()) if _DEFAULTS.get(key) != text
    }
    query = "&".join(f"{key}={quote(text, safe='/:,~ ')}" for key, text in texts.items())
    return f"{plain}?{query}" if query else plain


def takes_model_size(name: str) -> bool:
    """Whether the images of a data set have no size of their own, and its name says none.

    Args:
        name: The data set.

    Raises:
        UserError: The name is unknown.
    """
    plain, options = split_name(name)
    any_size: bool = getattr(registry.find(plain)[0], "any_size", False)
    return any_size and not options.keys() & {"image_size", "resize", "crop", "interpolation"}


def with_model_size(
    name: str, *, image_size: tuple[int, int], resize: int | None = None, interpolation: Interpolation = "bilinear"
) -> str:
    """Puts a model's own preprocessing into the name of a data set whose images have no size of their own.

    A name that says a size, and a data set whose images all have one size, stay as they are.

    Args:
        name: The data set.
        image_size: ``(H, W)`` that the model takes.
        resize: The shorter side before the center crop: timm's ``image_size / crop_pct``, rounded down.
        interpolation: The filter.

    Raises:
        UserError: The name is unknown, or a value is not allowed.
    """
    if not takes_model_size(name):
        return name
    return with_options(name, {"image_size": image_size, "resize": resize, "interpolation": interpolation})


def trusted(name: str, *, file: object) -> str:
    """Checks a name from a data file; see :meth:`~robustbench_cli.core.registry.Registry.trusted`.

    The author of a file must not choose which files of the user are read, nor what is downloaded from the Hub.

    Args:
        name: The name in the file, with its options.
        file: The file, for messages.

    Raises:
        UserError: It is not the name of an installed data set, or has more than a preprocessing: a path, a repository, or an
            option of its own.
    """
    plain, options = split_name(name)
    registry.trusted(plain, file=file)
    if ":" in plain or options.keys() - set(PREPROCESSING):
        raise UserError(
            f"{file} was trained on {name}, and a file does not choose what is read from a path or the Hub: give --dataset "
            f"{shlex.quote(name)}"
        )
    return name

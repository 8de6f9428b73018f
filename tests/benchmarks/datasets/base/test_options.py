from __future__ import annotations

import re

import pytest

from robustbench_cli.benchmarks.datasets.base.options import split_name, trusted, with_model_size, with_options
from robustbench_cli.core.errors import UserError


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("digits", {}, "digits"),
        ("imagefolder:a b/c", {"resize": 256, "image_size": "224"}, "imagefolder:a b/c?image_size=224&resize=256"),
        ("cifar10?image_size=64", {"image_size": [32, 48]}, "cifar10?image_size=32x48"),
        ("cifar10?image_size=64&crop=none", {"crop": "center"}, "cifar10?image_size=64"),
        ("npz:x?y.npz", {"channels": 3}, "npz:x?y.npz?channels=3"),
        ("imagefolder:x", {"on_bad_image": "stop", "crop": None}, "imagefolder:x"),
        ("imagenet:x?ids=a%26b.txt", {"on_bad_image": "skip"}, "imagenet:x?ids=a%26b.txt&on_bad_image=skip"),
    ],
)
def test_the_name_carries_the_options(name: str, options: dict[str, object], expected: str) -> None:
    """Equal data have one name: sorted, without defaults, the new options before those in the name."""
    assert with_options(name, options) == expected
    assert with_options(expected, {}) == expected


def test_a_question_mark_in_a_path_stays() -> None:
    """Only what looks like options is taken for them; a value has its own signs back."""
    assert split_name("npz:what?.npz") == ("npz:what?.npz", {})
    assert split_name("imagenet:x?ids=a%26b.txt") == ("imagenet:x", {"ids": "a&b.txt"})


def test_names_from_files_are_trusted_by_their_plain_name() -> None:
    """A checkpoint may name an installed data set with options, and no code."""
    assert trusted("digits?channels=3", file="x") == "digits?channels=3"
    with pytest.raises(UserError, match=r"x needs the code evil\.py:Data"):
        trusted("evil.py:Data?channels=3", file="x")
    for name in ("npz:/etc/passwd", "hf:evil/evil", "imagefolder:~?image_size=8", "imagenet?class_list=names.txt"):
        with pytest.raises(UserError, match=f"x was trained on {re.escape(name)}, .* --dataset '?{re.escape(name)}"):
            trusted(name, file="x")


def test_a_model_gives_the_size_where_there_is_none() -> None:
    """The model's size is for folders of photographs without options; cifar10 has a size, and the user has the last word."""
    size = {"image_size": (224, 224), "resize": 256, "interpolation": "bicubic"}
    assert (
        with_model_size("imagefolder:x?channels=3", **size)  # type: ignore[arg-type]
        == "imagefolder:x?channels=3&image_size=224&interpolation=bicubic&resize=256"
    )
    for name in ("cifar10", "npz:x.npz", "imagefolder:x?image_size=128", "imagefolder:x?resize=99"):
        assert with_model_size(name, **size) == name  # type: ignore[arg-type]

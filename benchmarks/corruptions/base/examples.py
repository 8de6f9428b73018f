"""The evaluated images of a data set under a corruption: computed, or read from published files."""

from __future__ import annotations

from functools import cache, lru_cache

from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec
from robustbench_cli.benchmarks.corruptions import registry
from robustbench_cli.benchmarks.datasets.base.dataset import Dataset
from robustbench_cli.benchmarks.datasets.base.slice import Slice, first_examples

__all__ = ["corrupted_examples", "source_examples"]


def source_examples(data: Dataset, n: int, corruption: MethodSpec | None) -> Slice:
    """The examples whose hash is the cell's ``data``; a plan asks for those of all its cells.

    Args:
        data: The data set.
        n: The number of images; all where it has fewer.
        corruption: The corruption; ``None`` for the images as they are.

    Returns:
        The labels and the hash of the images before a corruption that is computed, or of the corrupted ones where they are
        read from published files. The images have a shape and no values, on the device ``meta``.

    Raises:
        UserError: The data set has no such images.
    """
    return _described(data, n, _published(data, corruption))


def corrupted_examples(data: Dataset, n: int, corruption: MethodSpec | None, *, seed: int) -> Slice:
    """The examples that are attacked.

    Args:
        data: See :func:`source_examples`.
        n: See :func:`source_examples`.
        corruption: See :func:`source_examples`.
        seed: The seed of a corruption that is computed.

    Returns:
        The images after the corruption, with the hash of :func:`source_examples`.

    Raises:
        UserError: See :func:`source_examples`; or the corruption's parameters are not allowed.
    """
    source = _first(data, n, _published(data, corruption))
    if corruption is None or data.only_corrupted:
        return source
    corrupted = corruption.build(registry)(source.images, seed=seed)
    return Slice(images=corrupted, labels=source.labels, sha256=source.sha256)


def _published(data: Dataset, corruption: MethodSpec | None) -> tuple[str, int] | None:
    """The corruption and the severity of published images; ``None`` for the images of the test split."""
    if corruption is None or not data.only_corrupted:
        return None
    return corruption.name, int(corruption.parameters["severity"])


@cache
def _described(data: Dataset, n: int, published: tuple[str, int] | None) -> Slice:
    """See :func:`source_examples`. It is small, so a plan decodes each of the 75 sets of ImageNet-C once."""
    examples = _first(data, n, published)
    return Slice(images=examples.images.to("meta"), labels=examples.labels, sha256=examples.sha256)


@lru_cache(maxsize=1)
def _first(data: Dataset, n: int, published: tuple[str, int] | None) -> Slice:
    """The first examples of the test split, or of published images. Every cell asks for the same ones."""
    return first_examples(data.split("test") if published is None else data.published(*published), n)

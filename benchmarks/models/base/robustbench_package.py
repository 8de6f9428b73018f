"""What only RobustBench's own package can do: download weights, and build the networks that are not among the models here."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_cli.benchmarks.models.base.build import are_probabilities
from robustbench_cli.benchmarks.models.base.robustbench_zoo import ZooEntry
from robustbench_cli.benchmarks.models.base.source import not_downloaded
from robustbench_cli.benchmarks.weights.fill import fill
from robustbench_cli.benchmarks.weights.weights_file import read_bytes, read_content, read_tensors
from robustbench_cli.core.errors import UserError, one_line
from robustbench_cli.core.libraries import require_library

__all__ = ["download", "from_file", "pretrained", "untrained"]

_INSTALL = "pip install git+https://github.com/RobustBench/robustbench"


def download(entry: ZooEntry, path: Path) -> None:
    """Downloads the file of an entry.

    Args:
        entry: The entry; it has one file.
        path: Where to put it.

    Raises:
        UserError: RobustBench is not installed or lacks the entry, or the file cannot be downloaded or read.
    """
    utils = _utils(entry, "download", instead=", or give --checkpoint FILE")
    part = path.with_suffix(f".{os.getpid()}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            utils.download_gdrive_new(_facts(utils, entry)["gdrive_id"], part)
        # A page that says "quota exceeded" must not stay in the cache as the weights.
        read_tensors(read_bytes(part), part)
        part.replace(path)
    except Exception as error:
        raise _not_downloaded(entry, error) from error
    finally:
        part.unlink(missing_ok=True)


def untrained(entry: ZooEntry) -> nn.Module:
    """RobustBench's network of an entry, with fresh weights.

    Args:
        entry: The entry.

    Raises:
        UserError: RobustBench is not installed or lacks the entry.
    """
    utils = _utils(entry)
    name = _timm_name(entry)
    if utils.timm.is_model(name):
        network: nn.Module = utils.timm.create_model(name, num_classes=entry.classes, pretrained=False)
    else:
        network = _facts(utils, entry)["model"]()
    return _with_logits(network, entry)


def pretrained(entry: ZooEntry, folder: Path) -> nn.Module:
    """RobustBench's network of an entry, with the published weights, which are downloaded once.

    Args:
        entry: The entry.
        folder: The cache folder for the files.

    Raises:
        UserError: RobustBench is not installed or lacks the entry, or a file cannot be downloaded or would run code.
    """
    try:
        return _with_logits(_load_model(entry, folder, None), entry)
    except OSError as error:
        raise _not_downloaded(entry, error) from error


def from_file(entry: ZooEntry, path: Path) -> nn.Module:
    """RobustBench's network of an entry, with the weights of a file.

    Args:
        entry: The entry.
        path: A file in the layout of the published one.

    Raises:
        UserError: RobustBench is not installed or lacks the entry; the entry has several files; or the file would run code
            or does not fit.
    """
    utils = _utils(entry)
    if utils.timm.is_model(_timm_name(entry)):
        network = untrained(entry)
        fill(network, read_tensors(read_bytes(path), path), path, spec=f"robustbench:{entry.path}")
        return network
    if isinstance(_facts(utils, entry)["gdrive_id"], list):
        raise UserError(
            f"robustbench:{entry.path} has several files: leave out --checkpoint, and RobustBench downloads them"
        )
    with TemporaryDirectory() as folder:
        # RobustBench downloads a file that is not there.
        placeholder = Path(folder) / f"{entry.path}.pt"
        placeholder.parent.mkdir(parents=True)
        placeholder.touch()
        try:
            return _with_logits(_load_model(entry, Path(folder), path), entry)
        except RuntimeError as error:
            raise UserError(f"{path} does not fit robustbench:{entry.path}: {one_line(error)}") from error


def _utils(entry: ZooEntry, what: str = "network", *, instead: str = "") -> Any:
    """RobustBench's module ``utils``, which gives something of an entry."""
    with warnings.catch_warnings():
        # Of names in timm that have moved.
        warnings.simplefilter("ignore")
        needed_by = f"the {what} of robustbench:{entry.path}"
        return require_library("robustbench.utils", needed_by=needed_by, install=f"{_INSTALL}{instead}")


def _facts(utils: Any, entry: ZooEntry) -> dict[str, Any]:
    """What RobustBench's table says of an entry."""
    with contextlib.suppress(KeyError, ValueError):
        models = utils.all_models[utils.BenchmarkDataset(entry.dataset)]
        facts: dict[str, Any] = models[utils.ThreatModel(entry.threat_model)][entry.name]
        return facts
    raise UserError(f"the installed RobustBench has no {entry.path}: install a newer one with {_INSTALL}")


def _not_downloaded(entry: ZooEntry, error: Exception) -> UserError:
    return not_downloaded(f"the weights of robustbench:{entry.path}", error, instead="give --checkpoint FILE")


def _timm_name(entry: ZooEntry) -> str:
    """The name under which RobustBench registers a few of its networks in timm."""
    return f"{entry.name}_{entry.dataset}_{entry.threat_model}".lower().replace("-", "_")


def _load_model(entry: ZooEntry, folder: Path, file: Path | None) -> nn.Module:
    """RobustBench's own ``load_model``, whose files pass our reader.

    Args:
        entry: The entry.
        folder: The folder of the files.
        file: The file to read instead of any other.
    """
    utils = _utils(entry)
    if not utils.timm.is_model(_timm_name(entry)):
        _facts(utils, entry)
    with _reading_safely(utils, file), contextlib.redirect_stdout(io.StringIO()):
        network: nn.Module = utils.load_model(
            model_name=entry.name, dataset=entry.dataset, threat_model=entry.threat_model, model_dir=folder
        )
    return network


@contextlib.contextmanager
def _reading_safely(utils: Any, file: Path | None) -> Iterator[None]:
    """Makes RobustBench's loader use our reader instead of ``torch.load``, which would load any pickle."""

    class Torch:
        def __getattr__(self, name: str) -> Any:
            return getattr(torch, name)

        def load(self, path: Any, **_: Any) -> Any:
            path = file or Path(path)
            return read_content(read_bytes(path), path)

    original, utils.torch = utils.torch, Torch()
    try:
        yield
    finally:
        utils.torch = original


class _Logarithm(nn.Module):
    """Turns a network's probabilities into logits; the softmax of these is the probabilities again.

    A probability that has underflowed to 0 gets the logarithm of the smallest normal number. The logarithm of 0 is -inf, and
    its gradient NaN: one such class would hide the gradient of all others from an attack.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        probabilities: Tensor = self.network(images)
        return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()


def _with_logits(network: nn.Module, entry: ZooEntry) -> nn.Module:
    """A network itself, or with a logarithm after it if its outputs are probabilities, as those of some ensembles are."""
    side = 32 if entry.dataset.startswith("cifar") else 224
    with torch.no_grad():
        outputs = network.eval()(torch.linspace(0, 1, 3 * side * side).reshape(1, 3, side, side))
    return _Logarithm(network) if are_probabilities(outputs) else network

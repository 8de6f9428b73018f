"""Measures with which batch size and memory layout a model runs fastest on a device, and remembers it."""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import platformdirs
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from robustbench_cli.attacks.base.models.freezing import frozen, frozen_on
from robustbench_cli.attacks.base.models.measured_model import MeasuredModel
from robustbench_cli.attacks.base.models.passes import BatchSize, single_pass
from robustbench_cli.attacks.base.models.precision import Precision, gradient_precision
from robustbench_cli.attacks.base.rng import preserve_generators
from robustbench_cli.benchmarks.devices import automatic_batch_size, device_name
from robustbench_cli.core.atomic_write import write_atomically
from robustbench_cli.core.errors import UserError
from robustbench_cli.core.regular_file import read_bounded

__all__ = ["PassSettings", "measured_on", "pass_settings"]

_FASTER = 1.15
"""How many times as fast the contiguous layout must be to be chosen. Outputs differ between layouts by rounding, so the choice
should not depend on small differences of time."""

_PAYS = 1.05
"""How many times as many images per second a larger batch must pass."""

_LONG = 0.25
"""The seconds of a pass that no launches and no idle cores bound, so that a larger batch does not pay."""

_ROUNDS, _SECONDS = (3, 20), 0.1
"""The fewest and the most passes in each layout, and the time after which no more are made."""

_LAYOUT_ROWS = (4, 64)
"""The rows with which layouts are compared on a CPU and on a GPU, where a small batch shows the launches only."""

_MOST_ROWS = 8192

_WORTHWHILE = 64
"""The work, in usual batches, that is worth a measurement. One takes as long as eight batches forward on a CPU, and the other
layout saves more than an eighth where it is chosen."""

_FORMATS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}

_FILE_BYTES = 10_000
"""More than a file of settings has."""

_known: dict[Path, PassSettings] = {}
"""The settings that this process has measured or read, by their file."""


class PassSettings(BaseModel):
    """How a model runs fastest on a device. Results depend on it by rounding only.

    Attributes:
        rows: The batch size.
        layout: The memory layout of its weights.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    rows: int = Field(ge=1, le=_MOST_ROWS)
    layout: Literal["contiguous", "channels-last"] = "channels-last"

    @property
    def memory_format(self) -> torch.memory_format:
        """The layout, as torch names it."""
        return _FORMATS[self.layout]


def pass_settings(
    model: nn.Module, images: Tensor, device: torch.device, precision: Precision, *, rows: int | None = None
) -> PassSettings:
    """The fastest batch size and memory layout of a model on a device, by timing passes forward and backward.

    A copy of the model is timed, once for each architecture, shape and kind of device: the settings are remembered in the
    user's cache folder, where the first process that measures a model decides for all. On a CPU, batches that fit the cache
    are as fast as larger ones, so only the layout is measured.

    Args:
        model: On any device.
        images: ``(N, C, H, W)`` in [0, 1], N >= 1, on any device; the first eight are used.
        device: Where the model will run.
        precision: The precision of its gradients.
        rows: The rows that will pass forward, if they are known. Few are not worth a measurement.

    Returns:
        The settings. The usual ones where nothing is remembered and few rows will pass; and for a model that cannot be
        copied or that fails, which is not an error here.
    """
    usual = PassSettings(rows=automatic_batch_size(device, tuple(images.shape[1:])))
    has_convolutions = any(parameter.dim() == 4 for parameter in model.parameters())
    if device.type == "cpu" and not has_convolutions:
        return usual
    try:
        key = _key(model, images, device, precision)
    except Exception:  # noqa: BLE001 - a user's model may raise anything where it describes itself
        return usual
    file = platformdirs.user_cache_path("advdef") / "passes" / f"{key}.json"
    settings = _known.get(file) or _remembered(file, key)
    if settings is None:
        if rows is not None and rows < _WORTHWHILE * usual.rows:
            return usual
        try:
            settings = _measured(copy.deepcopy(model), images[:8], device, precision, usual)
        except Exception:  # noqa: BLE001 - a user's model may raise anything; the evaluation says what is wrong with it
            return usual
        settings = _remember(file, key, settings)
    _known[file] = settings
    return settings


@contextmanager
def measured_on(
    model: nn.Module,
    images: Tensor,
    device: torch.device,
    precision: Precision,
    *,
    batch_size: int | None,
    rows: int | None = None,
) -> Iterator[MeasuredModel]:
    """Moves a model to a device with its fastest settings and freezes it, and restores everything afterwards.

    Args:
        model: On any device.
        images: ``(N, C, H, W)`` in [0, 1], N >= 1, on any device; the first eight are used.
        device: Where the model will run.
        precision: The precision of its gradients.
        batch_size: The largest number of rows that pass through the model at once; ``None`` for the fastest.
        rows: See :func:`pass_settings`.

    Yields:
        The measured model, for passes on the device.
    """
    probe = images[:8]
    settings = pass_settings(model, probe, device, precision, rows=rows)
    size = BatchSize(batch_size or settings.rows)
    with frozen_on(model, device, probe, layout=settings.memory_format, size=size):
        yield MeasuredModel(model, probe.to(device), size)


def _key(model: nn.Module, images: Tensor, device: torch.device, precision: Precision) -> str:
    """The hash of all that decides which settings are fastest: the architecture, the shape, the kind of device."""
    if device.type == "cpu":
        kind = [torch.backends.cpu.get_cpu_capability(), str(torch.get_num_threads()), str(precision == "bf16")]
    else:
        kind = [device_name(device), precision]
    layers = [f"{name} {type(layer).__qualname__} {layer.extra_repr()}" for name, layer in model.named_modules()]
    tensors = [f"{name} {tuple(tensor.shape)} {tensor.dtype}" for name, tensor in model.named_parameters()]
    parts = [torch.__version__, *kind, str(tuple(images.shape[1:])), *layers, *tensors]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _measured(
    model: nn.Module, images: Tensor, device: torch.device, precision: Precision, usual: PassSettings
) -> PassSettings:
    """The settings of a model, which is changed."""
    passes = _Passes(model.to(device), images.detach().to(device), precision)
    with preserve_generators(), frozen(model):
        layout = passes.fastest_layout(min(usual.rows, _LAYOUT_ROWS[device.type == "cuda"]))
        model.to(memory_format=_FORMATS[layout])
        if device.type == "cpu":
            return PassSettings(rows=usual.rows, layout=layout)
        try:
            return PassSettings(rows=passes.fastest_rows(usual.rows), layout=layout)
        finally:
            torch.cuda.empty_cache()


class _Passes:
    """Passes of a frozen model forward and backward to the input, and their times.

    Args:
        model: On the device.
        images: ``(N, C, H, W)`` in [0, 1], N >= 1, on the device.
        precision: The precision of the gradients.
    """

    def __init__(self, model: nn.Module, images: Tensor, precision: Precision) -> None:
        self._model = model
        self._images = images
        self._precision = precision

    def seconds(self, rows: int) -> float:
        """The time of one pass of copies of the images: of the processor on a CPU, wall time on a GPU.

        Args:
            rows: The number of copies.
        """
        device = self._images.device
        leaf = self._images[torch.arange(rows, device=device) % len(self._images)].requires_grad_()
        started = self._now()
        with torch.enable_grad(), gradient_precision(self._precision, device):
            with torch.autocast(device.type, torch.bfloat16, enabled=self._precision == "bf16"):
                logits = single_pass(self._model, leaf)
            if logits.requires_grad:
                logits.sum().backward()
        return self._now() - started

    def _now(self) -> float:
        if not self._images.is_cuda:
            # Other processes on the machine do not change it.
            return time.process_time()
        torch.cuda.synchronize(self._images.device)
        return time.perf_counter()

    def fastest_layout(self, rows: int) -> Literal["contiguous", "channels-last"]:
        """Channels-last, unless contiguous is clearly faster. The layouts alternate, and their fastest passes count.

        Args:
            rows: The batch size.
        """
        fastest = dict.fromkeys(_FORMATS, float("inf"))
        spent, (fewest, most) = 0.0, _ROUNDS
        for done in range(most):
            if done >= fewest and spent > _SECONDS:
                break
            for name, layout in _FORMATS.items():
                self._model.to(memory_format=layout)
                seconds = self._seconds_if_it_runs(rows)
                fastest[name] = min(fastest[name], seconds)
                spent += seconds
        return "contiguous" if _FASTER * fastest["contiguous"] < fastest["channels-last"] else "channels-last"

    def fastest_rows(self, usual: int) -> int:
        """The smallest batch that passes nearly as many images per second as any.

        The batch is doubled while that pays.

        Args:
            usual: The search ends at four times as many rows.
        """
        rates: dict[int, float] = {}
        rows, most = max(1, usual // 64), min(_MOST_ROWS, 4 * usual)
        while rows <= most:
            # The first pass of a shape chooses its algorithms.
            seconds = min(self._seconds_if_it_runs(rows) for _ in range(3))
            rates[rows] = rows / seconds
            earlier = max(list(rates.values())[:-2], default=0.0)
            if seconds > _LONG or max(rates.values()) < _PAYS * earlier:
                break
            rows *= 2
        return next(rows for rows, rate in rates.items() if _PAYS * rate >= max(rates.values()))

    def _seconds_if_it_runs(self, rows: int) -> float:
        """The time of a pass; infinite if the memory is too small for it, or if the model does not run in its layout."""
        try:
            return self.seconds(rows)
        except RuntimeError:
            return float("inf")


def _remembered(file: Path, key: str) -> PassSettings | None:
    """The settings in a file; ``None`` if it is missing, damaged, or of another model."""
    try:
        content: Any = json.loads(read_bounded(file, _FILE_BYTES))
        settings = PassSettings.model_validate(content["settings"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return settings if content == _content(key, settings) else None


def _remember(file: Path, key: str, settings: PassSettings) -> PassSettings:
    """Stores settings; returns those that another process has stored meanwhile, if there are such."""
    content = json.dumps(_content(key, settings)).encode()
    with suppress(OSError, UserError):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            with file.open("xb") as stream:
                stream.write(content)
        except FileExistsError:
            earlier = _remembered(file, key)
            if earlier is not None:
                return earlier
            write_atomically(file, content)
    return settings


def _content(key: str, settings: PassSettings) -> dict[str, Any]:
    """The content of a file, with a checksum."""
    text = settings.model_dump_json()
    return {"key": key, "settings": json.loads(text), "sha256": hashlib.sha256(f"{key}{text}".encode()).hexdigest()}

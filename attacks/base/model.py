"""What the attacks ask of a model, and how it is kept still while it is attacked."""

from __future__ import annotations

import logging
import math
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import vmap

from robustbench_cli.attacks.base.errors import UserError, is_out_of_memory, one_line
from robustbench_cli.attacks.base.losses import rounding
from robustbench_cli.attacks.base.passes import BatchSize, logits_of, single_pass
from robustbench_cli.attacks.base.precision import full_float32
from robustbench_cli.attacks.base.random import generators_kept, seeded

_logger = logging.getLogger(__name__)

__all__ = [
    "INSIDE",
    "EnumerableDraws",
    "OneDraw",
    "cost_of_all_draws",
    "cut_at_edges",
    "enumerates_other_draws",
    "frozen",
    "is_randomized",
    "move",
    "placed",
    "with_layers",
]


@runtime_checkable
class EnumerableDraws(Protocol):
    """A randomized model whose draws can be counted: D of them, all equally likely.

    Attributes:
        number_of_draws: D.
        cost_of_all_draws: What :meth:`all_draws` costs an image, in forward passes of one draw; less than D where draws
            share work.
    """

    number_of_draws: int
    cost_of_all_draws: float

    def all_draws(self, images: Tensor) -> Tensor:
        """Logits ``(D, N, K)`` of every draw on images ``(N, C, H, W)``."""
        ...


class OneDraw(nn.Module):
    """A randomized model that has drawn once, for all images and all passes, and so is deterministic.

    Each row is drawn for as if it were alone in its batch, with the same random numbers: what a row gets is independent
    of where it stands and of what stands beside it.

    Args:
        model: Draws from torch's global generators; it is held as it is. Its operations must be known to
            ``torch.func.vmap``.
        seed: Of the draw.

    Raises:
        UserError: In a pass, where they are not.
    """

    def __init__(self, model: nn.Module, *, seed: int) -> None:
        super().__init__()
        self.model = model
        self.seed = seed

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(N, K)`` of images ``(N, C, H, W)``."""
        try:
            with seeded(self.seed), _ready_for_vmap():
                logits: Tensor = vmap(lambda image: self.model(image[None])[0], randomness="same")(images)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            raise UserError(
                f"one frozen draw needs a model that torch.func.vmap can run, and this one it cannot ({one_line(error)}): "
                "give another decision, or another --eot"
            ) from error
        return logits


@contextmanager
def _ready_for_vmap() -> Iterator[None]:
    """Within it, attention has a derivative under ``vmap``, and operations that it takes row by row are no matter."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="There is a performance drop", category=UserWarning)
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@torch.no_grad()
def cost_of_all_draws(model: nn.Module, images: Tensor, *, size: BatchSize | None = None) -> float | None:
    """What all draws of a model cost an image, in forward passes of one draw; ``None`` where they cannot be counted.

    They cannot be, whatever the model says, where a layer inside draws for itself too: then the draws that are counted
    are not all there are, which is measured by counting them twice. Nor can they where they are
    :func:`others <enumerates_other_draws>` than the model makes.

    Args:
        model: In ``eval()`` mode.
        images: ``(N, C, H, W)`` in [0, 1], N >= 1; the first two are used.
        size: Rows that pass through the model at once; draws that are counted together pass together.
    """
    if not isinstance(model, EnumerableDraws) or enumerates_other_draws(model, images, size=size):
        return None
    first, second = (_all_draws(model, images[:2]) for _ in range(2))
    same = bool((_apart(first, second) <= rounding(first).unsqueeze(-1)).all())
    return model.cost_of_all_draws if same else None


_MOST_DRAWS = 256
"""Draws that are compared with those that a model enumerates."""


@torch.no_grad()
def enumerates_other_draws(model: nn.Module, images: Tensor, *, size: BatchSize | None = None) -> bool:
    """Whether a model that says that its draws can be counted makes other draws, or makes some more often than others.

    An exact expectation over draws that the model does not make is one over another model. Every draw must be one of those
    enumerated; and each of these must be drawn equally often (chi-squared test at a level of 1e-9).

    Args:
        model: In ``eval()`` mode.
        images: ``(N, C, H, W)`` in [0, 1], N >= 1; the first is used.
        size: Rows that pass through the model at once.
    """
    if not isinstance(model, EnumerableDraws):
        return False
    size = size or BatchSize()
    counted = _all_draws(model, images[:1])[:, 0]
    number = min(_MOST_DRAWS, max(32, 4 * len(counted)))
    made = logits_of(model, images[:1].expand(number, *images.shape[1:]), size)
    tolerance = 2 * (rounding(made) + rounding(counted).amax(0))
    distances = torch.stack([_apart(made, draw).amax(-1) for draw in counted])
    if bool((distances.amin(0) > tolerance).any()):
        return True
    # Draws that cannot be told from each other are drawn as often as there are of them.
    alike = torch.stack([_apart(counted, draw).amax(-1) for draw in counted]) <= tolerance.amax()
    expected = number * alike.sum(1) / len(counted)
    often = ((distances <= tolerance).sum(1) - expected).square() / expected
    statistic = (often / alike.sum(1)).sum(0)
    return bool(torch.special.gammaincc(torch.tensor(len(counted) / 2), statistic.float().cpu() / 2) < 1e-9)


def _apart(first: Tensor, second: Tensor) -> Tensor:
    """How far logits are apart; those of a class that both mask by -inf are not."""
    return (first - second).abs().nan_to_num(0, posinf=torch.inf)


def _all_draws(model: EnumerableDraws, images: Tensor) -> Tensor:
    with full_float32(images.device):
        return model.all_draws(images.clone())


INSIDE = 1e-6
"""How far from 0 and 1 a pixel is inside the box: more than single precision rounds, and less than a model sees."""


def cut_at_edges(model: nn.Module, images: Tensor, *, size: BatchSize | None = None) -> bool:
    """Whether any pixel at 0 or 1 has no gradient although it would have one a little further inside.

    A model that cuts its input to [0, 1] passes none back where the input is at an end, as many pixels are: an attack that
    followed it would leave them where they are.

    Args:
        model: In ``eval()`` mode.
        images: ``(N, C, H, W)`` in [0, 1], N >= 1; the first eight are used, with every pixel at an end.
        size: Rows that pass through the model at once.
    """
    edges, rows = images[:8].round(), size or BatchSize()

    def cut() -> bool:
        alive = _has_slope(model, edges.clamp(INSIDE, 1 - INSIDE), rows)
        return bool((alive & ~_has_slope(model, edges, rows)).any())

    return rows.fitting(len(edges), cut)


def _has_slope(model: nn.Module, images: Tensor, size: BatchSize) -> Tensor:
    """Which pixels ``(N, C, H, W)`` the logits depend on."""
    with seeded(0):
        return torch.cat([_pixels_with_slope(model, images[rows]) for rows in size.slices(len(images))])


def _pixels_with_slope(model: nn.Module, images: Tensor) -> Tensor:
    leaf = images.detach().requires_grad_()
    with torch.enable_grad():
        logits = single_pass(model, leaf)
        if not logits.requires_grad:
            return torch.zeros_like(images, dtype=torch.bool)
        weights = torch.arange(1, logits.shape[1] + 1, device=logits.device)
        (logits * weights).sum().backward()
    return torch.zeros_like(images, dtype=torch.bool) if leaf.grad is None else leaf.grad != 0


@contextmanager
def with_layers(model: nn.Module, kind: type[nn.Module], **values: Any) -> Iterator[None]:
    """Within it, attributes of all layers of a kind in a model have other values; afterwards each has its own again.

    Args:
        model: Whose layers.
        kind: Which of them.
        **values: By the attribute's name.
    """
    layers = [module for module in model.modules() if isinstance(module, kind)]
    before = [(layer, name, getattr(layer, name)) for layer in layers for name in values]
    for layer, name, _ in before:
        setattr(layer, name, values[name])
    try:
        yield
    finally:
        for layer, name, own in before:
            setattr(layer, name, own)


def move(model: nn.Module, device: torch.device, images: Tensor) -> torch.memory_format:
    """Moves a model to a device, in place, with its weights channels last where it runs so: convolutions are fastest then.

    A model that reads its features by ``view`` may not run in that layout. It stays in its own, which is logged.

    Args:
        model: Whose parameters and buffers are moved.
        device: Where to.
        images: ``(N, C, H, W)`` in [0, 1], N >= 1, anywhere, that are tried; of one image alone not every layout shows.

    Returns:
        The layout in which the model runs.
    """
    model.to(device)
    tensors = _tensors(model)
    model.to(memory_format=torch.channels_last)
    try:
        with frozen(model), torch.enable_grad(), generators_kept():
            # A copy, since a model may write into its input.
            rows = images.detach().to(device, copy=True, memory_format=torch.channels_last)
            model(rows.requires_grad_().clone())
    except RuntimeError as error:
        tensors.restore()
        if not is_out_of_memory(error):
            _logger.info("%s stays in its own memory layout: %s", type(model).__name__, one_line(error))
        return torch.contiguous_format
    return torch.channels_last


@contextmanager
def placed(model: nn.Module, device: torch.device, images: Tensor) -> Iterator[torch.memory_format]:
    """Within it, a model is :func:`moved <move>` and :func:`frozen`; afterwards it is as it was, where it was.

    Yields:
        The layout in which the model runs.
    """
    tensors = _tensors(model)
    try:
        layout = move(model, device, images)
        with frozen(model):
            yield layout
    finally:
        tensors.restore()


@dataclass(frozen=True)
class _Tensors:
    """The data of a model's parameters and its buffers, as they lie in memory.

    Attributes:
        parameters: Each with its data.
        buffers: Each with the module that holds it and its name there.
    """

    parameters: list[tuple[nn.Parameter, Tensor]]
    buffers: list[tuple[nn.Module, str, Tensor | None]]

    def restore(self) -> None:
        """Gives them back to the model."""
        for parameter, data in self.parameters:
            parameter.data = data
        for module, name, buffer in self.buffers:
            module._buffers[name] = buffer  # noqa: SLF001 - the registered one, whatever attribute shadows it


def _tensors(model: nn.Module) -> _Tensors:
    return _Tensors(
        [(parameter, parameter.data) for parameter in model.parameters()],
        [(module, name, buffer) for module in model.modules() for name, buffer in module._buffers.items()],  # noqa: SLF001
    )


@contextmanager
def frozen(model: nn.Module) -> Iterator[nn.Module]:
    """Puts a model into ``eval()`` mode with parameters that need no gradient, and restores both afterwards."""
    modes = {module: module.training for module in model.modules()}
    needs = {parameter: parameter.requires_grad for parameter in model.parameters()}
    model.eval()
    model.requires_grad_(False)
    try:
        yield model
    finally:
        for module, training in modes.items():
            module.training = training
        for parameter, needed in needs.items():
            parameter.requires_grad_(needed)


@torch.no_grad()
def is_randomized(model: nn.Module, images: Tensor, *, size: BatchSize | None = None) -> bool:
    """Whether the same images get different logits, by more than float rounding explains.

    Randomness is measured, not declared, so that a defense cannot hide it by mistake. Two passes are compared, in each
    of which every image stands several times: two rows alone could have drawn the same of a few switches. So could two
    passes whose rows share a draw: a model that takes numbers from any generator that is in reach is asked 30 times more,
    so that one of two paths is overlooked with a chance of 1e-9, and every other one eight times, since it may have a
    generator of its own.

    Args:
        model: In ``eval()`` mode.
        images: ``(N, C, H, W)`` in [0, 1], N >= 1; the first eight are used.
        size: Rows that pass through the model at once.
    """
    probe, size = images[:8], size or BatchSize()
    copies = math.ceil(16 / len(probe))
    rows = probe.repeat(copies, *[1] * (probe.dim() - 1))
    before = _generators()
    logits = torch.cat([logits_of(model, rows, size) for _ in range(2)]).unflatten(0, (2 * copies, len(probe)))
    tolerance = rounding(logits).amax(0).unsqueeze(-1)
    if bool(((logits - logits[0]).abs() > tolerance).any()):
        return True
    again = 8 if _generators() == before else 30
    one = probe[:1]
    return any(bool(((logits_of(model, one, size) - logits[0, :1]).abs() > tolerance[:1]).any()) for _ in range(again))


def _generators() -> list[Any]:
    """The states of the generators that a model can reach without one of its own: torch's, Python's and NumPy's."""
    on_devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    name, words, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 - a model may use the older interface
    states = [state.numpy().tobytes() for state in (torch.get_rng_state(), *on_devices)]
    return [*states, random.getstate(), name, np.asarray(words).tobytes(), *rest]

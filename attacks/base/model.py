"""What the attacks ask of a model, and how it is kept still while it is attacked."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.func import vmap

from robustbench_cli.attacks.base.errors import UserError, is_out_of_memory, one_line
from robustbench_cli.attacks.base.losses import rounding
from robustbench_cli.attacks.base.random import seeded

__all__ = [
    "INSIDE",
    "EnumerableDraws",
    "OneDraw",
    "cost_of_all_draws",
    "cut_at_edges",
    "frozen",
    "is_randomized",
    "move",
    "rows_share_draws",
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
            with seeded(self.seed, images.device), _ready_for_vmap():
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
def cost_of_all_draws(model: nn.Module, images: Tensor) -> float | None:
    """What all draws of a model cost an image, in forward passes of one draw; ``None`` where they cannot be counted.

    They cannot be, whatever the model says, where a layer inside draws for itself too: then the draws that are counted
    are not all there are, which is measured by counting them twice.

    Args:
        model: In ``eval()`` mode.
        images: ``(N, C, H, W)`` in [0, 1], N >= 1; the first two are used.
    """
    if not isinstance(model, EnumerableDraws):
        return None
    first, second = (model.all_draws(images[:2]) for _ in range(2))
    same = bool(((first - second).abs() <= rounding(first).unsqueeze(-1)).all())
    return model.cost_of_all_draws if same else None


INSIDE = 1e-6
"""How far from 0 and 1 a pixel is inside the box: more than single precision rounds, and less than a model sees."""


def cut_at_edges(model: nn.Module, images: Tensor) -> bool:
    """Whether any pixel at 0 or 1 has no gradient although it would have one a little further inside.

    A model that cuts its input to [0, 1] passes none back where the input is at an end, as many pixels are: an attack that
    followed it would leave them where they are.

    Args:
        model: In ``eval()`` mode.
        images: ``(N, C, H, W)`` in [0, 1], N >= 1; the first eight are used, with every pixel at an end.
    """
    edges = images[:8].round()
    with seeded(0, images.device):
        alive = _has_slope(model, edges.clamp(INSIDE, 1 - INSIDE))
    with seeded(0, images.device):
        return bool((alive & ~_has_slope(model, edges)).any())


def _has_slope(model: nn.Module, images: Tensor) -> Tensor:
    """Which pixels ``(N, C, H, W)`` the logits depend on."""
    leaf = images.detach().requires_grad_()
    with torch.enable_grad():
        logits = model(leaf)
        if not logits.requires_grad:
            return torch.zeros_like(images, dtype=torch.bool)
        weights = torch.arange(1, logits.shape[1] + 1, device=logits.device)
        return torch.autograd.grad((logits * weights).sum(), leaf)[0] != 0


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


def move(model: nn.Module, device: torch.device) -> None:
    """Moves a model to a device, in place, with its weights channels last, as convolutions are fastest."""
    model.to(device).to(memory_format=torch.channels_last)


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
def is_randomized(model: nn.Module, images: Tensor) -> bool:
    """Whether the same images get different logits, by more than float rounding explains.

    Randomness is measured, not declared, so that a defense cannot hide it by mistake. Two passes are compared, in each
    of which every image stands several times: two rows alone could have drawn the same of a few switches.

    Args:
        model: In ``eval()`` mode.
        images: ``(N, C, H, W)`` in [0, 1], N >= 1; the first eight are used.
    """
    probe = images[:8]
    copies = math.ceil(16 / len(probe))
    rows = probe.repeat(copies, *[1] * (probe.dim() - 1))
    logits = torch.cat([model(rows), model(rows)]).unflatten(0, (2 * copies, len(probe)))
    return bool(((logits - logits[0]).abs() > rounding(logits).unsqueeze(-1)).any())


@torch.no_grad()
def rows_share_draws(model: nn.Module, images: Tensor) -> bool:
    """Whether the rows of one pass of a randomized model share some of their randomness.

    If so, K copies of an image in one batch are not K draws, and an expectation has to be taken over passes. Measured
    by an analysis of variance: over 8 passes of 16 copies of an image, the means of the passes differ by more than the
    rows inside a pass explain (F statistic of any logit above 15, which independent normal rows exceed with a chance
    below 1e-12).

    Args:
        model: In ``eval()`` mode.
        images: ``(N, C, H, W)`` in [0, 1], N >= 1; the first two are used.
    """
    probe, copies = images[:2], 16
    rows = probe.repeat(copies, *[1] * (probe.dim() - 1))
    logits = torch.stack([model(rows).double().unflatten(0, (copies, len(probe))) for _ in range(8)])
    between = copies * logits.mean(1).var(0)
    inside = logits.var(1).mean(0) + rounding(logits).square().amax((0, 1)).unsqueeze(-1)
    return bool((between > 15 * inside).any())

"""The flags that the official AutoAttack raises on a model."""

from __future__ import annotations

import copy
import logging
from importlib.util import find_spec

from torch import Tensor, nn

__all__ = ["autoattack_flags"]

_LOGGER = "auto-attack"

_FLAGS = {
    "randomized defense": "randomized",
    "probability distribution": "probabilities",
    "dynamic defense": "dynamic",
    "zero gradient": "zero gradients",
    "Square Attack has decreased": "Square",
}
"""A part of each warning of AutoAttack's ``checks.py``, and its short name."""

_QUERIES = 1000


class _Messages(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def autoattack_flags(model: nn.Module, images: Tensor, labels: Tensor, *, eps: float) -> tuple[str, ...] | None:
    """The flags of AutoAttack, which looks while APGD-CE (one restart), APGD-T (one target) and Square (1,000 queries) run.

    Args:
        model: Images in [0, 1] to logits.
        images: ``(N, C, H, W)`` in [0, 1].
        labels: ``(N,)``.
        eps: The radius in linf.

    Returns:
        The names of the flags, ``("error",)`` where AutoAttack ends with an error; ``None`` without ``pyautoattack``.
    """
    if find_spec("pyautoattack") is None:
        return None
    import pyautoattack

    attack = pyautoattack.AutoAttack(
        copy.deepcopy(model), norm="Linf", eps=eps, seed=0, version="custom", attacks=["apgd-ce", "apgd-t", "square"]
    )
    attack.apgd.n_restarts, attack.square.n_queries = 1, _QUERIES
    # AutoAttack looks for zero gradients under the DLR loss only. It does so before the first step, so one target is enough.
    attack.apgd_targeted.n_target_classes = 1
    handler, logger = _Messages(), logging.getLogger(_LOGGER)
    logger.addHandler(handler)
    try:
        attack.run_standard_evaluation(images, labels, batch_size=len(images))
    except Exception:  # noqa: BLE001 - another library on a model that is made to trouble it may raise anything
        handler.messages.append("error")
    finally:
        logger.removeHandler(handler)
    flags = _FLAGS | {"error": "error"}
    return tuple(flag for text, flag in flags.items() if any(text in message for message in handler.messages))

"""Attacks a model on a data slice and scores what it finds on draws that nobody selected on."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.attack import Attack
from robustbench_cli.attacks.base.errors import UserError
from robustbench_cli.attacks.base.model import cost_of_all_draws, frozen, is_randomized
from robustbench_cli.attacks.base.random import Random, seed_from
from robustbench_cli.attacks.base.source import GradientSource, gradient_source
from robustbench_cli.attacks.base.threat import Norm, Threat, distance, project_exactly
from robustbench_cli.benchmarks.cell import Targeted
from robustbench_cli.benchmarks.devices import automatic_batch_size
from robustbench_cli.benchmarks.models.base import check_model
from robustbench_cli.benchmarks.outcomes import Outcomes

__all__ = ["EOT_DRAWS", "FLAGS", "Evaluation", "evaluate", "resolve_eot", "resolve_repeats"]

EOT_DRAWS = 10
"""Draws of a gradient where nothing else is asked for (Wang et al., appendix C.3: success saturates for more)."""

FLAGS = {
    "no-eot": "the attack followed one draw at a time although the defense is randomized: use --eot 10 or --eot exact",
    "zero-gradient": "some gradients were zero in every pixel: the attack could not see the way",
    "left-the-ball": "the attack returned images outside the threat model; they were projected back",
}
"""The audit checks that can speak against a row, and what each means."""

IMAGES_AT_ONCE = 512
"""Images that an attack holds at once; the gradient source cuts them to the batches that pass through the model."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The outcomes of an attack on a data slice, and what it cost.

    Attributes:
        outcomes: What became of every image.
        flags: Names of the checks in :data:`FLAGS` that speak against the result.
        forwards: Images passed through the model by the attack and by the scoring, in passes of one draw.
        backwards: The same back to the input.
        seconds: Wall time.
        perturbed: ``(T, N, C, H, W)`` the perturbed images, on the CPU.
    """

    outcomes: Outcomes
    flags: tuple[str, ...]
    forwards: int
    backwards: int
    seconds: float
    perturbed: Tensor


def resolve_eot(
    asked: int | Literal["exact", "auto"], *, randomized: bool, cost_of_all_draws: float | None
) -> int | Literal["exact"]:
    """What ``--eot`` means for a model.

    Args:
        asked: Draws a gradient, all of them, or whichever is right for the model: 1 for a deterministic one; for a
            randomized one the exact expectation where that costs no more than :data:`EOT_DRAWS` draws, else that many.
        randomized: Whether the model is.
        cost_of_all_draws: In forward passes of one draw; ``None`` where the draws cannot be counted.

    Raises:
        UserError: ``"exact"`` for a model whose draws cannot be counted.
    """
    if not randomized:
        return 1
    if asked == "exact" and cost_of_all_draws is None:
        raise UserError("--eot exact: the draws of this defense cannot be counted; give a number of draws, as --eot 10")
    if asked != "auto":
        return asked
    return "exact" if cost_of_all_draws is not None and cost_of_all_draws <= EOT_DRAWS else EOT_DRAWS


def resolve_repeats(asked: int | None, *, randomized: bool) -> int:
    """The fresh draws that score an image: 1 for a deterministic model, 10 for a randomized one unless told otherwise."""
    return (asked or 10) if randomized else 1


def evaluate(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    attack: Attack,
    norm: Norm | None = None,
    eps: float | None = None,
    targeted: Targeted = "no",
    eot: int | Literal["exact", "auto"] = "auto",
    repeats: int | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    batch_size: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Measures what is left of a model's accuracy under an attack.

    The attack is not believed: what it returns is projected into the ball and the box and scored by the deployed rule on
    draws that it has not seen, the clean image being another candidate.

    Args:
        model: Images in [0, 1] to logits, normalisation inside. It is moved to ``device``, laid out channels last there,
            and otherwise left as it was.
        images: ``(N, C, H, W)`` in [0, 1].
        labels: ``(N,)`` in [0, K).
        attack: The attack and its parameters.
        norm: One of the attack's norms; its own where not given.
        eps: The radius; ``None`` lets a minimal-norm attack's successes count at any distance.
        targeted: How target classes are chosen, or ``"no"``.
        eot: Draws a gradient, ``"exact"``, or ``"auto"``; see :func:`resolve_eot`.
        repeats: Draws that score an image; see :func:`resolve_repeats`.
        seed: Of the attack's random numbers and of all draws.
        device: Where to compute.
        batch_size: Rows that pass through the model at once; chosen for the device where not given.
        progress: Called with the number of images done, after each slice.

    Raises:
        UserError: The model's output or an input is not what it must be.
    """
    device = torch.device(device)
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    batch_size = batch_size or automatic_batch_size(device, tuple(images.shape[1:]))
    started = time.perf_counter()
    with frozen(model), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        probe = images[:8].to(device)
        classes = check_model(model, probe, labels)
        randomized = is_randomized(model, probe)
        draws = resolve_eot(eot, randomized=randomized, cost_of_all_draws=cost_of_all_draws(model))
        source = gradient_source(
            model, eot=draws, randomized=randomized, targeted=targeted != "no", batch_size=batch_size
        )
        judge = _Judge(model, repeats=resolve_repeats(repeats, randomized=randomized), seed=seed, batch_size=batch_size)
        pieces, perturbed, left_the_ball = [], [], False
        for start in range(0, len(images), IMAGES_AT_ONCE):
            batch = images[start : start + IMAGES_AT_ONCE].to(device)
            truth = labels[start : start + IMAGES_AT_ONCE].to(device)
            threat = attack.threat(batch, norm=norm, eps=None if attack.minimal_norm else eps, targeted=targeted != "no")
            random = Random(seed_from(seed, "attack") + torch.arange(start, start + len(batch), device=device))
            torch.manual_seed(seed_from(seed, "draws of the attack", start))
            goals = _targets(source, batch, truth, classes, targeted, random)
            found = []
            for goal in goals if len(goals) else truth[None]:
                proposed = attack.run(source, batch, goal, threat, random)
                inside = project_exactly(proposed, batch, threat)
                left_the_ball |= bool(distance(inside, proposed, "linf").max() > 1e-4)
                found.append(inside)
            pieces.append(judge.outcomes(start, batch, truth, goals, torch.stack(found), threat.norm))
            perturbed.append(torch.stack(found).cpu())
            if progress is not None:
                progress(start + len(batch))
        outcomes = Outcomes(**{name: np.concatenate([piece[name] for piece in pieces], axis=-1) for name in pieces[0]})
        flags = {
            "no-eot": randomized and draws == 1,
            "zero-gradient": source.share_without_gradient > 0.01,
            "left-the-ball": left_the_ball,
        }
    if attack.minimal_norm and eps is not None:
        outcomes = outcomes.within(eps)
    return Evaluation(
        outcomes=outcomes,
        flags=tuple(name for name, raised in flags.items() if raised),
        forwards=round(source.forwards) + judge.forwards,
        backwards=round(source.backwards),
        seconds=time.perf_counter() - started,
        perturbed=torch.cat(perturbed, dim=1),
    )


class _Judge:
    """The deployed decision rule, asked on its own draws: one set to select on, another to score on."""

    def __init__(self, model: nn.Module, *, repeats: int, seed: int, batch_size: int) -> None:
        self._model = model
        self._repeats = repeats
        self._seed = seed
        self._images_at_once = max(1, batch_size // repeats)
        self.forwards = 0

    @torch.no_grad()
    def _predictions(self, images: Tensor, start: int, purpose: str) -> np.ndarray:
        """``(R, N)`` predicted classes; the draws depend on the seed, the purpose and the place, not on the images."""
        torch.manual_seed(seed_from(self._seed, purpose, start))
        self.forwards += self._repeats * len(images)
        parts = []
        for part in images.split(self._images_at_once):
            rows = part.expand(self._repeats, *part.shape).flatten(0, 1)
            parts.append(self._model(rows).argmax(1).view(self._repeats, len(part)))
        return torch.cat(parts, dim=1).cpu().numpy()

    def outcomes(
        self, start: int, images: Tensor, labels: Tensor, targets: Tensor, perturbed: Tensor, norm: Norm
    ) -> dict[str, np.ndarray]:
        """The fields of :class:`Outcomes` for a batch; ``perturbed`` is ``(T, N, C, H, W)``."""
        clean = self._predictions(images, start, "score")
        selection = clean if self._repeats == 1 else self._predictions(images, start, "select")
        scored = np.stack([self._predictions(each, start, "score") for each in perturbed])
        chosen_on = scored if self._repeats == 1 else np.stack([self._predictions(each, start, "select") for each in perturbed])

        def distances(norm: Norm) -> np.ndarray:
            return torch.stack([distance(each, images, norm) for each in perturbed]).cpu().numpy()

        return {
            "labels": labels.cpu().numpy(),
            "targets": targets.cpu().numpy(),
            "clean": clean,
            "clean_selection": selection,
            "perturbed": scored,
            "perturbed_selection": chosen_on,
            "distance": distances(norm),
            "l2": distances("l2"),
            "linf": distances("linf"),
        }


def _targets(
    source: GradientSource, images: Tensor, labels: Tensor, classes: int, targeted: Targeted, random: Random
) -> Tensor:
    """``(T, N)`` classes to reach, none of them an image's own; ``(0, N)`` for an untargeted attack."""
    if targeted == "no":
        return labels.new_empty(0, len(labels))
    if targeted == "next":
        return ((labels + 1) % classes)[None]
    if targeted == "random":
        return ((labels + 1 + random.integers(classes - 1)) % classes)[None]
    if targeted == "least-likely":
        expected = source.logits(images).softmax(2).mean(0)
        return expected.scatter(1, labels[:, None], torch.inf).argmin(1)[None]
    return (labels + torch.arange(1, classes, device=labels.device)[:, None]) % classes

"""Attacks a model on a data slice and scores what it finds on draws that nobody selected on."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from robustbench_cli.attacks.base.attack import Attack
from robustbench_cli.attacks.base.draws import AskedDraws, Draws
from robustbench_cli.attacks.base.errors import UserError
from robustbench_cli.attacks.base.measured import MeasuredModel
from robustbench_cli.attacks.base.model import frozen, move
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.random import Random, seed_draws, seed_from, seeded
from robustbench_cli.attacks.base.source import GradientSource, Precision
from robustbench_cli.attacks.base.threat import distance, project_exactly, within
from robustbench_cli.benchmarks.cell import Accounting, Targeted
from robustbench_cli.benchmarks.checks import FLAGS, gradient_is_wrong, is_repeatable, is_unstable
from robustbench_cli.benchmarks.datasets.base.split import check_images
from robustbench_cli.benchmarks.devices import automatic_batch_size
from robustbench_cli.benchmarks.judge import Candidates, Judge
from robustbench_cli.benchmarks.models.base import check_model
from robustbench_cli.benchmarks.outcomes import Outcomes, summarise
from robustbench_cli.benchmarks.pieces import KeptPieces, Piece

__all__ = ["Evaluation", "evaluate", "predict", "resolve_repeats"]

IMAGES_AT_ONCE = 512
"""Images that an attack holds at once; the gradient source cuts them to the batches that pass through the model."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The outcomes of an attack on a data slice, and what it cost.

    Attributes:
        outcomes: What became of every image.
        flags: Names of the checks in :data:`~.checks.FLAGS` that speak against the result.
        forwards: Images passed by the attack through the model that it asks, and by the scoring, in passes of one draw.
        backwards: The same back to the input.
        seconds: Wall time.
        perturbed: ``(N, C, H, W)``, on the CPU: what the attack made of each image; of several targets, the one that
            the deployed rule survives least. The image itself where a minimal-norm attack found nothing within the
            radius, and where an earlier attack had done it.
    """

    outcomes: Outcomes
    flags: tuple[str, ...]
    forwards: int
    backwards: int
    seconds: float
    perturbed: Tensor

    @property
    def summary(self) -> dict[str, float]:
        """The figures of the table's row, by column; see :func:`~.outcomes.summarise`."""
        return summarise(self.outcomes)


def resolve_repeats(asked: int | None, *, randomized: bool) -> int:
    """The fresh draws that score an image: 1 for a deterministic model; for a randomized one 10, if not told else."""
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
    eot: AskedDraws = "auto",
    repeats: int | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    batch_size: int | None = None,
    precision: Precision = "float32",
    accounting: Accounting = "expected",
    before: Outcomes | None = None,
    kept: KeptPieces | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Evaluation:
    """Measures what is left of a model's accuracy under an attack.

    The attack is not believed: what it returns is projected into the ball and the box and scored by the deployed rule
    on draws that it has not seen, the clean image being another candidate.

    Args:
        model: Images in [0, 1] to logits, normalisation inside. It is moved to ``device``, laid out channels last
            there, and otherwise left as it was.
        images: ``(N, C, H, W)`` in [0, 1].
        labels: ``(N,)`` int64 in [0, K).
        attack: The attack and its parameters. A surrogate that it has is moved and laid out like the model.
        norm: One of the attack's norms; its own where not given.
        eps: The radius; ``None`` lets a minimal-norm attack's successes count at any distance.
        targeted: How target classes are chosen, or ``"no"``.
        eot: The draws behind a gradient, of the model that the attack asks; see
            :data:`~robustbench_cli.attacks.base.draws.AskedDraws`.
        repeats: Draws that score an image; see :func:`resolve_repeats`.
        seed: Of the attack's random numbers and of all draws.
        device: Where to compute; where the model is, if not given.
        batch_size: Rows that pass through the model at once; chosen for the device where not given.
        precision: Of the gradients; every image is judged in float32.
        accounting: What of a randomized model counts; ``"single-draw"`` is meant for one repeat.
        before: Of an earlier untargeted attack on the same model and images, at this radius or a smaller one: what fell
            then is not attacked again, and counts as it fell.
        kept: Takes what is found on each of several batches, and gives what an earlier call with the same arguments,
            which was cut off, has found.
        progress: Called with the number of images done, after each slice.

    Raises:
        UserError: The model's output or an input is not what it must be, the attack gives no images, or the draws are
            to be all and cannot be counted.
    """
    _check_inputs(images, labels, attack)
    device = torch.device(device) if device is not None else _device_of(model)
    asked = attack.asked(model)
    for module in (model, asked):
        move(module, device)
    batch_size = batch_size or automatic_batch_size(device, tuple(images.shape[1:]))
    started, earlier = time.perf_counter(), 0.0
    with frozen(model), frozen(asked), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        probe = images[:8].to(device)
        classes = check_model(model, probe, labels)
        attacked = followed = MeasuredModel(model, probe)
        if asked is not model:
            check_model(asked, probe, labels, classes=classes, name="the surrogate")
            followed = MeasuredModel(asked, probe)
        single_draw = attacked.randomized and accounting == "single-draw"
        source = followed.source(eot, seed=seed, targeted=targeted != "no", batch_size=batch_size, precision=precision)
        judge = Judge(
            attacked,
            repeats=resolve_repeats(repeats, randomized=attacked.randomized),
            # Each attack is to be judged on draws of its own, whatever images it is run on.
            seed=seed_from(seed, repr(attack)) if single_draw else seed,
            batch_size=batch_size,
            single_draw=single_draw,
        )
        search = _Search(
            attack=attack,
            source=source,
            # Which classes are to be reached is a matter of the attacked model, whichever is asked how to reach them.
            aim=source if asked is model else attacked.source("auto", batch_size=batch_size),
            judge=judge,
            attacked=attacked,
            classes=classes,
            norm=norm,
            eps=eps,
            targeted=targeted,
            seed=seed,
        )
        pieces: list[Piece] = []
        standing = torch.arange(len(images)) if before is None else torch.from_numpy(~before.fell()).nonzero()[:, 0]
        for start in range(0, len(standing), IMAGES_AT_ONCE):
            places = standing[start : start + IMAGES_AT_ONCE]
            piece = kept.read(start, places, images[places].cpu()) if kept is not None else None
            if piece is not None:
                earlier += piece.seconds
            else:
                piece = search.piece(start, places, images[places].to(device), labels[places].to(device))
                # One that is all would be kept for no longer than the moment until the evaluation is stored.
                if kept is not None and len(standing) > len(places):
                    kept.write(start, piece)
            pieces.append(piece)
            progress(len(images) - len(standing) + start + len(places))
        flags = {
            **_flags_of_models(attack, attacked, followed, draws=followed.eot(eot)),
            "zero-gradient": sum(piece.without_gradient for piece in pieces)
            > 0.01 * sum(piece.backwards for piece in pieces),
            "unstable": any("unstable" in piece.flags for piece in pieces),
            "left-the-ball": any("left-the-ball" in piece.flags for piece in pieces),
            "single-draw": single_draw,
            "few-classes": classes < attack.fewest_classes(targeted=targeted != "no"),
        }
    perturbed = images.cpu().clone()
    for piece in pieces:
        perturbed[piece.places] = piece.perturbed
    return Evaluation(
        outcomes=_joined(before, standing, [piece.outcomes for piece in pieces], single_draw=single_draw),
        flags=tuple(name for name in FLAGS if flags[name]),
        forwards=round(sum(piece.forwards for piece in pieces)),
        backwards=round(sum(piece.backwards for piece in pieces)),
        seconds=time.perf_counter() - started + earlier,
        perturbed=perturbed,
    )


@dataclass(kw_only=True)
class _Search:
    """An attack on one batch after another.

    Attributes:
        attack: The attack and its parameters.
        source: What it asks.
        aim: What says which classes are to be reached.
        judge: The deployed rule.
        attacked: The model that it is the rule of.
        classes: K.
        norm: See :func:`evaluate`.
        eps: See :func:`evaluate`.
        targeted: See :func:`evaluate`.
        seed: See :func:`evaluate`.
        left_the_ball: Whether any image that the attack returned lay outside the threat model.
    """

    attack: Attack
    source: GradientSource
    aim: GradientSource
    judge: Judge
    attacked: MeasuredModel
    classes: int
    norm: Norm | None
    eps: float | None
    targeted: Targeted
    seed: int
    left_the_ball: bool = False

    def piece(self, start: int, places: Tensor, images: Tensor, labels: Tensor) -> Piece:
        """What it finds on images, and what that costs; see :meth:`candidates`."""
        began, counted = time.perf_counter(), self._counted()
        candidates = self.candidates(start, places, images, labels)
        unstable = not self.attacked.randomized and is_unstable(
            self.attacked.model, candidates.worst[:64], candidates.predictions[:64]
        )
        flags = {"unstable": unstable, "left-the-ball": self.left_the_ball}
        forwards, backwards, without_gradient = self._counted() - counted
        return Piece(
            places=places,
            outcomes=candidates.arrays(),
            perturbed=candidates.worst.cpu(),
            flags=frozenset(name for name, raised in flags.items() if raised),
            forwards=float(forwards),
            backwards=float(backwards),
            without_gradient=float(without_gradient),
            seconds=time.perf_counter() - began,
        )

    def _counted(self) -> NDArray[np.float64]:
        """Passes so far: forwards, backwards, and those of the latter that came back empty."""
        forwards = self.source.forwards + self.judge.forwards
        if self.aim is not self.source:
            forwards += self.aim.forwards
        return np.array([forwards, self.source.backwards, self.source.share_without_gradient * self.source.backwards])

    def candidates(self, start: int, places: Tensor, images: Tensor, labels: Tensor) -> Candidates:
        """Runs on images ``(N, C, H, W)`` with labels ``(N,)``, the first of them the ``start``-th to be attacked.

        Args:
            start: Sets the draws apart from those of the other batches.
            places: ``(N,)``, of the images in the data slice; they set their random numbers apart.
            images: ``(N, C, H, W)`` in [0, 1].
            labels: ``(N,)``.
        """
        threat = self.attack.threat(images, norm=self.norm, eps=self.eps, targeted=self.targeted != "no")
        searched = self.attack.searched(threat)
        random = Random.of(self.seed, images, places=places)
        seed_draws(seed_from(self.seed, "draws of the attack", start))
        goals = _targets(self.aim, images, labels, self.classes, self.targeted, random)
        candidates = Candidates(self.judge, start, images, labels, goals, threat.norm)
        for number, goal in enumerate(goals if len(goals) else labels[None]):
            seed_draws(seed_from(self.seed, "draws of the attack", start, number))
            proposed = _images_of(self.attack.run(self.source, images, goal, searched, random), images, self.attack)
            inside = project_exactly(proposed, images, searched)
            # What is not a number is in no ball either.
            self.left_the_ball |= not bool(distance(inside, proposed, "linf").max() <= 1e-4)
            candidates.add(within(inside, images, threat))
        return candidates


def _flags_of_models(
    attack: Attack, attacked: MeasuredModel, followed: MeasuredModel, *, draws: Draws
) -> dict[str, bool]:
    """What the attacked model, and the one that the attack follows, say against a result, whatever the attack found."""
    repeatable = is_repeatable(followed.model, followed.images)
    by_gradient = attack.uses == "gradients"
    return {
        "no-eot": by_gradient and followed.randomized and draws in (1, "frozen"),
        "wrong-gradient": by_gradient
        and repeatable
        and gradient_is_wrong(followed.model, followed.images, randomized=followed.randomized),
        "not-repeatable": not (repeatable and (followed is attacked or is_repeatable(attacked.model, attacked.images))),
        "every-draw": attack.minimal_norm and attacked.randomized,
    }


def predict(
    model: nn.Module,
    images: Tensor,
    *,
    repeats: int,
    seed: int = 0,
    device: torch.device | str | None = None,
    batch_size: int | None = None,
) -> NDArray[np.int64]:
    """What the deployed rule says of images.

    Args:
        model: See :func:`evaluate`.
        images: ``(N, C, H, W)`` in [0, 1].
        repeats: R, the draws of a randomized model.
        seed: Of the draws.
        device: See :func:`evaluate`.
        batch_size: See :func:`evaluate`.

    Returns:
        ``(R, N)`` decisions, see :func:`~robustbench_cli.attacks.base.decision.decisions`; of a deterministic model
        ``(1, N)``.
    """
    device = torch.device(device) if device is not None else _device_of(model)
    move(model, device)
    with frozen(model), seeded(seed_from(seed, "predict"), device):
        probe = images[:8].to(device)
        source = MeasuredModel(model, probe).source(
            repeats, batch_size=batch_size or automatic_batch_size(device, tuple(images.shape[1:]))
        )
        pieces = [source.decisions(part.to(device)).cpu() for part in images.split(IMAGES_AT_ONCE)]
    return np.asarray(torch.cat(pieces, dim=1).numpy())


def _joined(before: Outcomes | None, standing: Tensor, pieces: list[dict[str, Any]], *, single_draw: bool) -> Outcomes:
    """The outcomes of all images, from those of an earlier attack and the pieces of this one, on what stood then."""
    if before is not None and not pieces:
        return before
    own = Outcomes(**{name: np.concatenate([piece[name] for piece in pieces], axis=-1) for name in pieces[0]})
    if before is None:
        return own
    rows = standing.numpy()
    if single_draw:
        # The clean image has had its draw.
        own = replace(own, clean=before.clean[:, rows], clean_survival=before.clean_survival[rows])
    return before.joined(rows, own)


def _check_inputs(images: Tensor, labels: Tensor, attack: Attack) -> None:
    if not isinstance(attack, Attack):
        raise UserError(f"attack is {attack!r}: give an attack with its parameters, such as PGD(steps=40)")
    if images.ndim != 4 or not len(images) or not images.is_floating_point():
        raise UserError(
            f"the images are {images.dtype} of shape {tuple(images.shape)}: give floats in [0, 1] of shape (N, C, H, W), "
            "N at least 1"
        )
    check_images(images, where="the images")
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        raise UserError(
            f"the labels are {labels.dtype} of shape {tuple(labels.shape)}: give int64 of shape ({len(images)},), one an image"
        )


def _device_of(model: nn.Module) -> torch.device:
    """Where a model's first parameter or buffer is."""
    held = next(itertools.chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if held is None else held.device


def _images_of(proposed: object, images: Tensor, attack: Attack) -> Tensor:
    """What an attack returned, in the images' own type.

    Raises:
        UserError: It is no batch of such images.
    """
    if not isinstance(proposed, Tensor) or proposed.shape != images.shape:
        what = f"shape {tuple(proposed.shape)}" if isinstance(proposed, Tensor) else f"type {type(proposed).__name__}"
        raise UserError(f"{type(attack).__name__} returned images of {what}: it is to return {tuple(images.shape)}")
    return proposed.detach().to(images)


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

"""Attacks a model on a data slice and scores what it finds on draws that nobody selected on."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from robustbench_cli.attacks.base.attack import Attack
from robustbench_cli.attacks.base.gradients.draws import Draws, EOTChoice
from robustbench_cli.attacks.base.gradients.source import GradientSource, Precision
from robustbench_cli.attacks.base.inputs import (
    Images,
    Labels,
    checked_batch,
    checked_count,
    checked_device,
    checked_eot,
    checked_keywords,
    checked_model,
    device_of,
    match_model,
    parse_radius,
)
from robustbench_cli.attacks.base.models.enumerable_draws import enumeration_is_wrong
from robustbench_cli.attacks.base.models.freezing import frozen_on
from robustbench_cli.attacks.base.models.measured_model import MeasuredModel
from robustbench_cli.attacks.base.models.passes import BatchSize
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random, preserve_generators, seed_from, seed_generators
from robustbench_cli.attacks.base.threat import distance, project, project_exactly, reset_outside
from robustbench_cli.benchmarks.devices import automatic_batch_size, current
from robustbench_cli.benchmarks.evaluation.checks import (
    FLAGS,
    copy_of,
    gradient_is_blind,
    gradient_is_wrong,
    is_repeatable,
    is_unstable,
    remembers,
)
from robustbench_cli.benchmarks.evaluation.options import Accounting, Targeted, resolve_repeats
from robustbench_cli.benchmarks.evaluation.outcomes import Outcomes, summarise
from robustbench_cli.benchmarks.evaluation.partial_results import BatchResult, PartialResults
from robustbench_cli.benchmarks.evaluation.saved_images import rounded as levels_inside
from robustbench_cli.benchmarks.evaluation.scoring import Candidates, Scorer
from robustbench_cli.benchmarks.models.base.build import check_model
from robustbench_cli.core.errors import UserError

__all__ = ["Evaluation", "evaluate", "predict"]

_logger = logging.getLogger(__name__)

IMAGES_AT_ONCE = 512
"""Images that an attack holds at once; the gradient source cuts them to the batches that pass through the model."""


_FAR = 0.1
"""How far single pixels are moved at most to see whether they matter, in a ball that would let them."""

_NEAR = 0.03
"""The radius around an image in which gradients are checked where the threat has none of its own."""


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


@checked_keywords
def evaluate(
    model: nn.Module,
    images: Images,
    labels: Labels,
    *,
    attack: Attack,
    norm: Norm | None = None,
    eps: float | str | None = None,
    targeted: Targeted = "no",
    eot: EOTChoice = "auto",
    repeats: int | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    batch_size: int | None = None,
    precision: Precision = "float32",
    accounting: Accounting = "expected",
    before: Outcomes | None = None,
    kept: PartialResults | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Evaluation:
    """Measures what is left of a model's accuracy under an attack.

    The attack is not believed: what it returns is projected into the ball and the box and scored by the deployed rule
    on draws that it has not seen, the clean image being another candidate.

    Args:
        model: Images in [0, 1] to logits, normalization inside; left as it was.
        images: ``(N, C, H, W)``, floats in [0, 1] or uint8, as a tensor or an array.
        labels: ``(N,)`` in [0, K), of any integer type.
        attack: The attack and its parameters.
        norm: One of the attack's norms; its own where not given.
        eps: The radius as a number or a fraction (``"8/255"``); ``None`` lets a minimal-norm attack's successes count at any distance.
        targeted: How target classes are chosen, or ``"no"``.
        eot: The draws behind a gradient, of the model that the attack asks; see
            :data:`~robustbench_cli.attacks.base.gradients.draws.EOTChoice`.
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
    started = time.perf_counter()
    if not isinstance(attack, Attack):
        raise UserError(f"attack is {attack!r}: give an attack with its parameters, such as PGD(steps=40)")
    checked_model(model)
    images, labels = checked_batch(images, labels)
    images = images.to(match_model(images[:1], model).dtype)
    eps = None if eps is None else parse_radius(eps)
    eot, seed = checked_eot(eot), checked_count(seed, "seed", "give a whole number, at least 0", least=0)
    device = checked_device(device) if device is not None else device_of(model)
    asked = attack.queried_model(model)
    size = BatchSize(batch_size or automatic_batch_size(device, tuple(images.shape[1:])))
    few = images[_spread(labels, 8)]
    # Before it is asked anything: what it remembers of other evaluations is not deployed either.
    fresh = copy_of(model)
    with ExitStack() as ready:
        ready.enter_context(current(device))
        ready.enter_context(torch.inference_mode(mode=False))
        ready.enter_context(preserve_generators())
        layout = ready.enter_context(frozen_on(model, device, few[: size.rows]))
        if asked is not model:
            ready.enter_context(frozen_on(asked, device, few[: size.rows]))
        if fresh is not None:
            # In the model's layout, in which it draws: it is asked nothing to find that out.
            fresh.to(device).to(memory_format=layout).eval().requires_grad_(False)
        probe = few.to(device)
        classes = check_model(model, probe[: size.rows], labels)
        attacked = followed = MeasuredModel(model, probe, size)
        if asked is not model:
            check_model(asked, probe[: size.rows], labels, classes=classes, name="the surrogate")
            followed = MeasuredModel(asked, probe, size)
        single_draw = attacked.randomized and accounting == "single-draw"
        scorer = Scorer(
            attacked,
            repeats=resolve_repeats(repeats, randomized=attacked.randomized),
            # Each attack is to be judged on draws of its own, whatever images it is run on.
            seed=seed_from(seed, repr(attack)) if single_draw else seed,
            single_draw=single_draw,
        )
        source = followed.source(eot, seed=seed, targeted=targeted != "no", precision=precision)
        source.full_precision = attack.needs_full_precision()
        search = _Search(
            attack=attack,
            source=source,
            # Which classes are to be reached is a matter of the attacked model, whichever is asked how to reach them.
            aim=source if asked is model else attacked.source("auto"),
            scorer=scorer,
            fresh=None if fresh is None else scorer.of_copy(fresh),
            attacked=attacked,
            followed=followed,
            classes=classes,
            norm=norm,
            eps=eps,
            targeted=targeted,
            seed=seed,
            single_draw=single_draw,
        )
        standing = torch.arange(len(images)) if before is None else torch.from_numpy(~before.fell()).nonzero()[:, 0]
        batch_results: list[BatchResult] = []
        earlier = 0.0
        for start in range(0, len(standing), IMAGES_AT_ONCE):
            places = standing[start : start + IMAGES_AT_ONCE]
            batch_result = kept.read(start, places, images[places].cpu()) if kept is not None else None
            if batch_result is not None:
                earlier += batch_result.seconds
            else:
                batch_result = search.batch_result(
                    places.to(device), images[places].to(device), labels[places].to(device)
                )
                # One that is all would be kept for no longer than the moment until the evaluation is stored.
                if kept is not None and len(standing) > len(places):
                    kept.write(start, batch_result)
            batch_results.append(batch_result)
            progress(len(images) - len(standing) + start + len(places))
        flags = {flag for batch_result in batch_results for flag in batch_result.flags}
        flags |= _flags_of_models(attack, attacked, followed, draws=followed.eot(eot))
        if sum(batch_result.without_gradient for batch_result in batch_results) > 0.01 * sum(
            batch_result.backwards for batch_result in batch_results
        ):
            flags.add("zero-gradient")
        if "not-repeatable" in flags:
            # Draws that no seed controls explain other answers by themselves.
            flags -= {"unstable", "remembers"}
        if single_draw:
            flags.add("single-draw")
        if classes < attack.min_classes(targeted=targeted != "no"):
            flags.add("few-classes")
        if (
            eps == 0
            or "not-a-number" in flags
            or not all("unchanged" in batch_result.flags for batch_result in batch_results)
        ):
            flags.discard("unchanged")
        shares_draws = attacked.rows_share_draws
    perturbed = images.cpu().clone()
    for batch_result in batch_results:
        perturbed[batch_result.places] = batch_result.perturbed
    outcomes = _joined(
        before, standing, [batch_result.outcomes for batch_result in batch_results], single_draw=single_draw
    )
    return Evaluation(
        outcomes=replace(outcomes, draws_shared=np.asarray(shares_draws)),
        flags=tuple(name for name in FLAGS if name in flags),
        forwards=round(sum(batch_result.forwards for batch_result in batch_results)),
        backwards=round(sum(batch_result.backwards for batch_result in batch_results)),
        seconds=time.perf_counter() - started + earlier,
        perturbed=perturbed,
    )


def _spread(labels: Tensor, count: int) -> Tensor:
    """The places of up to ``count`` images that are spread over the classes: the first of each, then the second of each."""
    turn = torch.zeros_like(labels)
    for label in labels.unique():
        own = (labels == label).nonzero().squeeze(1)
        turn[own] = torch.arange(len(own), device=labels.device)
    return turn.argsort(stable=True)[:count].sort().values


@dataclass(kw_only=True)
class _Search:
    """An attack on one batch after another.

    Attributes:
        attack: The attack and its parameters.
        source: What it asks.
        aim: What says which classes are to be reached.
        scorer: The deployed rule.
        fresh: The rule of a copy of the model that has been asked nothing yet; ``None`` where there is no copy.
        attacked: The model that it is the rule of.
        followed: The model that the source asks.
        classes: K.
        norm: See :func:`evaluate`.
        eps: See :func:`evaluate`.
        targeted: See :func:`evaluate`.
        seed: See :func:`evaluate`.
        single_draw: Whether images are counted as AutoAttack counts them.
    """

    attack: Attack
    source: GradientSource
    aim: GradientSource
    scorer: Scorer
    fresh: Scorer | None
    attacked: MeasuredModel
    followed: MeasuredModel
    classes: int
    norm: Norm | None
    eps: float | None
    targeted: Targeted
    seed: int
    single_draw: bool

    def batch_result(self, places: Tensor, images: Tensor, labels: Tensor) -> BatchResult:
        """What it finds on images ``(N, C, H, W)`` with labels ``(N,)``, and what that costs.

        Args:
            places: ``(N,)``, of the images in the data slice; they set their random numbers apart.
            images: ``(N, C, H, W)`` in [0, 1].
            labels: ``(N,)``.
        """
        began, counted = time.perf_counter(), self._counted()
        flags: set[str] = set()
        candidates = self.candidates(places, images, labels, flags)
        forwards, backwards, without_gradient = self._counted() - counted
        flags |= self._flags_of_gradients(images, places)
        flags |= self._flags_of_answers(candidates.worst[:64], places[:64])
        if bool(candidates.failed.any()):
            flags.add("not-a-number")
        if torch.equal(candidates.worst, images):
            flags.add("unchanged")
        return BatchResult(
            places=places.cpu(),
            outcomes=candidates.arrays(),
            perturbed=candidates.worst.cpu(),
            flags=frozenset(flags),
            forwards=float(forwards),
            backwards=float(backwards),
            without_gradient=float(without_gradient),
            seconds=time.perf_counter() - began,
        )

    def _counted(self) -> NDArray[np.float64]:
        """Passes so far: forwards, backwards, and those of the latter that came back empty."""
        forwards = self.source.forwards + self.scorer.forwards
        if self.aim is not self.source:
            forwards += self.aim.forwards
        return np.array([forwards, self.source.backwards, self.source.zero_gradient_share * self.source.backwards])

    def candidates(self, places: Tensor, images: Tensor, labels: Tensor, flags: set[str]) -> Candidates:
        """Runs on images, and judges what it makes of them; see :meth:`piece`. Adds the flags of what it returns."""
        threat = self.attack.threat(images, norm=self.norm, eps=self.eps, targeted=self.targeted != "no")
        searched = self.attack.search_threat(threat)
        random = Random.of(self.seed, images, indices=places)
        self.aim.bind_draws(seed_from(self.seed, "goals"), places)
        goals = _targets(self.aim, images, labels, self.classes, self.targeted, random)

        def rounded(perturbed: Tensor) -> Tensor:
            levels = levels_inside(perturbed, images, norm=threat.norm, eps=self.eps)
            return reset_outside(project_exactly((levels.double() / 255).to(images), images, searched), images, threat)

        candidates = Candidates(
            self.scorer,
            images,
            labels,
            places,
            goals,
            threat.norm,
            None if self.single_draw else rounded,
            minimal_norm=self.attack.minimal_norm,
        )
        for number, goal in enumerate(goals if len(goals) else labels[None]):
            # An attack that draws from torch's generators itself draws the same each time.
            seed_generators(seed_from(self.seed, "draws of the attack", int(places[0]), number))
            self.source.bind_draws(seed_from(self.seed, "attack", number), places)
            proposed = _images_of(self.attack.run(self.source, images, goal, searched, random), images, self.attack)
            inside = project_exactly(proposed, images, searched)
            if not bool(distance(inside, proposed, "linf").max() <= 1e-4):
                flags.add("left-the-ball")
            candidates.add(reset_outside(inside, images, threat))
        return candidates

    def _flags_of_gradients(self, images: Tensor, places: Tensor) -> set[str]:
        """The flags of the gradients where the attack followed them, and at the surface of the ball.

        A model can have a true gradient at images of 8 bits, as all clean images are, and another one beside them.
        """
        flags: set[str] = set()
        if self.attack.access != "gradients" or self.source.recent_points is None:
            return flags
        images, places = images[:4], places[:4]
        random = Random.of(self.seed, images, indices=places)
        signs = 2.0 * random.integers(2, images.shape[1:]) - 1
        threat = self.attack.threat(images, norm=self.norm, eps=self.eps or _NEAR, targeted=False)
        surface = project(images + threat.eps.max().to(images) * signs, images, threat)
        with _failing_into(flags):
            if not is_repeatable(self.followed):
                return flags
            if gradient_is_wrong(self.followed, torch.cat([self.source.recent_points[:4], surface])):
                flags.add("wrong-gradient")
            step = min(_FAR, float(threat.eps.max())) if threat.norm == "linf" else _FAR
            if gradient_is_blind(self.followed, self.followed.images, step):
                flags.add("zero-gradient")
        return flags

    def _flags_of_answers(self, images: Tensor, places: Tensor) -> set[str]:
        """The flags of what the model says of images that the attack has made."""
        flags: set[str] = set()
        with _failing_into(flags):
            if is_unstable(self.scorer.scored, images, places, noise=self.scorer.noise):
                flags.add("unstable")
        with _failing_into(flags):
            if self.fresh is not None and remembers(
                self.scorer.scored, self.fresh.scored, images, places, noise=self.scorer.noise
            ):
                flags.add("remembers")
        return flags


@contextmanager
def _failing_into(flags: set[str]) -> Iterator[None]:
    """Within it, an error of a check becomes a flag, since no check may lose a result."""
    try:
        yield
    except Exception:
        _logger.warning("a check failed", exc_info=True)
        flags.add("check-failed")


def _flags_of_models(attack: Attack, attacked: MeasuredModel, followed: MeasuredModel, *, draws: Draws) -> set[str]:
    """What the attacked model, and the one that the attack follows, say against a result, whatever the attack found."""
    flags = set()
    by_gradient = attack.access == "gradients"
    if by_gradient and followed.randomized and draws in (1, "frozen"):
        flags.add("no-eot")
    if attack.minimal_norm and attacked.randomized:
        flags.add("every-draw")
    with _failing_into(flags):
        if enumeration_is_wrong(attacked.model, attacked.images, size=attacked.size):
            flags.add("other-draws")
    with _failing_into(flags):
        repeatable = is_repeatable(followed)
        if not (repeatable and (followed is attacked or is_repeatable(attacked))):
            flags.add("not-repeatable")
        if by_gradient and repeatable and gradient_is_wrong(followed, followed.images):
            flags.add("wrong-gradient")
    return flags


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
        ``(R, N)`` decisions, see :func:`~robustbench_cli.attacks.base.models.decision.decisions`; of a deterministic model
        ``(1, N)``.
    """
    device = checked_device(device) if device is not None else device_of(model)
    size = BatchSize(batch_size or automatic_batch_size(device, tuple(images.shape[1:])))
    with preserve_generators(), frozen_on(model, device, images[: min(4, size.rows or 4)]):
        source = MeasuredModel(model, images[:8].to(device), size).source(repeats)
        batch_results = []
        for start, part in enumerate(images.split(IMAGES_AT_ONCE)):
            places = torch.arange(len(part), device=device) + start * IMAGES_AT_ONCE
            source.bind_draws(seed_from(seed, "predict"), places)
            batch_results.append(source.decisions(part.to(device)).cpu())
    return np.asarray(torch.cat(batch_results, dim=1).numpy())


def _joined(
    before: Outcomes | None, standing: Tensor, batch_results: list[dict[str, Any]], *, single_draw: bool
) -> Outcomes:
    """The outcomes of all images, from those of an earlier attack and the pieces of this one, on what stood then."""
    if before is not None and not batch_results:
        return before
    own = Outcomes(
        **{
            name: np.concatenate([batch_result[name] for batch_result in batch_results], axis=-1)
            for name in batch_results[0]
        }
    )
    if before is None:
        return own
    rows = standing.numpy()
    if single_draw:
        # The clean image has had its draw.
        own = replace(own, clean=before.clean[:, rows], clean_survival=before.clean_survival[rows])
    return before.joined(rows, own)


def _images_of(proposed: object, images: Tensor, attack: Attack) -> Tensor:
    """What an attack returned, in the images' own type.

    Raises:
        UserError: It is no batch of such images.
    """
    if not isinstance(proposed, Tensor) or proposed.shape != images.shape:
        what = f"shape {tuple(proposed.shape)}" if isinstance(proposed, Tensor) else f"type {type(proposed).__name__}"
        raise UserError(f"{type(attack).__name__} returned images of {what}: it is to return {tuple(images.shape)}")
    failed = int(proposed.isnan().flatten(1).any(1).sum())
    if failed:
        raise UserError(
            f"{type(attack).__name__} returned images of NaN for {failed} of {len(images)}: it is to return {tuple(images.shape)} in [0, 1]"
        )
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

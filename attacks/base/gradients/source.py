"""Gradient sources: give an attack its logits and gradients, so that any attack adapts to any defense."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import TypedDict, Unpack

import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.gradients.backward import BackwardPasses
from robustbench_cli.attacks.base.gradients.query_results import (
    GradientGraph,
    GradientSample,
    QueryPasses,
    RecordedQuery,
    joined,
)
from robustbench_cli.attacks.base.gradients.representation_distance import RepresentationDistance
from robustbench_cli.attacks.base.gradients.second_derivatives import require_second_derivative, twice_differentiable
from robustbench_cli.attacks.base.gradients.zero_gradients import ZeroGradients
from robustbench_cli.attacks.base.losses import Loss, slope_and_value
from robustbench_cli.attacks.base.models.decision import can_reject, decisions
from robustbench_cli.attacks.base.models.graphed_passes import GraphedPasses
from robustbench_cli.attacks.base.models.passes import BatchSize, NoGradientError, single_pass
from robustbench_cli.attacks.base.models.precision import Precision, full_float32, gradient_precision
from robustbench_cli.attacks.base.models.probes import EDGE_OFFSET
from robustbench_cli.attacks.base.models.row_draws import row_keys

__all__ = ["GradientSource", "PassOptions"]

_RECENT = 8
"""The number of points in :attr:`GradientSource.recent_points`."""


class PassOptions(TypedDict, total=False):
    """How a source passes images through its model.

    Attributes:
        targeted: Whether the labels of :meth:`GradientSource.gradient` are the classes to reach. Default: no.
        batch_size: The largest number of rows (images times draws) that pass through the model at once; ``None``, the
            default, for no limit. A :class:`BatchSize` is shared with other code that runs the model.
        precision: The precision of gradients and of the logits that come with them. In ``"bf16"`` their margins are
            rounded more coarsely (see :func:`~robustbench_cli.attacks.base.losses.rounding`), so a success must be
            confirmed by :meth:`GradientSource.logits`, which are always in full float32. Default: ``"tf32"``.
        inside: Called before each gradient: whether to take it slightly inside the box; see
            :func:`~robustbench_cli.attacks.base.models.probes.cut_at_edges`. Default: never.
        graphs: Whether a GPU repeats the passes of a deterministic model as CUDA graphs; the model must keep its
            parameters and its mode. See :class:`~robustbench_cli.attacks.base.models.graphed_passes.GraphedPasses`.
            Default: no.
    """

    targeted: bool
    batch_size: BatchSize | int | None
    precision: Precision
    inside: Callable[[], bool]
    graphs: bool


class GradientSource(ABC):
    """Logits and input gradients of a model, over D draws at a time.

    Args:
        model: Images ``(N, C, H, W)`` in [0, 1] to logits ``(N, K)``, in ``eval()`` mode with frozen parameters (see
            :func:`~robustbench_cli.attacks.base.models.freezing.frozen`).
        **options: See :class:`PassOptions`.

    Attributes:
        draws: D, the number of draws in each result.
        exhaustive: Whether these are all draws of the model.
        forwards: Images in forward passes so far, times the cost of their draws.
        backwards: The same for backward passes.
        recent_points: ``(n, C, H, W)``, n up to 8: some of the points of the latest gradient whose query number is a power
            of 2; ``None`` before the first.
        sample: Some rows of the first gradient of one loss, or of a later one of more images. ``None`` before the first, and for
            a model with draws.
        queries: The number of queries so far, of which each has its own draws. Rows that take turns, because they are too many
            for one batch, set it back, so that they get the draws that they would have together.
        noise: Measures how much a logit changes with the batch, see
            :mod:`~robustbench_cli.attacks.base.models.logit_noise`; ``None`` for no measurement.
        keeps_best: Whether the attack keeps the best of its iterates, so that it returns any success.
        watch: Called after each query with its images ``(N, C, H, W)`` and logits ``(D, N, K)``; ``None`` for nothing.
        graphs: The passes as CUDA graphs; ``None`` for a model that no graph can repeat.
    """

    draws: int
    exhaustive: bool

    def __init__(self, model: nn.Module, **options: Unpack[PassOptions]) -> None:
        if unknown := sorted({*options} - {*PassOptions.__annotations__}):
            raise TypeError(f"unknown options: {', '.join(unknown)}")
        self.model = model
        self.targeted = options.get("targeted", False)
        batch_size = options.get("batch_size")
        self.size = batch_size if isinstance(batch_size, BatchSize) else BatchSize(batch_size)
        self.precision: Precision = options.get("precision", "tf32")
        self._inside = options.get("inside", lambda: False)
        self._seed = 0
        self._indices: Tensor | None = None
        self.queries = 0
        self.forwards = 0.0
        self.backwards = 0.0
        self.recent_points: Tensor | None = None
        self.sample: GradientSample | None = None
        self.noise: Callable[[], float] | None = None
        self.keeps_best = False
        self.watch: Callable[[Tensor, Tensor], None] | None = None
        self.graphs: GraphedPasses | None = None
        self._recorded: list[RecordedQuery] | None = None
        self._backward = BackwardPasses(self.size)
        self._zero_gradients = ZeroGradients(targeted=self.targeted)
        self._has_second_derivative = False

    @property
    def cost(self) -> float:
        """Forward passes per image."""
        return float(self.draws)

    @property
    def zero_gradient_share(self) -> float:
        """The share of gradients so far that were zero in every pixel although some draw had not reached the goal."""
        return self._zero_gradients.count() * self.cost / self.backwards if self.backwards else 0.0

    def bind_draws(self, seed: int, indices: Tensor) -> None:
        """Makes all later draws a function of a seed, of the images and of the number of the query.

        Args:
            seed: The seed of the draws.
            indices: ``(N,)`` int64, a unique number for each image of the later queries.
        """
        self._seed, self._indices, self.queries, self.sample = seed, indices, 0, None

    @property
    def _has_keys(self) -> bool:
        """Whether the draws are a function of the images' keys."""
        return False

    @abstractmethod
    def _seeded_model(
        self, images: Tensor, keys: Tensor | None, draws: range, query: int
    ) -> AbstractContextManager[Callable[[Tensor], Tensor]]:
        """A function from images ``(N, C, H, W)`` to logits ``(len(draws), N, K)``.

        Forward and backward passes must both run inside the context.

        Args:
            images: ``(N, C, H, W)``.
            keys: ``(N,)`` int64, one per image; ``None`` unless :attr:`_has_keys`.
            draws: The numbers of the draws, among the D.
            query: The number of the query. Draws of different queries are independent.
        """

    def logits(self, images: Tensor, *, rows: Tensor | None = None, copies: int | Tensor = 1) -> Tensor:
        """Logits in full float32 and without a graph.

        Args:
            images: ``(N, C, H, W)`` in [0, 1].
            rows: ``(n,)`` int64, the indices of these images in the attack's batch; ``None`` for the whole batch in order.
            copies: Of an image with several points: the number of points, which are adjacent, ``N = n * copies``; or
                ``(N,)`` int64, of each point the number among those of its image, and ``rows`` repeats the image, ``n = N``.
                The points of an image have independent draws.

        Returns:
            ``(D, N, K)``.
        """
        self.forwards += self.cost * len(images)
        keys, query = self._keys(images, rows, copies), self._next_query()

        def compute() -> Tensor:
            slices = []
            for part, draws_per_pass in self._passes(images):
                logits_by_draw = []
                for draws in draws_per_pass:
                    with self._seeded_model(images[part], _part_of(keys, part), draws, query) as model:
                        logits_by_draw.append(model(images[part]))
                slices.append(joined(logits_by_draw, 0))
            return joined(slices, 1)

        with torch.no_grad(), full_float32(images.device):
            logits = self.size.retry_smaller(len(images) * self.cost, compute)
        self._notify_watcher(images, logits)
        return logits

    def _notify_watcher(self, images: Tensor, logits: Tensor) -> None:
        if self.watch is not None:
            self.watch(images, logits)

    def _next_query(self) -> int:
        self.queries += 1
        return self.queries

    def _note_query(self, images: Tensor) -> int:
        """The number of the next query, whose gradient is taken at these images."""
        query = self._next_query()
        if query & (query - 1) == 0:
            self.recent_points = _spread(images).clone()
        return query

    def _note_gradient(self, images: Tensor, labels: Tensor, loss: Loss, passes: QueryPasses) -> None:
        """Keeps a sample of the passes of a query, see :attr:`sample`."""
        logits, gradients = passes.logits, passes.gradients
        is_largest = self.sample is None or len(images) > self.sample.batch
        if is_largest and len(gradients) == 1 and self.draws == 1 and not self._has_keys:
            points, classes, *passed = (_spread(rows).clone() for rows in (images, labels, logits[0], gradients[0]))
            self.sample = GradientSample(len(images), points, classes, loss, *passed)

    def _keys(self, images: Tensor, rows: Tensor | None, copies: int | Tensor) -> Tensor | None:
        """``(N,)`` int64: the keys of the images' draws; ``None`` for a model whose draws have no keys."""
        if not self._has_keys:
            return None
        indices = self._indices if rows is None or self._indices is None else self._indices[rows]
        points = len(copies) if isinstance(copies, Tensor) else copies * (0 if indices is None else len(indices))
        if indices is None or points != len(images):
            # An attack that does not pass ``rows`` gets draws by position in the batch.
            indices, copies = torch.arange(-len(images), 0, device=images.device), 1
        return row_keys(indices.to(images.device), copies)

    def decisions(self, images: Tensor, *, rows: Tensor | None = None, copies: int | Tensor = 1) -> Tensor:
        """The model's decisions alone, for attacks that use no scores; see :func:`.decision.decisions`.

        Args:
            images: See :meth:`logits`.
            rows: See :meth:`logits`.
            copies: See :meth:`logits`.

        Returns:
            ``(D, N)`` int64.
        """
        return self.decisions_of(self.logits(images, rows=rows, copies=copies))

    def decisions_of(self, logits: Tensor) -> Tensor:
        """The decisions ``(D, N)`` for logits ``(D, N, K)`` of this model; see :func:`.decision.decisions`."""
        return decisions(logits, detector=can_reject(self.model))

    def gradient(
        self, images: Tensor, labels: Tensor, loss: Loss, *, rows: Tensor | None = None, copies: int | Tensor = 1
    ) -> tuple[Tensor, Tensor]:
        """Logits and the gradient of the mean loss over the draws.

        Args:
            images: ``(N, C, H, W)``.
            labels: ``(N,)``. If the loss needs more numbers per image, ``(N, m)`` with the labels in the first column.
            loss: The loss of one draw. With a :func:`~robustbench_cli.attacks.base.losses.closed_form`, its slope takes
                fewer operations.
            rows: See :meth:`logits`.
            copies: See :meth:`logits`.

        Returns:
            Logits ``(D, N, K)`` without a graph, and the gradient ``(N, C, H, W)`` of each image's
            ``mean_d loss(logits_d, labels)``. Entries that are not finite are set to 0.

        Raises:
            UserError: The model's logits do not depend differentiably on its input.
        """
        passes = self._differentiate(images, labels, loss, rows, copies)
        return passes.logits, passes.gradients[0]

    def values_and_gradient(
        self, images: Tensor, labels: Tensor, loss: Loss, *, rows: Tensor | None = None, copies: int | Tensor = 1
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, the loss of each draw, and the gradient of the mean loss; see :meth:`gradient`.

        Args:
            images: See :meth:`gradient`.
            labels: See :meth:`gradient`.
            loss: See :meth:`gradient`. The values of its closed form may have more dimensions.
            rows: See :meth:`logits`.
            copies: See :meth:`logits`.

        Returns:
            Logits ``(D, N, K)``, the losses ``(D, N, ...)``, and the gradient ``(N, C, H, W)``.

        Raises:
            UserError: The model's logits do not depend differentiably on its input.
        """
        passes = self._differentiate(images, labels, loss, rows, copies)
        return passes.logits, passes.values(), passes.gradients[0]

    def gradients(
        self, images: Tensor, labels: Tensor, losses: Loss, *, rows: Tensor | None = None, copies: int | Tensor = 1
    ) -> tuple[Tensor, Tensor]:
        """Logits and the gradients of L losses, by one forward pass and L backward passes; see :meth:`gradient`.

        Args:
            images: ``(N, C, H, W)``.
            labels: ``(N,)`` or ``(N, m)``.
            losses: L losses ``(M, L)`` of logits ``(M, K)`` and labels ``(M,)`` or ``(M, m)``.
            rows: See :meth:`logits`.
            copies: See :meth:`logits`.

        Returns:
            Logits ``(D, N, K)`` without a graph, and the gradients ``(L, N, C, H, W)``, both of the same draws. If the
            source takes gradients inside the box, both belong to the points moved inside.

        Raises:
            UserError: The model's logits do not depend differentiably on its input.
        """
        passes = self._differentiate(images, labels, losses, rows, copies)
        return passes.logits, passes.gradients

    def gradient_with_distance(
        self, images: Tensor, labels: Tensor, loss: Loss | None, distance: RepresentationDistance
    ) -> tuple[Tensor, Tensor]:
        """Logits and the gradient of a loss plus a weighted distance between hidden representations.

        A query passes the references too, under the same draws. It is no :attr:`sample`.

        Args:
            images: ``(N, C, H, W)``, the whole batch.
            labels: ``(N,)``.
            loss: The loss of one draw; ``None`` for the distance alone.
            distance: Has N references.

        Returns:
            See :meth:`gradient`.

        Raises:
            UserError: The model's logits do not depend differentiably on its input, or the layer does not have one row per
                image and draw.
        """
        keys, query = self._keys(images, None, 1), self._note_query(images)
        # The replay of a CUDA graph runs no layer.
        with (
            gradient_precision(self.precision, images.device),
            self.graphs.paused() if self.graphs else nullcontext(),
        ):
            passes = self.size.retry_smaller(
                len(images) * self.cost,
                lambda: self._differentiate_slices(images, labels, distance.added_to(loss), keys, query, distance),
            )
        passes = replace(passes, logits=passes.logits[..., :-1])
        self.forwards += self.cost * len(images)
        self._count(images, labels, passes)
        return passes.logits, passes.gradients[0]

    def _differentiate(
        self, images: Tensor, labels: Tensor, loss: Loss, rows: Tensor | None, copies: int | Tensor
    ) -> QueryPasses:
        if self._recorded is not None:
            with gradient_precision(self.precision, images.device):
                passes = self._differentiate_slices(images, labels, loss, None, 0)
            self._recorded.append(RecordedQuery(images, labels, loss, passes))
            return passes
        keys, query = self._keys(images, rows, copies), self._note_query(images)
        with gradient_precision(self.precision, images.device):
            passes = self.size.retry_smaller(
                len(images) * self.cost, lambda: self._differentiate_slices(images, labels, loss, keys, query)
            )
        self._account(images, labels, loss, passes)
        return passes

    @contextmanager
    def recording(self) -> Iterator[list[RecordedQuery]]:
        """Inside, gradients are computed for a CUDA graph that the caller records, and are not counted.

        Only a source with :attr:`graphs` can do it.

        Yields:
            The list of the gradients so far. Each replay must be followed by :meth:`count_replay`.
        """
        assert self.graphs is not None, "no graph can repeat the passes of this source"
        queries: list[RecordedQuery] = []
        self._recorded = queries
        try:
            with self.graphs.paused():
                yield queries
        finally:
            self._recorded = None

    def count_replay(self, queries: list[RecordedQuery], labels: list[Tensor]) -> None:
        """Counts the gradients of a replayed recording.

        Args:
            queries: The recorded gradients, whose tensors hold the results of the replay.
            labels: For each of them, the labels ``(N,)`` or ``(N, m)`` of its first N rows; the other rows are padding. They are
                kept, so the caller must not change them.
        """
        for (images, _, loss, passes), replayed in zip(queries, labels, strict=True):
            rows = len(replayed)
            points = images[:rows]
            self._note_query(points)
            # The next replay writes over the originals.
            own = QueryPasses(passes.logits[:, :rows].clone(), passes.gradients[:, :rows], passes.values)
            self._account(points if self.watch is None else points.clone(), replayed, loss, own)

    def _account(self, images: Tensor, labels: Tensor, loss: Loss, passes: QueryPasses) -> None:
        """Counts the passes of a query, and hands its results to the records and to :attr:`watch`."""
        self._note_gradient(images, labels, loss, passes)
        self._count(images, labels, passes)

    def _count(self, images: Tensor, labels: Tensor, passes: QueryPasses) -> None:
        """Counts the passes of a query, and hands its results to :attr:`watch`."""
        self.forwards += self.cost * len(images)
        self.backwards += self.cost * len(images) * len(passes.gradients)
        self._zero_gradients.add(passes.logits, labels, passes.gradients)
        self._notify_watcher(images, passes.logits)

    def _differentiate_slices(
        self,
        images: Tensor,
        labels: Tensor,
        loss: Loss,
        keys: Tensor | None,
        query: int,
        distance: RepresentationDistance | None = None,
    ) -> QueryPasses:
        points = images.clamp(EDGE_OFFSET, 1 - EDGE_OFFSET) if self._inside() else images
        slices = []
        for part, draws_per_pass in self._passes(images):
            leaf = points[part].detach().requires_grad_()
            passes = []
            for draws in draws_per_pass:
                seeded = partial(self._seeded_model, keys=_part_of(keys, part), draws=draws, query=query)
                with distance.appended(self.model, seeded, leaf, part) if distance else seeded(leaf) as model:
                    passes.append(self._differentiate_draws(model, leaf, labels[part], loss, len(draws)))
            slices.append(QueryPasses.of_draws(passes))
        return QueryPasses.of_slices(slices)

    def _differentiate_draws(
        self, model: Callable[[Tensor], Tensor], leaf: Tensor, labels: Tensor, loss: Loss, draws: int
    ) -> QueryPasses:
        with torch.enable_grad():
            with torch.autocast(leaf.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                logits = model(leaf)
            if not logits.requires_grad:
                raise NoGradientError
        detached = logits.detach()
        repeated = labels if draws == 1 else labels.repeat(draws, *[1] * (labels.dim() - 1))
        slopes, values = slope_and_value(loss, detached.flatten(0, 1).to(leaf.dtype), repeated)
        slopes = slopes if self.draws == 1 else slopes / self.draws
        gradients = self._backward(logits, leaf, slopes.view(-1, *detached.shape).to(detached.dtype))
        return QueryPasses(detached, gradients, lambda: values().unflatten(0, (draws, -1)))

    def with_graph(self, images: Tensor) -> tuple[Tensor, Tensor] | None:
        """Logits with a graph, for code that differentiates by itself; see :meth:`backward_through`.

        Args:
            images: ``(N, C, H, W)``.

        Returns:
            The images as a leaf, and their logits ``(1, N, K)``. ``None`` where several passes or draws are needed: their graphs
            would fill the memory, and draws that are bound to images end with their pass.
        """
        if self.draws > 1 or self._has_keys:
            return None

        def compute() -> tuple[Tensor, Tensor] | None:
            if len(list(self.size.slices(len(images), cost=self.cost))) > 1:
                return None
            points = images.clamp(EDGE_OFFSET, 1 - EDGE_OFFSET) if self._inside() else images
            leaf = points.detach().requires_grad_()
            with torch.enable_grad():
                return leaf, single_pass(self.model, leaf)[None]

        with gradient_precision(self.precision, images.device):
            graph = self.size.retry_smaller(len(images) * self.cost, compute)
        if graph is None:
            return None
        if not graph[1].requires_grad:
            raise NoGradientError
        self.forwards += self.cost * len(images)
        self._note_query(images)
        self._notify_watcher(images, graph[1].detach())
        return graph

    def backward_through(self, graph: tuple[Tensor, Tensor], slopes: Tensor, labels: Tensor) -> Tensor:
        """The gradient of ``(logits * slopes).sum()`` at the images; the graph stays.

        Args:
            graph: What :meth:`with_graph` returned.
            slopes: ``(N, K)``.
            labels: ``(N,)``, to count zero gradients; -1 where they are unknown.

        Returns:
            ``(N, C, H, W)``. Entries that are not finite are set to 0.
        """
        leaf, logits = graph
        with gradient_precision(self.precision, leaf.device):
            gradients = self._backward(logits, leaf, slopes[None, None], retain=True).nan_to_num(0, 0, 0)
        self.backwards += self.cost * len(leaf)
        self._zero_gradients.add(logits.detach(), labels, gradients)
        return gradients[0]

    def require_second_derivative(self, images: Tensor) -> None:
        """Checks, at the first call, that the model can be differentiated twice; see :mod:`.second_derivatives`.

        Args:
            images: ``(N, C, H, W)``; the first one is used.

        Raises:
            UserError: A layer has no second derivative.
        """
        if not self._has_second_derivative:
            require_second_derivative(self.model, images[:1])
            self._has_second_derivative = True

    def takes_one_pass(self, images: Tensor) -> bool:
        """Whether one pass holds all images and draws, with a graph that may outlast it.

        Args:
            images: ``(N, C, H, W)``.
        """
        return not self._has_keys and all(
            part == slice(0, len(images)) and len(draws_per_pass) == 1 for part, draws_per_pass in self._passes(images)
        )

    def gradient_graphs(self, images: Tensor, labels: Tensor, loss: Loss, *, query: int) -> Iterator[GradientGraph]:
        """The gradient of an earlier query once more, pass by pass and with graphs, for code that differentiates it again.

        Args:
            images: ``(N, C, H, W)``, the whole batch.
            labels: ``(N,)``.
            loss: The loss of one draw.
            query: The number of the query, which has the draws.

        Yields:
            The graph of each pass. The sum over the passes of an image is its gradient. A graph must be used before the next one
            is asked for, unless :meth:`takes_one_pass`.
        """
        keys = self._keys(images, None, 1)
        points = images.clamp(EDGE_OFFSET, 1 - EDGE_OFFSET) if self._inside() else images
        for part, draws_per_pass in self._passes(images):
            leaf = points[part].detach().requires_grad_()
            for draws in draws_per_pass:
                with self._seeded_model(leaf, _part_of(keys, part), draws, query) as model:
                    yield GradientGraph(part, leaf, self._twice_differentiable(model, leaf, labels[part], loss))
        self.forwards += self.cost * len(images)
        self.backwards += self.cost * len(images)

    def _twice_differentiable(
        self, model: Callable[[Tensor], Tensor], leaf: Tensor, labels: Tensor, loss: Loss
    ) -> Tensor:
        """The gradient ``(N, C, H, W)`` of some draws, with a graph. The graphs of a GPU have no second derivative."""
        with torch.enable_grad(), twice_differentiable(), self.graphs.paused() if self.graphs else nullcontext():
            with torch.autocast(leaf.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                logits = model(leaf).to(leaf.dtype)
            values = loss(logits.flatten(0, 1), labels.repeat(len(logits), *[1] * (labels.dim() - 1)))
            (gradient,) = torch.autograd.grad(values.sum() / self.draws, leaf, create_graph=True)
        return gradient

    def _draws_per_pass(self) -> list[range]:
        """The numbers of the draws in each pass."""
        return [range(self.draws)]

    def _passes(self, images: Tensor) -> Iterator[tuple[slice, list[range]]]:
        """Slices of the images that fit the batch size, each with the draws of its passes."""
        draws_per_pass = self._draws_per_pass()
        # The last pass has the most draws.
        for part in self.size.slices(len(images), cost=self.cost * len(draws_per_pass[-1]) / self.draws):
            yield part, draws_per_pass


def _spread(rows: Tensor) -> Tensor:
    """Up to 8 of the rows, at equal distances."""
    return rows[:: max(1, len(rows) // _RECENT)][:_RECENT]


def _part_of(keys: Tensor | None, part: slice) -> Tensor | None:
    return None if keys is None else keys[part]

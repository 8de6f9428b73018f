"""Passes of a model as CUDA graphs: one launch instead of one launch per operation.

A small network's kernels take less time than their launches from Python. A CUDA graph records the launches of a pass once
and repeats them in one call, on tensors at fixed addresses. Source: the section "CUDA Graphs" of PyTorch's notes on CUDA
semantics, whose rules this module follows: warm-up on another stream, one memory pool, and no synchronization within.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from robustbench_cli.attacks.base.models.cuda_graphs import (
    forbidden_synchronizations,
    graphed_rows,
    layout_of,
    padded,
    recording,
    stream_of_recordings,
)
from robustbench_cli.core.errors import is_out_of_memory, one_line

__all__ = ["GraphedPasses"]

Pass = Callable[[Tensor], Tensor]
"""Maps rows ``(M, C, H, W)`` to logits ``(..., M, K)``; each row's logits depend on that row alone."""

_EAGER_PASSES = 3
"""Passes of a kind before its graph is recorded. Shorter searches do not repay the recording, which costs three passes."""

_HARDLY_LONGER = 1.25
"""The largest ratio of GPU time to host time of a pass that waits for launches: its last operation ends after the launch."""

_LOGITS_TOLERANCE, _GRADIENT_TOLERANCE = 1e-2, 5e-2
"""The largest relative difference (l2) between a graph's result and the model's own: cuDNN may choose other algorithms."""

_logger = logging.getLogger(__name__)


class _Kind(NamedTuple):
    """Passes that one graph can repeat: they differ in the values of the rows alone."""

    rows: int
    shape: torch.Size
    dtype: torch.dtype
    layout: torch.memory_format
    differentiable: bool
    autocast: torch.dtype | None
    precision: tuple[str, str]

    @classmethod
    def of(cls, rows: Tensor) -> _Kind:
        """The kind of a pass over these rows in the current context; their number is rounded up to a power of two."""
        cudnn: Any = torch.backends.cudnn
        return cls(
            rows=graphed_rows(len(rows)),
            shape=rows.shape[1:],
            dtype=rows.dtype,
            layout=layout_of(rows),
            differentiable=torch.is_grad_enabled() and rows.requires_grad,
            autocast=torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else None,
            precision=(cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision),
        )


class GraphedPasses:
    """A deterministic model's passes on a GPU, as CUDA graphs where the launches take most of the time.

    Batches of all sizes up to the next power of two share a graph: they are padded, which costs nothing while the GPU
    waits for launches. The first passes of each kind run as usual. If the last of them takes the GPU no longer than its
    launches take the host, the GPU waits for launches: the graph is recorded at a later pass, and compared with the model's own
    results. Otherwise a graph would save nothing (measured on an H200), and none is recorded.

    A model that synchronizes, or whose graph gives other results, runs as usual; a warning says so once. On a CPU
    nothing changes.

    Args:
        model: The passes. The parameters are frozen, and stay at their addresses.
        name: The model's name in the warning.
    """

    def __init__(self, model: Pass, *, name: str) -> None:
        self._model = model
        self._name = name
        self._seen: Counter[_Kind] = Counter()
        self._graphs: dict[_Kind, _Graph | None] = {}
        self._observed: dict[_Kind, _Observation] = {}
        self._usable = True
        self._paused = False

    def repays_recording(self, rows: int) -> bool:
        """Whether passes of this many rows, gradients included, wait for launches and can be recorded.

        Args:
            rows: The number of rows.
        """
        return any(kind.differentiable and kind.rows >= rows and graph for kind, graph in self._graphs.items())

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, passes run as usual: the caller records them with other operations."""
        previous, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = previous

    def __call__(self, rows: Tensor) -> Tensor:
        """The model's result for rows ``(M, C, H, W)``, with a graph for a backward pass where they need one."""
        if not (rows.is_cuda and len(rows) and self._usable) or self._paused:
            return self._model(rows)
        kind = _Kind.of(rows)
        self._seen[kind] += 1
        if self._seen[kind] == _EAGER_PASSES:
            self._observed[kind] = observation = _Observation()
            logits = self._eager(rows)
            observation.end()
            return logits
        if kind in self._observed and self._observed[kind].has_ended():
            waits = self._observed.pop(kind).waits_for_launches()
            self._graphs[kind] = self._recorded(kind, rows.detach()) if waits else None
        graph = self._graphs.get(kind)
        return self._eager(rows) if graph is None else graph(rows)

    def _eager(self, rows: Tensor) -> Tensor:
        try:
            return self._model(rows)
        except RuntimeError as error:
            if is_out_of_memory(error):
                self._drop_graphs()
            raise

    def _recorded(self, kind: _Kind, rows: Tensor) -> _Graph | None:
        """The graph of a kind of passes; ``None`` where it cannot be recorded."""
        whole = padded(rows, kind.rows)
        try:
            with forbidden_synchronizations():
                graph = _Graph(self._model, whole, differentiable=kind.differentiable)
            # Mirrored rows in the opposite order differ from the recorded ones, also a single row: a graph that repeats its
            # recording gives other results than the model.
            self._compare(graph, whole.flip(0, -1), differentiable=kind.differentiable)
        except Exception as error:  # noqa: BLE001 - a user's model may turn the error into one of its own
            if not is_out_of_memory(error):
                self._usable = False
                _logger.warning(
                    "%s cannot be recorded as a CUDA graph, so each of its operations is launched by itself, which is "
                    "slower for small networks: %s",
                    self._name,
                    one_line(error),
                )
            self._drop_graphs()
            return None
        return graph

    def _drop_graphs(self) -> None:
        """Frees the memory of all graphs, which are not recorded again: smaller batches need it."""
        self._graphs = dict.fromkeys(self._graphs)

    def _compare(self, graph: _Graph, rows: Tensor, *, differentiable: bool) -> None:
        """Compares a graph with the model on some rows.

        Raises:
            RuntimeError: The logits or the gradients differ.
        """
        results = []
        for run in (graph, self._model):
            leaf = rows.clone().requires_grad_(differentiable)
            logits = run(leaf)
            weights = torch.linspace(-1, 1, logits.shape[-1], device=logits.device, dtype=logits.dtype)
            gradient = torch.autograd.grad((logits * weights).sum(), leaf)[0] if differentiable else None
            results.append((logits.detach().float(), gradient))
        (logits, gradient), (expected_logits, expected_gradient) = results
        same = _is_close(logits, expected_logits, _LOGITS_TOLERANCE)
        if gradient is not None and expected_gradient is not None:
            same = same and _is_close(gradient, expected_gradient, _GRADIENT_TOLERANCE)
        if not same:
            raise RuntimeError("the recorded pass gives other logits or gradients than the model")


def _is_close(values: Tensor, expected: Tensor, tolerance: float) -> bool:
    """Whether two tensors agree in the l2 norm; entries that are not finite count as 0."""
    values, expected = (tensor.nan_to_num(0, 0, 0).double() for tensor in (values, expected))
    return bool((values - expected).norm() <= tolerance * expected.norm())


class _Observation:
    """The times of a pass on the host and on the GPU, which may have to finish earlier work first."""

    def __init__(self) -> None:
        self._first, self._last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._first.record()
        self._host = -time.perf_counter()

    def end(self) -> None:
        """Ends the host time: all operations of the pass are launched."""
        self._host += time.perf_counter()
        self._last.record()

    def has_ended(self) -> bool:
        """Whether the GPU has finished the pass."""
        return bool(self._last.query())

    def waits_for_launches(self) -> bool:
        """Whether the GPU took hardly longer than the host. The pass must have ended."""
        return bool(self._first.elapsed_time(self._last) <= 1e3 * _HARDLY_LONGER * self._host)


class _Graph:
    """A recorded pass over rows at a fixed address, and the recorded backward pass.

    Args:
        model: The pass.
        rows: ``(M, C, H, W)``, the rows of the recording.
        differentiable: Whether there is a backward pass.

    Raises:
        RuntimeError: The pass synchronizes, has no gradient, or too little memory.
    """

    def __init__(self, model: Pass, rows: Tensor, *, differentiable: bool) -> None:
        self._rows = rows.clone().requires_grad_(differentiable)
        self._number = 0
        self._forward, self._backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with torch.set_grad_enabled(differentiable), stream_of_recordings():
            self._warm_up(model)
            torch.cuda.synchronize(rows.device)
            with recording(self._forward):
                self._logits = model(self._rows)
            if differentiable:
                self._slopes = torch.zeros_like(self._logits)
                with recording(self._backward, self._forward.pool()):
                    # The activations are kept: several backward passes may follow one forward pass.
                    self._gradient = torch.autograd.grad(self._logits, self._rows, self._slopes, retain_graph=True)[0]
        # From here on the recordings keep the activations. The graph of autograd would keep the parameters as well.
        self._logits = self._logits.detach()

    def _warm_up(self, model: Pass) -> None:
        """A pass before the recording, in which libraries make their handles and workspaces."""
        # A leaf of its own, because autograd ties a leaf to the stream of its first pass.
        rows = self._rows.detach().requires_grad_(self._rows.requires_grad)
        logits = model(rows)
        if rows.requires_grad:
            torch.autograd.grad(logits, rows, torch.zeros_like(logits))

    def __call__(self, rows: Tensor) -> Tensor:
        """The logits of at most M rows."""
        logits: Tensor = _Replay.apply(rows, self) if self._rows.requires_grad else self.forward(rows)[0]
        return logits

    @torch.no_grad()
    def forward(self, rows: Tensor) -> tuple[Tensor, int]:
        """The logits of at most M rows, and the number of the pass."""
        self._rows[: len(rows)].copy_(rows)
        self._number += 1
        self._forward.replay()
        return self._logits.narrow(-2, 0, len(rows)).clone(), self._number

    @torch.no_grad()
    def backward(self, slopes: Tensor, number: int) -> Tensor:
        """The gradient of the rows.

        Args:
            slopes: The gradient of the logits.
            number: The number of their pass, which must be the latest one.
        """
        if number != self._number:
            raise RuntimeError("a backward pass of a CUDA graph must follow its forward pass")
        rows = slopes.shape[-2]
        self._slopes.narrow(-2, 0, rows).copy_(slopes)
        self._backward.replay()
        return self._gradient[:rows].clone()


class _Replay(torch.autograd.Function):
    """A recorded pass as a differentiable function."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, graph: _Graph) -> Tensor:
        logits, ctx.number = graph.forward(rows)
        ctx.graph = graph
        return logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor, None]:
        return _BackwardReplay.apply(slopes, ctx.graph, ctx.number), None


class _BackwardReplay(torch.autograd.Function):
    """A recorded backward pass, which is repeated for each of several slopes that vmap gives together."""

    @staticmethod
    def forward(slopes: Tensor, graph: _Graph, number: int) -> Tensor:
        return graph.backward(slopes, number)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Nothing is kept: it is not differentiated again."""

    @staticmethod
    def vmap(_: Any, in_dims: tuple[int | None, ...], slopes: Tensor, graph: _Graph, number: int) -> tuple[Tensor, int]:
        """The gradients for slopes ``(L, ..., M, K)``, one replay each."""
        assert in_dims[0] is not None
        return torch.stack([graph.backward(slope, number) for slope in slopes.movedim(in_dims[0], 0).unbind()]), 0

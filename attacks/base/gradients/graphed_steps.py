"""Whole steps of an attack as CUDA graphs: one launch instead of one launch per operation.

A step launches more operations than its passes: the loss, the update, and the search for the best iterate. Each takes less
time on a GPU than its launch from Python. See :mod:`~robustbench_cli.attacks.base.models.graphed_passes` for the passes alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from robustbench_cli.attacks.base.gradients.query_results import RecordedQuery
from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.models.cuda_graphs import (
    forbidden_synchronizations,
    graphed_rows,
    padded,
    recording,
    stream_of_recordings,
)
from robustbench_cli.core.errors import is_out_of_memory, one_line

__all__ = ["GraphedSteps", "State"]

_logger = logging.getLogger(__name__)

State = dict[str, Tensor]
"""What an attack knows between two steps: tensors by name, each with one row per image."""

Step = Callable[[State, Tensor], State]


class GraphedSteps:
    """Repeats a step of an attack as a CUDA graph, where the passes of its source wait for launches.

    Batches of all sizes up to the next power of two share a graph: they are padded. Where the source has no graphs, as on a
    CPU, the step runs as usual. So it does where it cannot be recorded, and a warning says so.

    Args:
        source: Computes the gradients of the step.
        step: Maps a state and numbers ``(P,)`` to what changes in the state. It may also change tensors of the state in place.
            All numbers that change from step to step must be in these two. It must not wait for the GPU.
    """

    def __init__(self, source: GradientSource, step: Step) -> None:
        self._source, self._step = source, step
        self._graphs: dict[int, _Graph | None] = {}

    def __call__(self, state: State, numbers: Tensor) -> State:
        """The next state.

        Args:
            state: The state.
            numbers: ``(P,)``, on the device of the state.

        Returns:
            The state. The next step may write over its tensors, see :meth:`kept`.
        """
        rows: Tensor = next(iter(state.values()))
        graph = self._graph_of(state, numbers, len(rows)) if rows.is_cuda and len(rows) else None
        if graph is None:
            return state | self._step(state, numbers)
        state = graph(state, numbers)
        self._source.count_replay(graph.queries, graph.labels)
        return state

    def kept(self, tensor: Tensor) -> Tensor:
        """The same values in a tensor over which no later step writes.

        Args:
            tensor: One of a state.
        """
        return tensor.clone() if any(graph and graph.owns(tensor) for graph in self._graphs.values()) else tensor

    def _graph_of(self, state: State, numbers: Tensor, count: int) -> _Graph | None:
        """The graph for a number of images; ``None`` where there is none."""
        passes = self._source.graphs
        if passes is None or not passes.repays_recording(count):
            # The graphs of the passes are dropped where memory runs out, and those of the steps with them.
            self._graphs.clear()
            return None
        rows = graphed_rows(count)
        if rows not in self._graphs:
            self._graphs[rows] = self._recorded(state, numbers, rows)
        return self._graphs[rows]

    def _recorded(self, state: State, numbers: Tensor, rows: int) -> _Graph | None:
        try:
            with forbidden_synchronizations():
                return _Graph(self._source, self._step, state, numbers, rows)
        except Exception as error:  # noqa: BLE001 - a user's model may turn the error into one of its own
            if not is_out_of_memory(error):
                _logger.warning(
                    "a step of the attack cannot be recorded as a CUDA graph, so its operations are launched one by one, "
                    "which is slower for small networks: %s",
                    one_line(error),
                )
            return None


class _Graph:
    """A recorded step on tensors at fixed addresses.

    Args:
        source: Computes the gradients.
        step: The step.
        state: The first state, of at most ``rows`` images.
        numbers: ``(P,)``.
        rows: The number of rows of the recording.

    Attributes:
        queries: The gradients of the step.
        labels: The labels of each of them in the last call.

    Raises:
        RuntimeError: The step synchronizes, or has too little memory.
    """

    def __init__(self, source: GradientSource, step: Step, state: State, numbers: Tensor, rows: int) -> None:
        self._buffers = {name: padded(values, rows) for name, values in state.items()}
        self._numbers = numbers.clone()
        self._views: dict[str, Tensor] = {}
        self._graph = torch.cuda.CUDAGraph()
        with torch.no_grad(), stream_of_recordings(), source.recording() as queries:
            step({name: buffer.clone() for name, buffer in self._buffers.items()}, numbers)
            queries.clear()
            torch.cuda.synchronize(numbers.device)
            with recording(self._graph):
                for name, values in step(self._buffers, self._numbers).items():
                    self._buffers[name].copy_(values)
        self.queries: list[RecordedQuery] = [*queries]
        self.labels: list[Tensor] = []

    def owns(self, tensor: Tensor) -> bool:
        """Whether a tensor is one of the state that the last call returned."""
        return any(tensor is view for view in self._views.values())

    @torch.no_grad()
    def __call__(self, state: State, numbers: Tensor) -> State:
        """The next state of at most as many images as were recorded."""
        count = len(next(iter(state.values())))
        # The buffers still hold what the last call returned.
        changed = {name: values for name, values in state.items() if values is not self._views.get(name)}
        for name, values in changed.items():
            self._buffers[name][:count].copy_(values)
        self._numbers.copy_(numbers)
        self._graph.replay()
        if changed:
            self._views = {name: buffer[:count] for name, buffer in self._buffers.items()}
            # Whoever received those of the last call may still use them.
            self.labels = [query.labels[:count].clone() for query in self.queries]
        return dict(self._views)

"""Splits a model into consecutive blocks, without a change to its code.

A cut is possible where a single tensor is live: all later operations depend on the image through this tensor alone.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from robustbench_cli.attacks.base.models.freezing import frozen
from robustbench_cli.core.errors import Notice, UserError, did_you_mean, one_line
from robustbench_cli.defenses.base.stochastic import StochasticLayer

__all__ = ["CutPoint", "narrowest", "split"]


@dataclass(frozen=True)
class CutPoint:
    """A point where a model can be cut: a single tensor is live, with one row for each image.

    Attributes:
        name: The module whose output is cut, by its name in ``named_modules``. Where no module produces the tensor, this is
            the name of the operation in ``torch.fx`` ("flatten", "relu_1").
        width: The number of elements of the tensor in one row.
        layers: The number of layers with weights before the cut.
    """

    name: str
    width: int
    layers: int


def narrowest(points: Sequence[CutPoint], blocks: int, *, layers: int) -> list[CutPoint]:
    """Greedily selects the narrowest ``blocks - 1`` points. Ties go to the earliest.

    Each block has at least two layers with weights if the model has enough of them, and at least one otherwise.

    Args:
        points: The points where the model can be cut, in the order of its forward pass.
        blocks: The number of blocks.
        layers: The number of layers with weights in the model.

    Raises:
        UserError: There are fewer points than cuts.
    """
    if blocks - 1 > len(points):
        raise UserError(
            f"{blocks} blocks need {blocks - 1} cut points and the model has {len(points)}"
            f"{': ' + ', '.join(point.name for point in points) if points else ''}; give at most {len(points) + 1} blocks"
        )
    least = 2 if _most_cuts([], points, layers, least=2) >= blocks - 1 else 1
    chosen: list[CutPoint] = []
    while len(chosen) < blocks - 1:
        fitting = [point for point in points if _most_cuts([*chosen, point], points, layers, least=least) >= blocks - 1]
        chosen.append(min(fitting, key=lambda point: point.width))
    return sorted(chosen, key=lambda point: point.layers)


def _most_cuts(chosen: Iterable[CutPoint], points: Sequence[CutPoint], layers: int, *, least: int) -> int:
    """The largest number of cuts that includes ``chosen`` and leaves ``least`` layers in each block; -1 if impossible."""
    bounds = [0, *sorted(point.layers for point in chosen), layers]
    if any(end - start < least for start, end in pairwise(bounds)):
        return -1
    count = len(bounds) - 2
    for start, end in pairwise(bounds):
        last = start
        for point in points:
            if last + least <= point.layers <= end - least:
                count, last = count + 1, point.layers
    return count


def split(model: nn.Module, example: Tensor, *, at: Sequence[str] | int) -> list[nn.Module]:
    """Splits a model into blocks. Run one after the other, they compute exactly what the model computes.

    The blocks share the model's parameters. They follow their own ``training`` flag as the model does, in
    ``functional.dropout`` too. If the flag changes which operations the model runs, the blocks always run those of
    ``eval()`` mode, and a :class:`~robustbench_cli.core.errors.Notice` says so.

    Args:
        model: Its forward pass must be traceable by ``torch.fx``. Submodules that are not traceable stay whole.
        example: Images ``(N, C, H, W)`` in [0, 1]; one is enough.
        at: The modules after which to cut, or the number of blocks (see :func:`narrowest`).

    Raises:
        UserError: The forward pass cannot be traced, a name is unknown, several tensors are live at a named point, a block
            has no layer with weights, or there are fewer cut points than cuts.
    """
    trace = _Trace(model, example)
    if isinstance(at, int):
        at = [point.name for point in narrowest(trace.points(), at, layers=trace.layers)]
    return trace.blocks(sorted(trace.cut_index(name) for name in at))


class _Tracer(fx.Tracer):
    """Records the output nodes of each module. Submodules that draw or cannot be traced stay whole."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs: dict[str, list[Any]] = {}
        self.untraceable: dict[str, str] = {}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        # A trace would fix whether the layer draws.
        return isinstance(m, StochasticLayer) or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        name = self.path_of_module(m)
        outputs, stack, last = {**self.outputs}, self.module_stack.copy(), next(iter(reversed(self.graph.nodes)))
        try:
            output = super().call_module(m, forward, args, kwargs)
        except Exception as error:  # noqa: BLE001 - the module's own code may raise anything
            self.untraceable[name] = one_line(error)
            self.outputs, self.module_stack = outputs, stack
            for node in reversed(self.graph.nodes):
                if node is last:
                    break
                self.graph.erase_node(node)
            output = self.create_proxy("call_module", name, args, kwargs)
        node = output.node if isinstance(output, fx.Proxy) else None
        self.outputs[name] = [*self.outputs.get(name, []), node]
        return output


class _Trace:
    """The operations of a model's forward pass, in order, with the live tensors after each."""

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        self.model = model
        graph, tracer = _trace(model)
        self.outputs, self.untraceable = tracer.outputs, tracer.untraceable
        self.source = next(node for node in graph.nodes if node.op == "placeholder")
        self.result = next(node for node in graph.nodes if node.op == "output").args[0]
        if not isinstance(self.result, fx.Node):
            raise UserError(f"{type(model).__name__} cannot be split: its output is not one tensor of logits")
        self.nodes = [node for node in graph.nodes if node.op not in ("placeholder", "output")]
        self.index = {node: index for index, node in enumerate(self.nodes)}
        parameters = dict(model.named_parameters())
        self.layers_before = [0]
        for node in self.nodes:
            self.layers_before.append(self.layers_before[-1] + _has_weights(node, model, parameters))
        self.layers = self.layers_before[-1]
        self.width = self._widths(example)
        self.live: list[set[fx.Node]] = [set() for _ in self.nodes]
        for node in (self.source, *self.nodes):
            # Each block reads the attributes it needs by itself, so they cross no cut.
            if node.op != "get_attr":
                last = max((self.index.get(user, len(self.nodes)) for user in node.users), default=-1)
                for between in range(self.index.get(node, 0), min(last, len(self.nodes))):
                    self.live[between].add(node)

    def _widths(self, example: Tensor) -> dict[fx.Node, int]:
        """The number of elements in a row, for each node whose tensor has one row for each image."""
        # Three images, because a leading dimension of 1 or 2 may have another meaning.
        images = torch.cat([example[:1]] * 3)
        (whole,) = self.blocks([])
        assert isinstance(whole, fx.GraphModule)
        with frozen(self.model), torch.no_grad():
            ShapeProp(whole.eval()).propagate(images)
        shapes = [getattr(node.meta.get("tensor_meta"), "shape", None) for node in whole.graph.nodes][1:-1]
        return {
            node: shape.numel() // 3
            for node, shape in zip(self.nodes, shapes, strict=True)
            if isinstance(shape, torch.Size) and shape and shape[0] == 3
        }

    def _is_cut_point(self, node: fx.Node) -> bool:
        index = self.index[node]
        return self.live[index] == {node} and node in self.width and 0 < self.layers_before[index + 1] < self.layers

    def _names(self) -> dict[str, fx.Node]:
        """The names that identify one node of the forward pass, outer modules before inner ones."""
        once = {name: nodes[0] for name, nodes in self.outputs.items() if len(nodes) == 1 and nodes[0] in self.index}
        modules = {name: once[name] for name, _ in self.model.named_modules() if name in once}
        taken = dict(self.model.named_modules()).keys()
        return modules | {node.name: node for node in self.nodes if node.name not in taken}

    def points(self) -> list[CutPoint]:
        """The points where the model can be cut, in the order of its forward pass, at most one between two layers.

        Each point is just before the next layer with weights, so activation, pooling and dropout belong to the block
        before. A layer with weights has a parameter with two or more dimensions. Normalization layers have none.
        """
        names: dict[fx.Node, str] = {}
        for name, node in self._names().items():
            names.setdefault(node, name)
        last: dict[int, CutPoint] = {}
        for index, node in enumerate(self.nodes):
            if self._is_cut_point(node) and node in names:
                layers = self.layers_before[index + 1]
                last[layers] = CutPoint(names[node], self.width[node], layers)
        return list(last.values())

    def cut_index(self, name: str) -> int:
        """The index of the operation after which the cut ``name`` lies."""
        names = self._names()
        if name not in names:
            if len(self.outputs.get(name, [])) > 1:
                raise UserError(f"no cut after '{name}': it runs {len(self.outputs[name])} times; {self._near(name)}")
            for whole, reason in self.untraceable.items():
                if name.startswith(f"{whole}."):
                    raise UserError(f"no cut after '{name}': '{whole}' stays whole, it cannot be traced ({reason})")
            modules = [module for module in names if module in self.outputs]
            raise UserError(
                f"no cut after '{name}': the forward pass has no such module, {did_you_mean(name, modules)}"
            )
        node = names[name]
        index = self.index[node]
        if self._is_cut_point(node):
            return index
        if not 0 < self.layers_before[index + 1] < self.layers:
            side = "before" if self.layers_before[index + 1] == 0 else "after"
            raise UserError(f"a cut after '{name}' leaves no layer with weights {side} it; {self._near(name)}")
        live = sorted(str(tensor) for tensor in self.live[index] if tensor is not node)
        reason = (
            f"{', '.join(live)} is needed later too" if live else "its output is not one tensor with a row per image"
        )
        raise UserError(f"no cut after '{name}': {reason}; {self._near(name)}")

    def _near(self, name: str) -> str:
        """A message with the nearest cut points around the last run of ``name``."""
        names, points = self._names(), self.points()
        at = self.index.get(names[name] if name in names else self.outputs[name][-1], len(self.nodes))
        before = [point.name for point in points if self.index[names[point.name]] < at][-1:]
        after = [point.name for point in points if self.index[names[point.name]] > at][:1]
        nearest = " or ".join(f"'{point}'" for point in before + after)
        return f"the nearest possible cut is after {nearest}" if nearest else "the model has no cut point"

    def blocks(self, cuts: Sequence[int]) -> list[nn.Module]:
        """The blocks between cuts after the operations with these indices."""
        for start, end in pairwise(cuts):
            if self.layers_before[start + 1] == self.layers_before[end + 1]:
                first, second = (self.nodes[cut].name for cut in (start, end))
                raise UserError(f"the block between {first} and {second} has no layer with weights: leave one out")
        bounds = [-1, *cuts, len(self.nodes) - 1]
        return [self._block(start + 1, end + 1) for start, end in pairwise(bounds)]

    def _block(self, start: int, end: int) -> fx.GraphModule:
        """The operations from ``start`` to ``end - 1`` as a module."""
        graph = fx.Graph()
        copies = {self.nodes[start - 1] if start else self.source: graph.placeholder("rows")}

        def copy(node: fx.Node) -> fx.Node:
            if node not in copies:
                copies[node] = graph.node_copy(node, copy)
            return copies[node]

        for node in self.nodes[start:end]:
            copy(node)
        graph.output(copies[self.result if end == len(self.nodes) else self.nodes[end - 1]])
        return fx.GraphModule(self.model, graph)


def _has_weights(node: fx.Node, model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> bool:
    """Whether an operation is a layer with weights: a module with a matrix, or a function that reads one."""
    if node.op == "call_module":
        return any(parameter.dim() > 1 for parameter in model.get_submodule(str(node.target)).parameters())
    weights = [parameters.get(str(source.target)) for source in node.all_input_nodes if source.op == "get_attr"]
    # Class tokens, position embeddings and scales are no layers: their first dimension, or all others, have length 1.
    return any(weight is not None and weight.dim() > 1 and 1 < len(weight) < weight.numel() for weight in weights)


def _trace(model: nn.Module) -> tuple[fx.Graph, _Tracer]:
    """The graph of the forward pass in ``eval()`` mode that follows ``training`` flags, and its tracer."""
    defaults = {
        name: parameter.default
        for name, parameter in list(inspect.signature(model.forward).parameters.items())[1:]
        if parameter.default is not inspect.Parameter.empty
    }
    with frozen(model):
        tracer = _Tracer()
        try:
            graph = tracer.trace(model, concrete_args=defaults)
        except Exception as error:
            reason = str(error).partition("\n")[0]
            raise UserError(
                f"{type(model).__name__} cannot be split, its forward pass cannot be traced ({reason}): "
                "give a model whose own forward does not branch on values, or an nn.Sequential of its blocks"
            ) from error
        model.train()
        try:
            follows = _follow_training_flag(graph, _Tracer().trace(model, concrete_args=defaults))
            reason = "its forward pass runs other operations in train() mode"
        except Exception as error:  # noqa: BLE001 - the model's own code may raise anything
            follows, reason = False, f"its forward pass cannot be traced in train() mode: {one_line(error)}"
    if not follows:
        warnings.warn(
            f"the blocks of {type(model).__name__} run the operations of eval() mode in training too ({reason})",
            Notice,
            stacklevel=2,
        )
    for extra in [node for node in graph.nodes if node.op == "placeholder"][1:]:
        # An argument with a default leaves only a check of its value.
        for user in list(extra.users):
            for last in [*user.users, user]:
                graph.erase_node(last)
        graph.erase_node(extra)
    return graph, tracer


def _follow_training_flag(graph: fx.Graph, train_graph: fx.Graph) -> bool:
    """Replaces constants that come from the ``training`` flag by the flag itself.

    Args:
        graph: The operations in ``eval()`` mode. It is changed.
        train_graph: The operations in ``train()`` mode.

    Returns:
        Whether both have the same operations. Otherwise nothing is changed.
    """
    nodes, train_nodes = list(graph.nodes), list(train_graph.nodes)
    if [(node.op, node.target) for node in nodes] != [(node.op, node.target) for node in train_nodes]:
        return False
    for node, other in zip(nodes, train_nodes, strict=True):
        for position, value in enumerate(node.args):
            if value is False and other.args[position] is True:
                with graph.inserting_before(node):
                    node.update_arg(position, graph.get_attr("training"))
        for key, value in node.kwargs.items():
            if value is False and other.kwargs[key] is True:
                with graph.inserting_before(node):
                    node.update_kwarg(key, graph.get_attr("training"))
    return True

"""Splits a model into consecutive blocks at points where one tensor is alive, without a change to the model's code."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from robustbench_cli.attacks.base.models.freezing import frozen
from robustbench_cli.core.errors import UserError, did_you_mean
from robustbench_cli.defenses.base.stochastic import StochasticLayer

__all__ = ["CutPoint", "cut_points", "narrowest", "split"]


@dataclass(frozen=True)
class CutPoint:
    """A place where a model can be cut: one tensor is alive there, with one row for each image.

    Attributes:
        name: The module after whose output the cut lies, as ``named_modules`` names it; where the tensor comes from no
            module, ``torch.fx``'s name of the operation ("flatten", "relu_1").
        width: Elements of the tensor in one row.
        layers: How many layers with weights stand before it.
    """

    name: str
    width: int
    layers: int


def cut_points(model: nn.Module, example: Tensor) -> list[CutPoint]:
    """The places where ``model`` can be cut, in the order of its forward pass, at most one between two layers.

    Each stands just before the next layer with weights, so that activation, pooling and dropout stay with the block
    before. A layer with weights is one with a parameter of two dimensions or more; norms have none.

    Args:
        model: Its forward pass must be traceable by ``torch.fx``; submodules that are not stay whole.
        example: Images ``(N, C, H, W)`` in [0, 1]; one is enough.

    Raises:
        UserError: The forward pass cannot be traced.
    """
    return _Trace(model, example).points()


def narrowest(points: Sequence[CutPoint], blocks: int, *, layers: int) -> list[CutPoint]:
    """Chooses the narrowest ``blocks - 1`` points, one after another, ties to the earliest.

    Each block keeps at least two layers with weights where the model has enough of them, and one otherwise.

    Args:
        points: As :func:`cut_points` gives them.
        blocks: How many blocks are wanted.
        layers: How many layers with weights the model has.

    Raises:
        UserError: There are fewer points than cuts.
    """
    if blocks - 1 > len(points):
        raise UserError(
            f"{blocks} blocks need {blocks - 1} places for a cut and the model has {len(points)}"
            f"{': ' + ', '.join(point.name for point in points) if points else ''}; ask for at most {len(points) + 1}"
        )
    least = 2 if _most_cuts([], points, layers, least=2) >= blocks - 1 else 1
    chosen: list[CutPoint] = []
    while len(chosen) < blocks - 1:
        fitting = [point for point in points if _most_cuts([*chosen, point], points, layers, least=least) >= blocks - 1]
        chosen.append(min(fitting, key=lambda point: point.width))
    return sorted(chosen, key=lambda point: point.layers)


def _most_cuts(chosen: Iterable[CutPoint], points: Sequence[CutPoint], layers: int, *, least: int) -> int:
    """The most cuts that include those chosen and leave each block ``least`` layers; -1 where those chosen do not."""
    places = [0, *sorted(point.layers for point in chosen), layers]
    if any(end - start < least for start, end in pairwise(places)):
        return -1
    count = len(places) - 2
    for start, end in pairwise(places):
        last = start
        for point in points:
            if last + least <= point.layers <= end - least:
                count, last = count + 1, point.layers
    return count


def split(model: nn.Module, example: Tensor, *, at: Sequence[str] | int) -> list[nn.Module]:
    """Splits ``model`` into blocks that give, one after the other, bit for bit what the whole gives.

    The blocks share the model's parameters and follow its ``training`` flag as it does, in ``functional.dropout`` too;
    a branch on that flag which changes the operations themselves stays as in ``eval()``.

    Args:
        model: Its forward pass must be traceable by ``torch.fx``; submodules that are not stay whole.
        example: Images ``(N, C, H, W)`` in [0, 1]; one is enough.
        at: The modules after whose output to cut, or the number of blocks (see :func:`narrowest`).

    Raises:
        UserError: The forward pass cannot be traced, a name is unknown, at a named place more than one tensor is alive,
            a block would have no layer with weights, or there are fewer places than cuts.
    """
    trace = _Trace(model, example)
    if isinstance(at, int):
        at = [point.name for point in narrowest(trace.points(), at, layers=trace.layers)]
    return trace.blocks(sorted(trace.place(name) for name in at))


class _Tracer(fx.Tracer):
    """Records which node each module's output is, and keeps a submodule whole that cannot be traced, or draws."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs: dict[str, list[Any]] = {}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        # A trace would hold on to whether it draws now.
        return isinstance(m, StochasticLayer) or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        name = self.path_of_module(m)
        outputs, stack, last = {**self.outputs}, self.module_stack.copy(), next(iter(reversed(self.graph.nodes)))
        try:
            output = super().call_module(m, forward, args, kwargs)
        except Exception:  # noqa: BLE001, it is the module's own code that fails, in any way
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
    """The operations of a model's forward pass, in order, with what is alive after each."""

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        self.model = model
        graph, self.outputs = _trace(model)
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
        self.alive: list[set[fx.Node]] = [set() for _ in self.nodes]
        for node in (self.source, *self.nodes):
            # Attributes are read again by each block that needs them, so they cross no cut.
            if node.op != "get_attr":
                last = max((self.index.get(user, len(self.nodes)) for user in node.users), default=-1)
                for between in range(self.index.get(node, 0), min(last, len(self.nodes))):
                    self.alive[between].add(node)

    def _widths(self, example: Tensor) -> dict[fx.Node, int]:
        """Elements in a row of each tensor that has one row for each image, by node."""
        # Three rows, so that a leading dimension of one is not taken for the images'.
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

    def _is_place(self, node: fx.Node) -> bool:
        index = self.index[node]
        return self.alive[index] == {node} and node in self.width and 0 < self.layers_before[index + 1] < self.layers

    def _names(self) -> dict[str, fx.Node]:
        """Every name that means one place of the forward pass, outer modules before those in them."""
        once = {name: nodes[0] for name, nodes in self.outputs.items() if len(nodes) == 1 and nodes[0] in self.index}
        modules = {name: once[name] for name, _ in self.model.named_modules() if name in once}
        taken = dict(self.model.named_modules()).keys()
        return modules | {node.name: node for node in self.nodes if node.name not in taken}

    def points(self) -> list[CutPoint]:
        names: dict[fx.Node, str] = {}
        for name, node in self._names().items():
            names.setdefault(node, name)
        last: dict[int, CutPoint] = {}
        for index, node in enumerate(self.nodes):
            if self._is_place(node) and node in names:
                layers = self.layers_before[index + 1]
                last[layers] = CutPoint(names[node], self.width[node], layers)
        return list(last.values())

    def place(self, name: str) -> int:
        """The index of the operation after which the cut called ``name`` lies."""
        names = self._names()
        if name not in names:
            if len(self.outputs.get(name, [])) > 1:
                raise UserError(f"no cut after '{name}': it runs {len(self.outputs[name])} times; {self._near(name)}")
            known = [known for known in names if known in self.outputs]
            raise UserError(f"no cut after '{name}': the forward pass has no such module, {did_you_mean(name, known)}")
        node = names[name]
        index = self.index[node]
        if self._is_place(node):
            return index
        if not 0 < self.layers_before[index + 1] < self.layers:
            side = "before" if self.layers_before[index + 1] == 0 else "after"
            raise UserError(f"a cut after '{name}' leaves no layer with weights {side} it; {self._near(name)}")
        others = sorted(str(other) for other in self.alive[index] if other is not node)
        reason = f"{', '.join(others)} is needed later too" if others else "it is not one tensor with a row an image"
        raise UserError(f"no cut after '{name}': {reason}; {self._near(name)}")

    def _near(self, name: str) -> str:
        """The nearest good places around the last run of ``name``, in words."""
        names, points = self._names(), self.points()
        at = self.index.get(names[name] if name in names else self.outputs[name][-1], len(self.nodes))
        before = [point.name for point in points if self.index[names[point.name]] < at][-1:]
        after = [point.name for point in points if self.index[names[point.name]] > at][:1]
        near = " or ".join(f"'{place}'" for place in before + after)
        return f"the nearest good place is after {near}" if near else "the model has no good place"

    def blocks(self, places: Sequence[int]) -> list[nn.Module]:
        for start, end in pairwise(places):
            if self.layers_before[start + 1] == self.layers_before[end + 1]:
                first, second = (self.nodes[place].name for place in (start, end))
                raise UserError(f"the block between {first} and {second} has no layer with weights: leave one out")
        bounds = [-1, *places, len(self.nodes) - 1]
        return [self._block(start + 1, end + 1) for start, end in pairwise(bounds)]

    def _block(self, start: int, end: int) -> fx.GraphModule:
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
    """Whether the operation is a layer with weights: a module with a matrix, or a function that reads one."""
    if node.op == "call_module":
        return any(parameter.dim() > 1 for parameter in model.get_submodule(str(node.target)).parameters())
    read = [parameters.get(str(other.target)) for other in node.all_input_nodes if other.op == "get_attr"]
    # A class token, a position's embedding or a scale is broadcast: its first dimension or all others are one long.
    return any(weight is not None and weight.dim() > 1 and 1 < len(weight) < weight.numel() for weight in read)


def _trace(model: nn.Module) -> tuple[fx.Graph, dict[str, list[Any]]]:
    """The graph of the forward pass in ``eval()``, with its ``training`` flags, and each module's output nodes."""
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
        with suppress(Exception):
            _follow_training_flag(graph, _Tracer().trace(model, concrete_args=defaults))
    for extra in [node for node in graph.nodes if node.op == "placeholder"][1:]:
        # What is left of an argument with a default is a check of its value.
        for user in list(extra.users):
            for last in [*user.users, user]:
                graph.erase_node(last)
        graph.erase_node(extra)
    return graph, tracer.outputs


def _follow_training_flag(graph: fx.Graph, in_training: fx.Graph) -> None:
    """Where a function was given ``training`` as a value, gives it the module's flag instead."""
    nodes, others = list(graph.nodes), list(in_training.nodes)
    if [(node.op, node.target) for node in nodes] != [(other.op, other.target) for other in others]:
        return
    for node, other in zip(nodes, others, strict=True):
        for position, value in enumerate(node.args):
            if value is False and other.args[position] is True:
                with graph.inserting_before(node):
                    node.update_arg(position, graph.get_attr("training"))
        for key, value in node.kwargs.items():
            if value is False and other.kwargs[key] is True:
                with graph.inserting_before(node):
                    node.update_kwarg(key, graph.get_attr("training"))

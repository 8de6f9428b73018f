"""Traces a model into operations that linear bounds can be carried through."""

from __future__ import annotations

import copy
import inspect
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional

from robustbench_cli.attacks.base.models.freezing import frozen
from robustbench_cli.attacks.base.models.passes import BatchSize, logits_of
from robustbench_cli.benchmarks.certification.bounds.activations import Curved, MaxPool, Rectifier, curve_of
from robustbench_cli.benchmarks.certification.bounds.operations import (
    Add,
    Affine,
    Box,
    Operation,
    Reshape,
    Scale,
    Shape,
    symmetric_padding,
)
from robustbench_cli.core.errors import UserError, one_line
from robustbench_cli.defenses.base.stochastic import StochasticLayer

__all__ = ["Network"]

_ROWS = 3
"""Images in the trial pass: a leading dimension of 1 or 2 may have another meaning."""

_FUNCTIONS: dict[Any, type[nn.Module]] = {
    functional.relu: nn.ReLU,
    torch.relu: nn.ReLU,
    functional.leaky_relu: nn.LeakyReLU,
    functional.gelu: nn.GELU,
    functional.silu: nn.SiLU,
    torch.sigmoid: nn.Sigmoid,
    torch.tanh: nn.Tanh,
    functional.max_pool2d: nn.MaxPool2d,
    functional.avg_pool2d: nn.AvgPool2d,
    functional.adaptive_avg_pool2d: nn.AdaptiveAvgPool2d,
}
"""The layer that does the same as a function; its parameters are the function's after the first."""

_METHODS = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "contiguous": nn.Identity}

_SUMS: dict[Any, int] = {
    operator.add: 1,
    operator.iadd: 1,
    torch.add: 1,
    operator.sub: -1,
    operator.isub: -1,
    torch.sub: -1,
}
_PRODUCTS: dict[Any, int] = {operator.mul: 1, torch.mul: 1, operator.truediv: -1, torch.div: -1}


class Network:
    """A model as a list of operations.

    Args:
        model: Its forward pass must be traceable by ``torch.fx``, and its operations must be among those of
            :mod:`.operations` and :mod:`.activations`. It stays unchanged.
        images: ``(N, C, H, W)`` in [0, 1], N >= 1. The model's logits for some of them are compared with those of the operations.

    Attributes:
        operations: In the order of the forward pass. Number 0 is the image, ``None``.
        shapes: The shape of the values of each.

    Raises:
        UserError: A layer cannot be bounded; the message names it.
    """

    def __init__(self, model: nn.Module, images: Tensor) -> None:
        self.operations: list[Operation | None] = [None]
        self.shapes: list[Shape] = [_shape(images)]
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        with frozen(model), torch.no_grad():
            images = images[:_ROWS].to(device)
            _Reader(self, model, images)
            self._require_same_logits(model, images)

    def _require_same_logits(self, model: nn.Module, images: Tensor) -> None:
        """Checks that the operations compute the model's logits.

        Raises:
            UserError: They do not, since the model computes something that the trace does not show.
        """
        computed = self.logits(images.double())
        # In double precision, so that a deep network's rounding hides nothing.
        logits = logits_of(copy.deepcopy(model).double(), images.double(), BatchSize())
        if not ((logits - computed).abs() <= 1e-6 * (1 + computed.abs().amax(1, keepdim=True))).all():
            raise _unbounded("its logits are not those of the operations that torch.fx traces")

    def logits(self, images: Tensor) -> Tensor:
        """The logits ``(N, K)`` by the operations.

        Args:
            images: ``(N, C, H, W)`` in double precision.
        """
        values = [images]
        for operation in self.operations[1:]:
            assert operation is not None
            inputs = (values[number] for number in operation.inputs)
            box = operation.box(*(Box(each, each) for each in inputs))
            # The middle is free of the errors of single precision, which the ends include.
            values.append((box.low + box.high) / 2)
        return values[-1].flatten(1)

    @property
    def classes(self) -> int:
        """K."""
        return self.shapes[-1][0]


def _unbounded(reason: str) -> UserError:
    return UserError(f"the model's logits cannot be bounded by linear relaxation: {reason}")


def _shape(values: Tensor) -> Shape:
    if values.dim() == 2:
        return values.shape[1], 1, 1
    return values.shape[1], values.shape[2], values.shape[3]


class _Tracer(fx.Tracer):
    """Remembers the innermost module that cannot be traced."""

    untraceable: str | None = None

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            self.untraceable = self.untraceable or f"its layer {self.path_of_module(m)} is a {type(m).__name__}"
            raise


class _Reader:
    """Appends the operations of a model to a network."""

    def __init__(self, network: Network, model: nn.Module, images: Tensor) -> None:
        for name, module in model.named_modules():
            if module._forward_pre_hooks or module._forward_hooks:  # noqa: SLF001
                raise _unbounded(f"{f'its layer {name}' if name else 'it'} has hooks, which may change its output")
            if isinstance(module, StochasticLayer):
                raise _unbounded(
                    f"{f'its layer {name}' if name else 'it'} is a {type(module).__name__}, which draws at random"
                )
        self.network, self.model = network, model
        self.device = images.device
        self.numbers: dict[fx.Node, int] = {}
        self.graph = _traced(model)
        rows = torch.cat([images[:1]] * _ROWS)
        try:
            ShapeProp(self.graph).propagate(rows)
        except Exception as error:
            raise _unbounded(f"its traced forward pass fails ({one_line(error)})") from error
        for node in self.graph.graph.nodes:
            self._read(node)

    def _read(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            self.numbers[node] = 0
        elif node.op == "output":
            self._require_logits(node.args[0])
        elif node.op != "get_attr" and any(source in self.numbers for source in node.all_input_nodes):
            shape = getattr(node.meta.get("tensor_meta"), "shape", None)
            # Sizes, from which a later view takes its shape, are no values.
            if isinstance(shape, torch.Size):
                self._add(node, self._value_shape(node, shape))

    def _require_logits(self, result: Any) -> None:
        last = self.numbers.get(result) if isinstance(result, fx.Node) else None
        if last is None or len(result.meta["tensor_meta"].shape) != 2:
            raise _unbounded("its output is not one row of logits per image")
        if last != len(self.network.operations) - 1:
            raise _unbounded("it computes values after its logits")

    def _value_shape(self, node: fx.Node, shape: torch.Size) -> Shape:
        if len(shape) not in {2, 4} or shape[0] != _ROWS:
            raise self._refused(node, f"with values of shape {tuple(shape)}")
        return (shape[1], 1, 1) if len(shape) == 2 else (shape[1], shape[2], shape[3])

    def _refused(self, node: fx.Node, reason: str | None = None) -> UserError:
        """The error of a node; it names the innermost module that the node is in."""
        inside = [str(name) for name in node.meta.get("nn_module_stack", {}) if name]
        name = str(node.target) if node.op == "call_module" else (inside[-1] if inside else "")
        if reason is None and node.op != "call_module":
            reason = f"with the operation {node.target if isinstance(node.target, str) else node.target.__name__}"
        return _unbounded(
            f"{f'its layer {name}' if name else 'it'} is a {type(self.model.get_submodule(name)).__name__}"
            f"{f' {reason}' if reason else ''}; give a network of fully connected layers, convolutions, batch norm, ReLU, "
            "GELU or SiLU, pooling and sums"
        )

    def _append(self, operation: Operation) -> int:
        self.network.operations.append(operation)
        self.network.shapes.append(operation.shape)
        return len(self.network.operations) - 1

    def _add(self, node: fx.Node, shape: Shape) -> None:
        layer = self._layer(node)
        sources = [source for source in node.all_input_nodes if source in self.numbers]
        before = self.network.shapes[self.numbers[sources[0]]]
        inputs = [
            self.numbers[source] for source in node.args if isinstance(source, fx.Node) and source in self.numbers
        ]
        if layer is not None:
            self.numbers[node] = self._of_layer(node, layer, inputs, shape)
        elif node.target in _SUMS and not node.kwargs and len(inputs) == 2:
            if any(self.network.shapes[number] != shape for number in inputs):
                raise self._refused(node, "that adds values of different shapes")
            self.numbers[node] = self._append(Add(inputs, shape, _SUMS[node.target]))
        elif node.target in {*_SUMS, *_PRODUCTS} and not node.kwargs and len(inputs) == 1:
            self.numbers[node] = self._append(self._with_constant(node, inputs, shape))
        elif _is_mean_of_plane(node):
            pool = self._of_layer(node, nn.AdaptiveAvgPool2d(1), inputs, (before[0], 1, 1))
            self.numbers[node] = pool
        elif _reshapes(node) and before[0] * before[1] * before[2] == shape[0] and shape[1:] == (1, 1):
            self.numbers[node] = inputs[0] if before == shape else self._append(Reshape(inputs, shape, before))
        else:
            raise self._refused(node)

    def _layer(self, node: fx.Node) -> nn.Module | None:
        """The layer that a node is, or that does the same as its function; ``None`` where there is none."""
        if node.op == "call_module":
            return self.model.get_submodule(str(node.target))
        if node.op == "call_method":
            kind = _METHODS.get(str(node.target))
            return None if kind is None else kind()
        if node.target is functional.dropout and node.kwargs.get("training") is False:
            return nn.Identity()
        make = _FUNCTIONS.get(node.target)
        if make is None or any(isinstance(value, fx.Node) for value in (*node.args[1:], *node.kwargs.values())):
            return None
        return make(*node.args[1:], **node.kwargs)

    def _of_layer(self, node: fx.Node, layer: nn.Module, inputs: Sequence[int], shape: Shape) -> int:
        before = self.network.shapes[inputs[0]]
        if type(layer) in {nn.Identity, nn.Dropout, nn.Dropout2d} or (type(layer) is nn.Flatten and before == shape):
            return inputs[0]
        operation = self._operation(layer, inputs, shape, before)
        if operation is None:
            raise self._refused(node)
        return self._append(operation)

    def _operation(self, layer: nn.Module, inputs: Sequence[int], shape: Shape, before: Shape) -> Operation | None:
        """The operation of a layer; ``None`` where there is none."""
        plane = before[1:]
        curve = curve_of(layer)
        if curve is not None:
            return Curved(inputs, shape, curve)
        if type(layer) is nn.ReLU:
            return Rectifier(inputs, shape, 0.0)
        if type(layer) is nn.LeakyReLU and 0 <= layer.negative_slope <= 1:
            return Rectifier(inputs, shape, layer.negative_slope)
        if type(layer) is nn.Flatten and (layer.start_dim, layer.end_dim) in {(1, -1), (1, 3)}:
            return Reshape(inputs, shape, before)
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) and layer.running_mean is not None:
            return _batch_norm(inputs, shape, layer)
        if isinstance(layer, nn.Linear) and type(layer).forward is nn.Linear.forward:
            return Affine(inputs, shape, layer, plane) if plane == (1, 1) else None
        if isinstance(layer, nn.Conv2d) and type(layer).forward is nn.Conv2d.forward:
            return Affine(inputs, shape, layer, plane) if _is_plain(layer) else None
        return self._pool(layer, inputs, shape, before)

    def _pool(self, layer: nn.Module, inputs: Sequence[int], shape: Shape, before: Shape) -> Operation | None:
        """The operation of a pooling layer; ``None`` where there is none."""
        channels, *plane = before
        even = all(size % outputs == 0 for size, outputs in zip(plane, shape[1:], strict=True))
        kernel = (plane[0] // max(shape[1], 1), plane[1] // max(shape[2], 1))
        if type(layer) is nn.AdaptiveAvgPool2d and even:
            layer = nn.AvgPool2d(kernel)
        if type(layer) is nn.AdaptiveMaxPool2d and even and not layer.return_indices:
            layer = nn.MaxPool2d(kernel)
        if type(layer) is nn.MaxPool2d:
            plain = layer.dilation in {1, (1, 1)} and not layer.ceil_mode and not layer.return_indices
            return MaxPool(inputs, shape, layer, (plane[0], plane[1])) if plain else None
        if type(layer) is not nn.AvgPool2d or layer.ceil_mode or layer.divisor_override is not None:
            return None
        if layer.padding not in {0, (0, 0)} and not layer.count_include_pad:
            return None
        mean = nn.Conv2d(
            channels,
            channels,
            layer.kernel_size,
            stride=layer.stride,
            padding=layer.padding,
            groups=channels,
            bias=False,
            device=self.device,
        )
        nn.init.constant_(mean.weight, 1 / mean.weight[0].numel())
        return Affine(inputs, shape, mean, (plane[0], plane[1]))

    def _with_constant(self, node: fx.Node, inputs: Sequence[int], shape: Shape) -> Scale:
        """The sum, difference, product or quotient of a value and a constant."""
        value, other = node.args
        is_first = isinstance(value, fx.Node) and value in self.numbers
        constant = self._constant(node, other if is_first else value, shape)
        ones, zeros = torch.ones_like(constant), torch.zeros_like(constant)
        if node.target in _SUMS:
            sign = _SUMS[node.target]
            shift = constant * sign if is_first else constant
            return Scale(inputs, shape, ones if is_first else ones * sign, shift, shift.abs())
        if _PRODUCTS[node.target] < 0 and not is_first:
            raise self._refused(node, "that divides by its values")
        return Scale(inputs, shape, constant ** _PRODUCTS[node.target], zeros, zeros)

    def _constant(self, node: fx.Node, value: Any, shape: Shape) -> Tensor:
        """A constant as ``(C, 1, 1)`` or ``(C, H, W)``."""
        if isinstance(value, fx.Node):
            value = self._attribute(node, value)
        constant = torch.as_tensor(value, dtype=torch.float64, device=self.device)
        if constant.dim() in {2, 4} and len(constant) == 1:
            constant = constant[0]
        if constant.dim() == 1 and shape[1:] == (1, 1):
            constant = constant[:, None, None]
        try:
            return constant.expand(shape)
        except RuntimeError:
            raise self._refused(node, f"with a constant of shape {tuple(constant.shape)}") from None

    def _attribute(self, node: fx.Node, source: fx.Node) -> Tensor:
        if source.op != "get_attr":
            raise self._refused(node)
        value: Any = self.model
        for part in str(source.target).split("."):
            value = getattr(value, part)
        if not isinstance(value, Tensor):
            raise self._refused(node)
        return value


def _traced(model: nn.Module) -> fx.GraphModule:
    """The traced model.

    Raises:
        UserError: It cannot be traced.
    """
    tracer = _Tracer()
    optional = [
        parameter
        for parameter in list(inspect.signature(model.forward).parameters.values())[1:]
        if parameter.default is not inspect.Parameter.empty
    ]
    try:
        graph = tracer.trace(model, concrete_args={parameter.name: parameter.default for parameter in optional})
        for extra in [node for node in graph.nodes if node.op == "placeholder"][1:]:
            # An argument with a default leaves only a check of its value.
            for user in list(extra.users):
                for last in [*user.users, user]:
                    graph.erase_node(last)
            graph.erase_node(extra)
        return fx.GraphModule(model, graph)
    except Exception as error:
        where = tracer.untraceable or f"it is a {type(model).__name__}"
        raise _unbounded(f"{where}, whose forward pass cannot be traced ({one_line(error)})") from error


def _batch_norm(inputs: Sequence[int], shape: Shape, layer: nn.BatchNorm1d | nn.BatchNorm2d) -> Scale:
    """Batch norm with its running statistics."""
    assert layer.running_mean is not None
    assert layer.running_var is not None
    mean = layer.running_mean.double()
    scale = (layer.running_var.double() + layer.eps).rsqrt()
    bias = torch.zeros_like(scale)
    if layer.affine:
        scale, bias = scale * layer.weight.double(), layer.bias.double()
    values = (scale, bias - mean * scale, bias.abs() + (mean * scale).abs())
    return Scale(inputs, shape, *(vector[:, None, None] for vector in values))


def _is_plain(layer: nn.Conv2d) -> bool:
    """Whether a convolution pads with zeros, by as much on both sides."""
    return layer.padding_mode == "zeros" and symmetric_padding(layer) is not None


def _reshapes(node: fx.Node) -> bool:
    return node.target in {torch.flatten, "flatten", "view", "reshape", torch.reshape}


def _is_mean_of_plane(node: fx.Node) -> bool:
    """Whether a node is the mean over height and width, as global average pooling."""
    dimensions: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    is_mean = node.target in {torch.mean, "mean"}
    return is_mean and isinstance(dimensions, Sequence) and set(dimensions) in ({2, 3}, {-2, -1})

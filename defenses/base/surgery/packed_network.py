"""One network with grouped convolutions that computes several convolutional networks of one architecture."""

from __future__ import annotations

import copy
import operator
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.nn import functional

from robustbench_cli.core.errors import is_out_of_memory

__all__ = ["PackedNetwork", "joined_tensors", "pack", "parameters_and_buffers"]

_CHANNELWISE_LAYERS = (
    *(nn.ReLU, nn.LeakyReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Sigmoid, nn.Tanh, nn.Softplus),
    *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d),
    *(nn.Identity, nn.Dropout),
)
_CHANNELWISE_FUNCTIONS = {
    *(torch.relu, functional.relu, functional.gelu, functional.silu, torch.sigmoid, torch.tanh),
    *(operator.add, operator.sub, operator.mul, operator.truediv, operator.iadd, torch.add),
    *(functional.max_pool2d, functional.avg_pool2d, functional.adaptive_avg_pool2d),
}
"""Layers and functions that treat each channel by itself, so more channels change nothing."""


class PackedNetwork:
    """Runs networks of one architecture as one; see :func:`pack`. It is no module, because it has no weights of its own.

    Args:
        network: One of the networks. It stays unchanged.
        count: The number of networks.
        same_rows: Whether all networks get the same rows.
    """

    def __init__(self, network: nn.Module, count: int, *, same_rows: bool = True) -> None:
        self._network = pack(network, count, same_rows=same_rows)

    def run(self, tensors: Mapping[str, Tensor], rows: Tensor, *, training: bool) -> Tensor | None:
        """The output for rows; ``None``, now and later, if the networks cannot be packed.

        Args:
            tensors: The networks' tensors, as :func:`joined_tensors` gives them.
            rows: See :func:`pack`.
            training: Whether the networks are in ``train()`` mode.
        """
        if self._network is None:
            return None
        try:
            output: Tensor = functional_call(self._network.train(training), dict(tensors), (rows,), strict=True)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            # A fully connected layer on feature maps, or a parameter that no layer uses, for example.
            self._network = None
            return None
        return output


def pack(network: nn.Module, count: int, *, same_rows: bool = True) -> fx.GraphModule | None:
    """A network that computes M networks of one architecture with as many operations as one of them.

    The channels of all networks lie side by side, and groups keep them apart (Packed-Ensembles: Laurent et al., ICLR 2023,
    arXiv 2210.09184). A convolution becomes one with M times the groups, a fully connected layer a batch of matrix
    products. A first convolution or fully connected layer needs no groups, because all networks see the same rows.

    Args:
        network: From vectors ``(B, F)`` or feature maps ``(B, C, H, W)`` to the same. It stays unchanged.
        count: M.
        same_rows: Whether all networks get the same rows.

    Returns:
        A network with vectors ``(B, M, F)`` or feature maps ``(B, M * C, H, W)`` as its output, and as its input unless
        the networks get the same rows. Its parameters and buffers have the names of the network's, and no values of use:
        call it by :func:`torch.func.functional_call` with :func:`joined_tensors`. ``None`` if the network has other layers
        than convolutions in two dimensions, batch norm, fully connected layers, and layers that treat each channel by
        itself.
    """
    root = copy.deepcopy(network)
    graph = _trace(root)
    if graph is None or not _widen(root, graph, count, same_rows=same_rows):
        return None
    return fx.GraphModule(root, graph)


def parameters_and_buffers(network: nn.Module) -> dict[str, Tensor]:
    """The parameters and then the buffers of a network, by their names."""
    return dict(network.named_parameters()) | dict(network.named_buffers())


def joined_tensors(networks: Sequence[nn.Module]) -> dict[str, Tensor]:
    """The parameters and buffers of networks of one architecture, concatenated along their first dimension.

    Args:
        networks: The networks. Gradients flow to their parameters.
    """
    states = [parameters_and_buffers(network) for network in networks]
    return {
        name: torch.cat([state[name] if tensor.dim() else state[name].reshape(1) for state in states])
        for name, tensor in states[0].items()
    }


def _trace(network: nn.Module) -> fx.Graph | None:
    """The operations of a network; ``None`` if they depend on the mode, on hooks or on values."""
    if any(module._forward_hooks or module._forward_pre_hooks for module in network.modules()):  # noqa: SLF001
        return None
    try:
        graph, other = (fx.Tracer().trace(network.train(mode)) for mode in (True, False))
    except Exception:  # noqa: BLE001 - the network's own code may raise anything
        return None
    return graph if str(graph) == str(other) else None


def _widen(root: nn.Module, graph: fx.Graph, count: int, *, same_rows: bool) -> bool:
    """Changes the operations of one network into those of ``count`` networks; ``False`` if that is impossible."""
    rows, *nodes, output = graph.nodes
    shared = _shared_layer(root, rows) if same_rows else None
    if same_rows and shared is None:
        with graph.inserting_after(rows):
            repeated = graph.call_function(_repeat, (rows, count))
        rows.replace_all_uses_with(repeated, delete_user_cb=lambda user: user is not repeated)
    layers = {str(node.target): root.get_submodule(node.target) for node in nodes if node.op == "call_module"}
    wide = {name: _wide_layer(layer, count, shared=name == shared) for name, layer in layers.items()}
    for name, layer in wide.items():
        if layer is not None:
            root.set_submodule(name, layer)
    return (
        all(layer is not None for layer in wide.values())
        and all(_widen_operation(root, graph, node, count) for node in nodes if node.op != "call_module")
        and isinstance(output.args[0], fx.Node)
    )


def _shared_layer(root: nn.Module, rows: fx.Node) -> str | None:
    """The name of the first layer, if it can take the rows as they are, for all networks at once."""
    if len(rows.users) != 1:
        return None
    (user,) = rows.users
    if user.op != "call_module" or sum(node.target == user.target for node in rows.graph.nodes) > 1:
        return None
    layer = root.get_submodule(str(user.target))
    takes_rows = type(layer) is nn.Linear or (type(layer) is nn.Conv2d and layer.groups == 1)
    return str(user.target) if takes_rows else None


def _wide_layer(layer: nn.Module, count: int, *, shared: bool) -> nn.Module | None:
    """The layer of ``count`` networks; ``None`` if there is none."""
    if type(layer) is nn.Conv2d:
        layer.groups *= 1 if shared else count
    elif type(layer) is nn.Linear:
        return _Linears(layer, count, shared=shared)
    elif type(layer) is nn.Flatten and (layer.start_dim, layer.end_dim) == (1, -1):
        return _Flatten(count)
    elif type(layer) not in _CHANNELWISE_LAYERS and not (type(layer) is nn.BatchNorm2d and layer.momentum is not None):
        return None
    return layer


def _widen_operation(root: nn.Module, graph: fx.Graph, node: fx.Node, count: int) -> bool:
    """Changes an operation that is no layer; ``False`` if that is impossible."""
    if node.op == "get_attr":
        shape = operator.attrgetter(str(node.target))(root).shape
        with graph.inserting_after(node):
            wide = graph.call_method("reshape", (node, 1, -1, 1, 1))
        node.replace_all_uses_with(wide, delete_user_cb=lambda user: user is not wide)
        # One value for each channel, such as the means of a normalization.
        return len(shape) in (3, 4) and shape[-2:] == (1, 1) and shape[:-3] in ((), (1,))
    if (node.target, *node.args[1:]) in ((torch.flatten, 1), ("flatten", 1)) and not node.kwargs:
        node.op, node.target, node.args = "call_function", _flatten, (node.args[0], count)
        return True
    return node.op == "call_function" and node.target in _CHANNELWISE_FUNCTIONS


class _Linears(nn.Module):
    """A fully connected layer of each network: from vectors ``(B, M, F)``, or shared ones ``(B, F)``, to ``(B, M, O)``."""

    def __init__(self, layer: nn.Linear, count: int, *, shared: bool) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.count = count
        self.shared = shared

    def forward(self, rows: Tensor) -> Tensor:
        if rows.dim() != (2 if self.shared else 3):
            raise RuntimeError("the fully connected layers of packed networks take vectors only")
        if self.shared:
            return _flatten(functional.linear(rows, self.weight, self.bias), self.count)
        # With the weights as the first factor, their gradient has their memory layout.
        weight, columns = self.weight.unflatten(0, (self.count, -1)), rows.permute(1, 2, 0)
        bias: Tensor | None = self.bias
        products = (
            torch.bmm(weight, columns) if bias is None else torch.baddbmm(bias.view(self.count, -1, 1), weight, columns)
        )
        return products.permute(2, 0, 1)


class _Flatten(nn.Module):
    """From feature maps ``(B, M * C, H, W)`` of M networks to vectors ``(B, M, C * H * W)``."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, rows: Tensor) -> Tensor:
        return _flatten(rows, self.count)


def _flatten(rows: Tensor, count: int) -> Tensor:
    """See :class:`_Flatten`. Vectors become ``(B, M, F)`` from ``(B, M * F)``, or stay ``(B, M, F)``."""
    vectors: Tensor = rows.unflatten(1, (count, -1)).flatten(2)
    return vectors


def _repeat(rows: Tensor, count: int) -> Tensor:
    """The same rows for M networks: ``(B, M * C, H, W)`` from ``(B, C, H, W)``, or ``(B, M, F)`` from ``(B, F)``."""
    return rows.repeat(1, count, 1, 1) if rows.dim() == 4 else rows.unsqueeze(1).repeat(1, count, 1)

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_cli.core.errors import Notice, UserError
from robustbench_cli.defenses.base.surgery.split import CutPoint, _Trace, narrowest, split


def paper_cnn() -> nn.Sequential:
    """The MNIST network of the HRS paper."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 32, 3),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(32, 32, 3),
            relu2=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv3=nn.Conv2d(32, 64, 3),
            relu3=nn.ReLU(),
            conv4=nn.Conv2d(64, 64, 3),
            relu4=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(1024, 200),
            relu5=nn.ReLU(),
            dropout=nn.Dropout(0.3),
            fc2=nn.Linear(200, 200),
            relu6=nn.ReLU(),
            fc3=nn.Linear(200, 10),
        )
    )


GREY = torch.rand(1, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def layers(block: nn.Module) -> list[str]:
    """The modules of a block, in order."""
    return [name for name, module in block.named_modules() if name and not list(module.children())]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18", {}),
        ("vgg11", {}),
        ("mobilenet_v3_small", {}),
        ("densenet121", {}),
        ("vit_b_16", {"image_size": 32}),
        ("convnext_tiny", {}),
        ("swin_t", {}),
    ],
)
def test_blocks_give_what_the_whole_gives(name: str, options: dict[str, int]) -> None:
    """Three blocks of a torchvision model give exactly its logits."""
    model = getattr(torchvision.models, name)(num_classes=10, **options).eval()
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    blocks = split(model, images, at=3)
    with torch.no_grad():
        rows = images
        for block in blocks:
            rows = block(rows)
        assert len(blocks) == 3
        assert torch.equal(rows, model(images))


def test_two_blocks_of_the_paper() -> None:
    """The automatic cut of the paper's network is the paper's: after the dropout of the first fully connected layer."""
    first, second = split(paper_cnn(), GREY, at=2)
    assert layers(first)[-4:] == ["flatten", "fc1", "relu5", "dropout"]
    assert layers(second) == ["fc2", "relu6", "fc3"]


def test_three_blocks_of_the_paper() -> None:
    """A third block begins at the next narrowest tensor that leaves two layers in each block."""
    first, second, _ = split(paper_cnn(), GREY, at=3)
    assert layers(first)[-1] == "pool1"
    assert layers(second)[-1] == "dropout"


def test_cut_points_of_the_paper_network() -> None:
    """The cut points are just before the layers with weights, with the widths of the layers."""
    assert _Trace(paper_cnn(), GREY).points() == [
        CutPoint("relu1", 32 * 26 * 26, 1),
        CutPoint("pool1", 32 * 12 * 12, 2),
        CutPoint("relu3", 64 * 10 * 10, 3),
        CutPoint("flatten", 64 * 4 * 4, 4),
        CutPoint("dropout", 200, 5),
        CutPoint("relu6", 200, 6),
    ]


def test_blocks_of_one_layer() -> None:
    """Seven layers give seven blocks of one layer."""
    blocks = split(paper_cnn(), GREY, at=7)
    assert [sum(isinstance(module, nn.Conv2d | nn.Linear) for module in block.modules()) for block in blocks] == [1] * 7


def test_too_many_blocks() -> None:
    """Eight blocks of seven layers are a usage error that names the largest number."""
    with pytest.raises(UserError, match=r"8 blocks need 7 cut points and the model has 6: .*give at most 7 blocks"):
        split(paper_cnn(), GREY, at=8)


def test_narrowest_looks_ahead() -> None:
    """A narrow cut point is skipped if it leaves no room for the remaining cuts."""
    points = [CutPoint("a", 9, 2), CutPoint("b", 1, 3), CutPoint("c", 9, 4)]
    assert [point.name for point in narrowest(points, 3, layers=6)] == ["a", "c"]
    assert [point.name for point in narrowest(points, 2, layers=6)] == ["b"]


def test_ties_go_to_the_earliest() -> None:
    """Of equally narrow cut points the first is selected."""
    points = [CutPoint("a", 5, 2), CutPoint("b", 5, 3)]
    assert narrowest(points, 2, layers=5) == points[:1]


def test_named_cuts() -> None:
    """Blocks end exactly after the named modules, outer or inner, in the order of the forward pass."""
    first, second, third = split(paper_cnn(), GREY, at=["fc1", "conv4"])
    assert layers(first)[-1] == "conv4"
    assert layers(second)[-1] == "fc1"
    assert layers(third)[0] == "relu5"
    resnet = torchvision.models.resnet18(num_classes=10)
    blocks = split(resnet, torch.rand(1, 3, 32, 32), at=["layer3.1"])
    assert any(name.startswith("layer3.1") for name in layers(blocks[0]))
    assert all(name.startswith(("layer4", "avgpool", "fc")) for name in layers(blocks[1]))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["layer3.1.conv1"], r"after 'layer3.1.conv1': .* is needed later too; .* after 'layer3.0' or 'layer3'$"),
        (["layer3.1.relu"], r"after 'layer3.1.relu': it runs 2 times; .* after 'layer3.0' or 'layer4.0'$"),
        (["layer3.2"], r"no such module, did you mean 'layer3.0' or 'layer3.1'\?"),
        (["fc"], r"after 'fc' leaves no layer with weights after it; the nearest possible cut is after 'flatten'$"),
        (["layer1.1", "layer1"], r"no layer with weights: leave one out"),
    ],
)
def test_bad_names(names: list[str], message: str) -> None:
    """An impossible cut is a usage error that names possible ones."""
    with pytest.raises(UserError, match=message):
        split(torchvision.models.resnet18(num_classes=10), torch.rand(1, 3, 32, 32), at=names)


def test_a_cut_before_any_layer() -> None:
    """A first block without weights is a usage error."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 8), nn.ReLU(), nn.Linear(8, 10))
    with pytest.raises(
        UserError, match=r"leaves no layer with weights before it; the nearest possible cut is after '2'"
    ):
        split(model, GREY, at=["0"])


class Branching(nn.Module):
    """Branches on the values of its input, so it cannot be traced."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, rows: Tensor) -> Tensor:
        output: Tensor = self.inside(rows)
        return output if output.sum() > 0 else -output


def test_a_model_that_cannot_be_traced() -> None:
    """A model whose own forward branches on values is a usage error with advice."""
    with pytest.raises(UserError, match=r"Branching cannot be split.*symbolically traced.*nn.Sequential of its blocks"):
        split(Branching(paper_cnn()), GREY, at=2)


def test_a_part_that_cannot_be_traced() -> None:
    """A submodule that branches on values stays whole, and the rest can be cut."""
    middle = Branching(nn.Sequential(nn.Linear(30, 30), nn.ReLU(), nn.Linear(30, 20)))
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 30), nn.ReLU(), middle, nn.ReLU(), nn.Linear(20, 10))
    assert [(point.name, point.layers) for point in _Trace(model, GREY).points()] == [("2", 1), ("4", 2)]
    first, second = split(model, GREY, at=["3"])
    assert torch.equal(second(first(GREY)), model(GREY))
    with pytest.raises(
        UserError, match=r"no cut after '3.inside.0': '3' stays whole, it cannot be traced \(TraceError: "
    ):
        split(model, GREY, at=["3.inside.0"])


class Functional(nn.Module):
    """Functional dropout, and an argument with a default."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(784, 50)
        self.fc2 = nn.Linear(50, 10)

    def forward(self, images: Tensor, mask: Tensor | None = None) -> Tensor:
        rows = F.relu(self.fc1(images.flatten(1)))
        if mask is not None:
            rows = rows * mask
        return self.fc2(F.dropout(rows, 0.5, self.training))


def test_functional_dropout_follows_the_mode() -> None:
    """Blocks use dropout in train() mode only, as the model does, whichever mode it had when it was cut."""
    model = Functional().train()
    first, second = split(model, GREY, at=2)
    assert model.training
    for training in (True, False):
        for module in (model, first, second):
            module.train(training)
        torch.manual_seed(0)
        whole = model(GREY)
        torch.manual_seed(0)
        assert torch.equal(second(first(GREY)), whole)
    assert not torch.equal(first.train()(GREY), first.eval()(GREY))


class Regions(nn.Module):
    """Turns each image into two rows and back."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(392, 4)
        self.fc2 = nn.Linear(4, 5)
        self.fc3 = nn.Linear(10, 10)

    def forward(self, images: Tensor) -> Tensor:
        halves = self.fc2(self.fc1(images.reshape(-1, 392)))
        return self.fc3(halves.reshape(-1, 10))


def test_rows_are_images() -> None:
    """A tensor whose rows are not the images is no cut point, however narrow."""
    assert [point.width for point in _Trace(Regions(), GREY).points()] == [10]
    with pytest.raises(UserError, match=r"after 'fc1': its output is not one tensor with a row per image"):
        split(Regions(), GREY, at=["fc1"])


class Skipping(nn.Sequential):
    """Skips its middle layer in training, as stochastic depth does."""

    def forward(self, images: Tensor) -> Tensor:
        rows = self[1](self[0](images))
        return self[3](rows if self.training else self[2](rows))


def test_another_forward_pass_in_training_is_reported() -> None:
    """The blocks run the operations of eval() mode, and a notice says so once, with the reason."""
    model = Skipping(nn.Flatten(), nn.Linear(784, 6), nn.Linear(6, 6), nn.Linear(6, 10))
    with pytest.warns(
        Notice, match=r"blocks of Skipping run .* eval\(\) mode .*other operations in train\(\)"
    ) as notices:
        first, second = split(model, GREY, at=2)
    assert len(notices) == 1
    assert torch.equal(second(first(GREY)), model.eval()(GREY))


class OnlyInEval(nn.Sequential):
    """Cannot be traced in training."""

    def forward(self, images: Tensor) -> Tensor:
        rows = super().forward(images)
        return rows.clamp(max=float(rows.max())) if self.training else rows


def test_a_failing_second_trace_is_reported() -> None:
    """A model that cannot be traced in train() mode is cut nevertheless, and a notice gives the reason."""
    model = OnlyInEval(nn.Flatten(), nn.Linear(784, 6), nn.Linear(6, 10))
    with pytest.warns(Notice, match=r"cannot be traced in train\(\) mode: TypeError"):
        split(model, GREY, at=2)

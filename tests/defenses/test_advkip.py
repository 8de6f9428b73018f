from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from sklearn.kernel_ridge import KernelRidge
from torch import nn

from robustbench_cli.attacks.cw_pgd import CWPGD
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.advkip import AdvKIP, KernelRegression
from robustbench_cli.defenses.base.defense import defend
from robustbench_cli.defenses.base.kernels import neural_tangent_kernel
from robustbench_cli.defenses.base.training.recipe import Recipe
from robustbench_cli.defenses.base.training.trainer import Trainer, TrainingProgress

from .base.training.test_resume import resumed

CPU = torch.device("cpu")
IMAGE = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def ten_classes() -> nn.Module:
    """A network that only says how many classes there are."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def regression(**parameters: Any) -> KernelRegression:
    """A regression on random images and targets."""
    model = AdvKIP(**parameters).protect(ten_classes(), IMAGE)
    assert isinstance(model, KernelRegression)
    return model


@pytest.mark.parametrize("kernel", ["ntk", "rbf"])
def test_it_is_the_regression_of_scikit_learn(kernel: Literal["ntk", "rbf"]) -> None:
    """In both modes; half precision around it changes nothing."""
    model = regression(kernel=kernel, per_class=3, depth=3, gamma=0.2, ridge=0.01)
    model.targets.data += 0.1 * torch.randn(30, 10)
    support, targets = model.images.detach().flatten(1).double(), model.targets.detach()
    images = torch.rand(5, 1, 8, 8)
    if kernel == "ntk":
        matrix = neural_tangent_kernel(support, support, 3)
        peer = KernelRidge(kernel="precomputed", alpha=0.01 * matrix.diagonal().mean().item()).fit(matrix, targets)
        expected = peer.predict(neural_tangent_kernel(images.flatten(1).double(), support, 3))
    else:
        peer = KernelRidge(kernel="rbf", gamma=0.2, alpha=0.01).fit(support, targets)
        expected = peer.predict(images.flatten(1).double())
    trained = model(images)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model.eval()(images)
    for ours in (trained, logits):
        torch.testing.assert_close(ours, torch.from_numpy(expected).float(), rtol=0, atol=1e-4)


def test_the_gradient_passes_through_the_solution() -> None:
    """The gradients of a pass in images and targets are those of finite differences."""
    model = AdvKIP(per_class=1).protect(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), IMAGE[:, :, :2, :2]).double()
    probe = torch.rand(3, 1, 2, 2, dtype=torch.float64)
    names = ("images", "targets")

    def logits(*parameters: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = torch.func.functional_call(model, dict(zip(names, parameters, strict=True)), (probe,))
        return result

    assert torch.autograd.gradcheck(logits, tuple(model.get_parameter(name) for name in names))


def test_the_learned_set_withstands_more_than_real_images(digits: Any) -> None:
    """The check of the method: regression on learned images is more robust than on as many real ones, or on all.

    The training images are the only difference, and the images stay in [0, 1].
    """
    train, test = digits
    images, labels = test.images[:100], test.labels[:100]
    examples = train.images[:400], train.labels[:400]
    robust = []
    for per_class, lr in ((5, 0.01), (5, 1e-9), (30, 1e-9)):
        defense = AdvKIP(kernel="rbf", per_class=per_class, eps=0.15, steps=4)
        model = defend(ten_classes(), defense, examples, epochs=6 if lr == 0.01 else 1, lr=lr, batch_size=64)
        assert isinstance(model, KernelRegression)
        learned, classes = model.learned_examples()
        assert (classes == torch.arange(10).repeat_interleave(per_class)).all()
        assert ((learned >= 0) & (learned <= 1)).all()
        perturbed = CWPGD(steps=20)(model, images, labels, eps=0.15)
        with torch.no_grad():
            robust.append((model(perturbed).argmax(1) == labels).double().mean().item())
    assert robust[0] > max(robust[1:]) + 0.05


def test_all_weights_have_their_own_coefficients(digits: Any) -> None:
    """The latest, averaged and best weights are each a regression that is solved."""
    train, _ = digits
    examples = type(train)(train.images[:200], train.labels[:200])
    defense = AdvKIP(per_class=3, steps=1).for_radius(0.15)
    model = defense.protect(ten_classes(), IMAGE)
    trainer = Trainer(examples, Recipe(epochs=2, ema=0.9, held_out=0.2, lr=0.05), seed=0, device=CPU)
    defense.fit(model, trainer)
    assert trainer.finals.keys() == {"latest", "averaged", "best"}
    for state in trainer.finals.values():
        model.load_state_dict(state)
        assert isinstance(model, KernelRegression)
        torch.testing.assert_close(model.coefficients, model.solve())


def test_a_killed_training_resumes(digits: Any, tmp_path: Path) -> None:
    """It ends with exactly the images and targets of one that is not killed."""
    train, _ = digits
    examples = type(train)(train.images[:200], train.labels[:200])
    defense = AdvKIP(per_class=2, steps=1).for_radius(0.15)

    def start(**options: Any) -> tuple[nn.Module, Trainer]:
        torch.manual_seed(0)
        return defense.protect(ten_classes(), IMAGE), Trainer(examples, Recipe(epochs=2), seed=0, device=CPU, **options)

    def kill(progress: TrainingProgress) -> bool:
        return progress.epoch == 1

    whole, trainer = start()
    defense.fit(whole, trainer)
    model, _ = resumed(start, defense.fit, tmp_path / "state.safetensors", kill=kill)
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, whole.state_dict()[key]), key


def test_sets_that_cannot_be_learned(digits: Any) -> None:
    """A set larger than the memory, and one for which a class has too few images or none to start from."""
    with pytest.raises(UserError, match=r"^advkip.per_class is 900, and 9,000 learned images .* give at most 819,"):
        regression(per_class=900)
    with pytest.raises(UserError, match=r"give at most 115, as 10 classes may have 1,158 images$"):
        regression(per_class=200, depth=100)
    # Images without memory: 2**28 pixels are 128 images of this size.
    large = torch.zeros(1).expand(1, 2, 1024, 1024)
    classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(
        UserError, match=r"^advkip.per_class is 65, .* give at most 64, as 2 classes may have 128 images$"
    ):
        AdvKIP(per_class=65).protect(classifier, large)
    train, _ = digits
    images, labels = train.images[train.labels != 7][:300], train.labels[train.labels != 7][:300]
    with pytest.raises(UserError, match=r"^advkip starts from training images of each class: add images of class 7$"):
        defend(ten_classes(), AdvKIP(), (images, labels), epochs=1)
    images, labels = torch.cat([images, train.images[train.labels == 7][:4]]), torch.cat([labels, torch.full((4,), 7)])
    with pytest.raises(
        UserError, match=r"^advkip.per_class is 20, and class 7 has 4 training images .* give at most 4$"
    ):
        defend(ten_classes(), AdvKIP(), (images, labels), epochs=1)


def test_bad_parameters() -> None:
    """No images, a network without a hidden layer, no ridge, and a kernel that is none."""
    for key, value in (("per_class", 0), ("depth", 0), ("ridge", 0), ("gamma", 0), ("kernel", "linear")):
        with pytest.raises(UserError, match=rf"^advkip.{key} is '?{value}'?: input should be"):
            AdvKIP.from_parameters({key: value}, name="advkip")

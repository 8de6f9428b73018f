from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robustbench_cli.benchmarks.checkpoints.checkpoint import read_info
from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel, method_spec
from robustbench_cli.benchmarks.datasets.base.load import load_dataset, load_unlabeled
from robustbench_cli.benchmarks.datasets.base.split import Split
from robustbench_cli.benchmarks.training.extra_data import ExtraData, open_extra_data
from robustbench_cli.benchmarks.training.model_cache import ModelCache
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses import registry as defenses

CPU = torch.device("cpu")

DIGITS = load_dataset("digits")


def save(path: Path, **arrays: Any) -> str:
    """Writes arrays, and returns the name of their data set."""
    np.savez(path, **arrays)
    return f"npz:{path}"


@pytest.fixture
def images() -> np.ndarray[Any, Any]:
    """Images of the digits in the form of published generated images: ``(N, H, W, C)`` in uint8."""
    split = DIGITS.split("test")
    return (split.first(120)[0] * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


@pytest.fixture
def labels() -> np.ndarray[Any, Any]:
    return DIGITS.split("test").labels[:120].numpy()


def test_labels_of_their_own(tmp_path: Path, images: Any, labels: Any) -> None:
    """A file of generated images is used whole, one with training images without its test images."""
    generated = save(tmp_path / "generated.npz", image=images, label=labels)
    extra = open_extra_data(generated, None, DIGITS, data_dir=None, named=set())
    loaded, own = extra.examples(CPU, 0).first(200)
    assert torch.equal(loaded, torch.tensor(images).permute(0, 3, 1, 2) / 255)
    assert torch.equal(own, torch.tensor(labels))
    both = save(tmp_path / "both.npz", images=images[:20], labels=labels[:20], x_train=images[20:], y_train=labels[20:])
    assert len(open_extra_data(both, None, DIGITS, data_dir=None, named=set()).split) == 100


def test_labels_of_a_checkpoint(tmp_path: Path, images: Any, labels: Any, defended: DefendedModel) -> None:
    """They are the classes that the checkpoint predicts, with and without labels in the file."""
    predicted = defended.load()(torch.tensor(images).permute(0, 3, 1, 2) / 255).argmax(1)
    for name, arrays in (("none", {}), ("own", {"labels": labels})):
        extra = open_extra_data(
            save(tmp_path / f"{name}.npz", images=images, **arrays),
            str(defended.path),
            DIGITS,
            data_dir=None,
            named=set(),
        )
        assert torch.equal(extra.examples(CPU, 0).labels, predicted)
        assert torch.equal(extra.examples(CPU, 0).batch(torch.tensor([3]))[1], predicted[3:4])
    assert (predicted == torch.tensor(labels)).float().mean() > 0.5


def test_images_without_labels_are_no_data_set(tmp_path: Path, images: Any) -> None:
    """They can be extra data only, and keep their preprocessing there."""
    name = save(tmp_path / "unlabeled.npz", images=images)
    with pytest.raises(UserError, match="has no array 'labels': it has images"):
        load_dataset(name)
    assert load_unlabeled(f"{name}?image_size=4").shape == (1, 4, 4)
    with pytest.raises(UserError, match="have no labels: give a checkpoint that labels them, --pseudo-labels FILE"):
        open_extra_data(name, None, DIGITS, data_dir=None, named=set())


def test_extra_data_that_do_not_fit(tmp_path: Path, images: Any, labels: Any, defended: DefendedModel) -> None:
    """Another shape, another number of classes, other classes, and a checkpoint of another shape are refused in one line."""
    wide = save(tmp_path / "wide.npz", images=images[:, :, :7], labels=labels)
    eleven = save(tmp_path / "eleven.npz", images=images, labels=np.arange(120) % 11)
    for name, data, checkpoint, message in (
        (wide, "digits", None, r"images \(1, 8, 7\), and digits has \(1, 8, 8\).*wide.npz\?channels=1&image_size=8"),
        (eleven, "digits", None, "have 11 classes, and digits has 10 classes: give data of the same classes"),
        ("cifar10", "cifar100", None, r"have 10 classes \(airplane, …\), and cifar100 has 100 classes \(apple, …\)"),
        (wide, wide, str(defended.path), r"takes images \(1, 8, 8\) of 10 classes, and npz:.* has \(1, 8, 7\) of 10"),
    ):
        with pytest.raises(UserError, match=message) as raised:
            open_extra_data(name, checkpoint, load_dataset(data), data_dir=None, named=set())
        assert "\n" not in str(raised.value)


def test_what_a_training_records(
    tmp_path: Path, images: Any, labels: Any, cache: Callable[..., ModelCache], defended: DefendedModel
) -> None:
    """Images, labels and fraction determine the key of the training, names of files do not. The checkpoint records them."""
    first, same = (save(tmp_path / f"{name}.npz", images=images, labels=labels) for name in ("first", "same"))
    other = save(tmp_path / "other.npz", images=images, labels=labels[::-1])
    trainings = {
        "plain": cache().training(),
        "first": cache(extra=first).training(),
        "same": cache(extra=same).training(),
        "other": cache(extra=other).training(),
        "half": cache(extra=first, extra_fraction=0.5).training(),
        "labeled": cache(extra=first, pseudo_labels=str(defended.path)).training(),
    }
    assert trainings["first"].key == trainings["same"].key
    assert len({training.key for training in trainings.values()}) == 5
    assert cache(extra=first, extra_fraction=0.7).training().key == trainings["first"].key
    path = tmp_path / "trained.safetensors"
    cache(extra=first).trained(trainings["first"], path)
    info = read_info(path, named=())
    assert info is not None
    assert info.training["extra"] == {"images": 120, "fraction": 0.7, "identity": trainings["first"].extra}
    assert info.training["stages"][0]["recipe"]["extra"] == first


def test_extra_images_are_read_only_to_train(
    tmp_path: Path, images: Any, labels: Any, cache: Callable[..., ModelCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A defense that learns nothing starts from the cached model, and has its extra images in the record."""
    read: list[int] = []
    examples = ExtraData.examples

    def counted(extra: ExtraData, device: torch.device, seed: int) -> Split:
        read.append(seed)
        return examples(extra, device, seed)

    monkeypatch.setattr(ExtraData, "examples", counted)
    models = cache(extra=save(tmp_path / "extra.npz", images=images[:100], labels=labels[:100]))
    training = models.training(defenses=(method_spec(defenses, "jpeg", {}).spec,))
    record = models.trained(training).training
    assert record["extra"] == {"images": 100, "fraction": 0.7, "identity": training.extra}
    assert len(record["stages"]) == len(read) == 1

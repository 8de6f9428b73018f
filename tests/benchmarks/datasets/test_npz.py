from __future__ import annotations

import io
import os
import pickle
import resource
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robustbench_cli.benchmarks.datasets.digits import Digits
from robustbench_cli.benchmarks.datasets.npz import Npz
from robustbench_cli.core.errors import UserError
from robustbench_cli.core.regular_file import open_regular

PIXELS = np.arange(4 * 5 * 6, dtype=np.uint8).reshape(4, 5, 6)
LABELS = np.array([2, 0, 1, 2])


def save(path: Path, **arrays: Any) -> str:
    """An ``.npz`` file; returns its path as a user types it."""
    np.savez(path, **arrays)
    return str(path)


@pytest.mark.parametrize(
    ("images", "shape"),
    [
        (PIXELS, (1, 5, 6)),
        (PIXELS[..., None], (1, 5, 6)),
        (PIXELS[:, None], (1, 5, 6)),
        (np.stack([PIXELS] * 3, axis=1), (3, 5, 6)),
        (np.stack([PIXELS] * 3, axis=3), (3, 5, 6)),
        (PIXELS.astype(np.float64) / 255, (1, 5, 6)),
    ],
)
def test_every_layout(tmp_path: Path, images: np.ndarray, shape: tuple[int, int, int]) -> None:
    """Grey, channels first, channels last and floats all become (N, C, H, W) of the same values."""
    dataset = Npz(save(tmp_path / "a.npz", images=images, labels=LABELS))
    found, labels = dataset.split("test").batch(torch.arange(4))
    assert (dataset.shape, dataset.classes) == (shape, 3)
    for channel in range(shape[0]):
        assert np.array_equal((found[:, channel] * 255).round().numpy(), PIXELS)
    assert labels.tolist() == LABELS.tolist()


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((4, 1, 5, 3), (1, 5, 3)),
        ((4, 3, 5, 1), (3, 5, 1)),
        ((4, 1, 1, 1), (1, 1, 1)),
        ((4, 3, 5, 3), (3, 5, 3)),
        ((4, 1, 5, 1), (1, 5, 1)),
        ((4, 3, 3, 3), (3, 3, 3)),
        ((4, 2, 5, 3), (3, 2, 5)),
        ((4, 1, 5), (1, 1, 5)),
    ],
)
def test_images_that_fit_two_layouts_have_their_channels_first(
    tmp_path: Path, shape: tuple[int, ...], expected: tuple[int, int, int]
) -> None:
    """Narrow images are read by one rule, which the documentation states, and not refused."""
    pixels = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    dataset = Npz(save(tmp_path / "a.npz", images=pixels, labels=LABELS))
    found, _ = dataset.split("test").batch(torch.arange(4))
    assert dataset.shape == tuple(found.shape[1:]) == expected
    inside = pixels[:, None] if len(shape) == 3 else pixels if shape[1] in {1, 3} else np.moveaxis(pixels, 3, 1)
    assert np.array_equal((found * 255).round().numpy(), inside)


@pytest.mark.parametrize(
    ("images", "labels", "train_images", "train_labels"),
    [
        ("test_images", "test_labels", "train_images", "train_labels"),
        ("x_test", "y_test", "x_train", "y_train"),
        ("images", "test_labels", "train_images", "y_train"),
    ],
)
def test_files_of_medmnist_and_keras(
    tmp_path: Path, images: str, labels: str, train_images: str, train_labels: str
) -> None:
    """Their names are read, labels in a column too; what is kept for validation is left alone."""
    arrays = {images: PIXELS, labels: LABELS[:, None].astype(np.uint8)}
    train = {train_images: PIXELS[:3], train_labels: LABELS[:3, None]}
    both = Npz(save(tmp_path / "a.npz", **arrays, **train, val_images=PIXELS[:1], val_labels=LABELS[:1, None]))
    assert both.classes == 3
    assert both.split("test").labels.tolist() == LABELS.tolist()
    assert both.split("train").labels.tolist() == LABELS[:3].tolist()
    assert (len(both.split("test")), len(both.split("train"))) == (4, 3)
    save(tmp_path / "test.npz", **arrays)
    save(tmp_path / "train.npz", **train)
    assert len(Npz(str(tmp_path)).split("train")) == 3
    with pytest.raises(UserError, match="has nothing to train on: add the arrays train_images and train_labels"):
        Npz(save(tmp_path / "b.npz", **arrays)).split("train")
    with pytest.raises(UserError, match="has no array 'train_labels'"):
        Npz(save(tmp_path / "c.npz", **arrays, **{train_images: PIXELS}))


def test_train_arrays_in_the_same_file(tmp_path: Path) -> None:
    """Train arrays make the train split and count for the number of classes."""
    name = save(
        tmp_path / "a.npz", images=PIXELS, labels=LABELS, train_images=PIXELS[:2], train_labels=np.array([4, 3])
    )
    dataset = Npz(name)
    assert dataset.classes == 5
    assert dataset.split("train").labels.tolist() == [4, 3]
    assert dataset.split("test").labels.tolist() == [2, 0, 1, 2]


def test_two_files_in_a_folder(tmp_path: Path) -> None:
    """A folder's test.npz and train.npz are its splits."""
    save(tmp_path / "test.npz", images=PIXELS, labels=LABELS)
    save(tmp_path / "train.npz", images=PIXELS[1:], labels=LABELS[1:])
    dataset = Npz(str(tmp_path))
    assert (len(dataset.split("train")), len(dataset.split("test"))) == (3, 4)


def test_nothing_to_train_on(tmp_path: Path) -> None:
    """Without train arrays the train split says which to add."""
    with pytest.raises(UserError, match="add the arrays train_images and train_labels"):
        Npz(save(tmp_path / "a.npz", images=PIXELS, labels=LABELS)).split("train")


def test_classes_can_be_given(tmp_path: Path) -> None:
    """Where the evaluated images lack the last classes, the file says how many there are."""
    assert Npz(save(tmp_path / "a.npz", images=PIXELS, labels=LABELS, classes=10)).classes == 10


FLOATS = PIXELS / 255


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": PIXELS / 1.0}, "reach from 0 to 119: divide them by 255, pixels are floats in"),
        ({"images": FLOATS - 0.1}, "reach from -0.1.*: give pixels in .*, and put the normalization inside the model"),
        ({"images": np.where(FLOATS > 0.1, np.nan, FLOATS)}, "hold NaN"),
        ({"images": PIXELS.astype(np.int64)}, "of type torch.int64"),
        ({"images": FLOATS.astype(np.longdouble)}, "'images' of .* is float128: give uint8, or float32"),
        ({"images": FLOATS.astype("U4")}, "'images' of .* is <U4: give uint8, or float32"),
        ({"images": np.zeros(PIXELS.shape, [("red", "u1")])}, "'images' of .* is .*: give uint8, or float32"),
        ({"images": np.zeros((4, 1, 0, 6), np.uint8)}, r"shape \(4, 1, 0, 6\): give"),
        ({"images": PIXELS[:3]}, "are 3, their labels 4"),
        ({"images": PIXELS[:0]}, r"shape \(0, 1, 5, 6\)"),
        ({"images": PIXELS[0]}, r"'images' of .* has the shape \(5, 6\)"),
        ({"images": np.zeros((4, 7, 5, 6), np.uint8)}, r"has the shape \(4, 7, 5, 6\)"),
        ({"images": np.zeros((4, 28, 28, 28), np.uint8)}, r"has the shape \(4, 28, 28, 28\): give .* with C 1 or 3"),
        ({"images": np.zeros((4, 5, 6, 4), np.uint8)}, r"has the shape \(4, 5, 6, 4\)"),
        (
            {"labels": LABELS.astype(np.float32)},
            r"'labels' of .* is float32 of shape \(4,\): give the class number of each",
        ),
        (
            {"labels": np.eye(3, dtype=int)[LABELS]},
            r"of shape \(4, 3\): give the class number of each image, integers of shape \(N,\) or \(N, 1\)",
        ),
        ({"labels": LABELS[None]}, r"of shape \(1, 4\)"),
        ({"labels": LABELS[:0]}, r"of shape \(0,\)"),
        ({"labels": np.array([0, 1, -1, 2])}, "has the label -1 at index 2"),
        ({"labels": np.array([0, 0, 0, 0])}, "reach only to 0: add the array classes"),
        ({"classes": 2}, "has the label 2 at index 0: with 2 classes"),
        ({"classes": 2.5}, "'classes' of .* is 2.5"),
        ({"classes": 10**7}, "'classes' of .* is 10,000,000: give at most 1,048,576"),
        ({"images": None, "imgs": PIXELS}, "has no array 'images': did you mean 'imgs'"),
        ({"images": None, "X": PIXELS}, "has no array 'images': it has X, labels: save it with numpy.savez"),
        ({"images": None, "labels": None}, "has no array 'images': it has no arrays: save it with"),
    ],
)
def test_each_wrong_array_is_named(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    """What is wrong with an array is said in one line."""
    given = {key: value for key, value in {"images": PIXELS, "labels": LABELS, **arrays}.items() if value is not None}
    with pytest.raises(UserError, match=message) as caught:
        Npz(save(tmp_path / "a.npz", **given)).split("test")
    assert "\n" not in str(caught.value)


def test_arrays_of_another_machine_are_read(tmp_path: Path) -> None:
    """An array whose bytes stand in the other order gives the same images and labels."""
    swapped = save(tmp_path / "a.npz", images=FLOATS.astype(">f4"), labels=LABELS.astype(">i8"))
    native = save(tmp_path / "b.npz", images=FLOATS.astype("<f4"), labels=LABELS.astype("<i8"))
    one, other = (Npz(name).split("test").batch(torch.arange(4)) for name in (swapped, native))
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])


def test_shapes_of_the_splits_must_agree(tmp_path: Path) -> None:
    """Train images of another size than the test images are refused."""
    name = save(tmp_path / "a.npz", images=PIXELS, labels=LABELS, train_images=PIXELS[:, 1:], train_labels=LABELS)
    with pytest.raises(UserError, match=r"shape \(1, 4, 6\): it must give torch.float32 and \(1, 5, 6\)"):
        Npz(name).split("train")


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("bare", [False, True])
def test_pickled_objects_are_not_loaded(tmp_path: Path, bare: bool) -> None:
    """A pickle, in an array or as the whole file, is refused and does not run."""
    mark, file = tmp_path / "mark", tmp_path / "a.npz"
    if bare:
        file.write_bytes(pickle.dumps(Touch(mark)))
    else:
        save(file, images=np.array([Touch(mark)], dtype=object), labels=LABELS)
    with pytest.raises(UserError, match="holds pickled objects, which could run code and are not loaded"):
        Npz(str(file))
    assert not mark.exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"PK\x05\x06", b"<html></html>"])
def test_damaged_files_are_named(tmp_path: Path, content: bytes) -> None:
    """A file that is no archive is named in one line."""
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(UserError, match=rf"^{tmp_path}/a.npz cannot be read as an .npz file"):
        Npz(str(tmp_path / "a.npz"))


def test_a_single_array_is_refused(tmp_path: Path) -> None:
    """An ``.npy`` file under another name is told from an archive."""
    np.save(tmp_path / "a.npy", PIXELS)
    with pytest.raises(UserError, match="is a single array"):
        Npz(str(tmp_path / "a.npy"))


def test_no_file(tmp_path: Path) -> None:
    """A path that is no file is named."""
    with pytest.raises(UserError, match=f"no file {tmp_path}/b.npz"):
        Npz(str(tmp_path / "b.npz"))


def packed(path: Path, *, method: int = zipfile.ZIP_DEFLATED, **members: bytes) -> str:
    """An archive with any bytes as its arrays."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return str(path)


def head(shape: tuple[int, ...], kind: str = "|u1") -> bytes:
    """The header of an ``.npy`` file."""
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(content, {"descr": kind, "fortran_order": False, "shape": shape})
    return content.getvalue()


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    """An array that unpacks to a thousand times its size is refused before, and the memory is never taken."""
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("images.npy", "w", force_zip64=True) as stream:
            stream.write(head((320, 512, 512)))
            for _ in range(320):
                stream.write(bytes(512 * 512))
        archive.writestr("labels.npy", head((320,), "<i8") + bytes(2560))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(
        UserError, match=r"a.npz cannot be read .*'images' would unpack from [0-9,]+ to 83,886,080 bytes"
    ):
        Npz(str(path))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**15


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (head((2**62,)), r"'images' has \d+ bytes, and its header says shape"),
        (head((2**40, 2**40)), r"'images' has \d+ bytes, and its header says shape"),
        (head((10, 8, 8)) + bytes(639), r"'images' has \d+ bytes, and its header says shape"),
        (head((10, 8, 8)) + bytes(2**20), r"'images' has \d+ bytes, and its header says shape"),
        (head((10, -8, 8)) + bytes(640), "cannot be read"),
        (head((10, 8, 8), "|O") + bytes(80), "holds pickled objects"),
        (head((10,), "|V0"), "'images' of|cannot be read"),
        (b"\x93NUMPY\x09\x00" + bytes(100), "of version 9.0"),
        (b"\x93NUMPY\x01\x00\xff\xff" + bytes(100), "cut off or damaged"),
        (b"\x93NUMPY\x01\x00\x10\x00__import__('os')" + bytes(100), "cut off or damaged"),
        (b"", "cut off or damaged"),
        (b"PK", "cut off or damaged"),
    ],
)
def test_a_header_that_is_not_what_it_says(tmp_path: Path, images: bytes, message: str) -> None:
    """An array whose header and content do not fit is named before memory is taken for it."""
    labels = head((10,), "<i8") + bytes(80)
    with pytest.raises(UserError, match=message) as refusal:
        Npz(packed(tmp_path / "a.npz", images=images, labels=labels))
    assert "\n" not in str(refusal.value)


def test_what_is_not_needed_is_not_unpacked(tmp_path: Path) -> None:
    """Another array of the file, damaged or full of objects, is of no account."""
    more = {"images": head((4, 5, 6)) + PIXELS.tobytes(), "labels": head((4,), "<i8") + LABELS.tobytes()}
    name = packed(tmp_path / "a.npz", other=b"nonsense", objects=head((3,), "|O"), **more)
    assert Npz(name).split("test").labels.tolist() == LABELS.tolist()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_every_compression(tmp_path: Path, method: int) -> None:
    """Each that an archive can have is read."""
    more = {"images": head((4, 5, 6)) + PIXELS.tobytes(), "labels": head((4,), "<i8") + LABELS.tobytes()}
    assert Npz(packed(tmp_path / "a.npz", method=method, **more)).split("test").labels.tolist() == LABELS.tolist()


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    """What is no regular file is refused at once, and never waited for."""
    os.mkfifo(tmp_path / "a.npz")
    with pytest.raises(UserError, match="no file"):
        Npz(str(tmp_path / "a.npz"))
    with pytest.raises(OSError, match="it is a pipe, not a file"):
        open_regular(tmp_path / "a.npz")


def test_own_images_have_no_usual_radius(tmp_path: Path) -> None:
    """The radius of a training on them is a default of this program, and not the literature's."""
    np.savez(tmp_path / "own.npz", images=np.zeros((4, 8, 8), dtype=np.uint8), labels=np.arange(4))
    assert not Npz(str(tmp_path / "own.npz")).has_usual_eps
    assert Digits().has_usual_eps

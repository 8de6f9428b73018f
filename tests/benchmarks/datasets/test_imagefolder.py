from __future__ import annotations

import io
import os
import socket
import struct
import subprocess
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from robustbench_cli.benchmarks.datasets.base.class_folders import files_in_class_folders
from robustbench_cli.benchmarks.datasets.imagefolder import ImageFolder
from robustbench_cli.core.errors import UserError


def write(folder: Path, name: str, value: int, *, size: tuple[int, int] = (6, 4), mode: str = "RGB") -> Path:
    """A file of one color, ``size`` (width, height), whose first channel is ``value``."""
    folder.mkdir(parents=True, exist_ok=True)
    color = value if mode in ("L", "I;16") else (value, 100, 200)
    Image.new(mode, size, color).save(folder / name)
    return folder / name


def fill(root: Path, *, each: int = 10) -> None:
    """Two classes: cats of red 0, 1, …; dogs of red 100, 101, …."""
    for k in range(each):
        write(root / "cat", f"{k:02}.png", k)
        write(root / "dog", f"{k:02}.png", 100 + k)


def test_train_and_test(tmp_path: Path) -> None:
    """Both splits are read, with the folders' names as classes, each image with its own label."""
    fill(tmp_path / "train", each=6)
    fill(tmp_path / "test")
    dataset = ImageFolder(str(tmp_path))
    assert (dataset.classes, dataset.shape) == (2, (3, 4, 6))
    for split, each in (("train", 6), ("test", 10)):
        images, labels = dataset.split(split).batch(torch.arange(2 * each))
        assert images.shape == (2 * each, 3, 4, 6)
        red = (images[:, 0, 0, 0] * 255).round().int()
        assert sorted(red.tolist()) == [*range(each), *range(100, 100 + each)]
        assert torch.equal(labels, (red >= 100).long())
        assert torch.equal((images[:, 1:, 1, 1] * 255).round().int(), torch.tensor([[100, 200]] * (2 * each)).int())


def test_the_order_is_shuffled_and_fixed(tmp_path: Path) -> None:
    """The first examples are of all classes, and the same each time."""
    fill(tmp_path / "val")
    first = ImageFolder(str(tmp_path)).split("test").labels
    assert 0 < first[:8].sum() < 8
    assert torch.equal(first, ImageFolder(str(tmp_path)).split("test").labels)


def test_class_folders_alone_are_the_test_split(tmp_path: Path) -> None:
    """A folder of class folders has a test split, and says why it has no other."""
    fill(tmp_path)
    dataset = ImageFolder(str(tmp_path))
    assert len(dataset.split("test")) == 20
    with pytest.raises(UserError, match="all its images are the test split and none are left to train on"):
        dataset.split("train")


def test_images_of_two_sizes_name_one_of_them(tmp_path: Path) -> None:
    """Two sizes are refused when the image is needed, not silently resized."""
    fill(tmp_path)
    odd = write(tmp_path / "dog", "odd.png", 5, size=(7, 4))
    split = ImageFolder(str(tmp_path)).split("test")
    with pytest.raises(UserError, match=rf"^{odd} is 7 x 4, and other .* are 6 x 4: .* with --image-size"):
        split.batch(torch.arange(21))


def test_gray_files_become_three_channels(tmp_path: Path) -> None:
    """A gray image among color ones is read with three equal channels, as torchvision does."""
    write(tmp_path / "a", "0.png", 51)
    write(tmp_path / "b", "0.png", 51, mode="L")
    images, labels = ImageFolder(str(tmp_path)).split("test").batch(torch.arange(2))
    assert np.allclose(images[labels == 1].numpy(), 0.2)


def test_sixteen_bits_are_refused(tmp_path: Path) -> None:
    """An image of 16 bits is refused where a conversion would cut its values off."""
    write(tmp_path / "a", "0.png", 40000, mode="I;16")
    with pytest.raises(UserError, match="more than 8 bits a channel"):
        ImageFolder(str(tmp_path))


def test_files_that_are_no_images_are_named(tmp_path: Path) -> None:
    """A damaged image is named in one line."""
    fill(tmp_path)
    broken = tmp_path / "cat" / "05.png"
    broken.write_bytes(broken.read_bytes()[:45])
    with pytest.raises(UserError, match=rf"^{broken} cannot be read as an image"):
        ImageFolder(str(tmp_path)).split("test").batch(torch.arange(20))


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ([], "holds no folders: give one for each class"),
        (["train/cat"], "has a folder train and neither test nor val"),
        (["test"], "test holds no folders"),
        (["cat"], "has no images of cat: each class folder must have some"),
    ],
)
def test_folders_without_images(tmp_path: Path, folders: list[str], message: str) -> None:
    """Each wrong layout says what is missing."""
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(UserError, match=message):
        ImageFolder(str(tmp_path))


def test_splits_with_other_classes_are_refused(tmp_path: Path) -> None:
    """Train and test must have the same class folders, since labels count them."""
    fill(tmp_path / "test")
    fill(tmp_path / "train")
    write(tmp_path / "train" / "bird", "0.png", 1)
    with pytest.raises(UserError, match=r"differ \(bird\)"):
        ImageFolder(str(tmp_path))


def test_no_folder(tmp_path: Path) -> None:
    """A path that is no folder is named."""
    with pytest.raises(UserError, match=f"no folder {tmp_path}/x"):
        ImageFolder(str(tmp_path / "x"))


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *, bits: int = 8, colors: int = 2, rows: bytes = b"") -> bytes:
    """A PNG file with any header, whatever it holds."""
    header = struct.pack(">IIBBBBB", width, height, bits, colors, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def saved(image: Image.Image, form: str, **more: Any) -> bytes:
    """The file of an image."""
    content = io.BytesIO()
    image.save(content, form, **more)
    return content.getvalue()


RED, BLUE = Image.new("RGB", (6, 4), (200, 0, 0)), Image.new("RGB", (6, 4), (0, 0, 200))
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (POSTSCRIPT, "cannot be read as an image: save it as one of PNG, JPEG"),
        (saved(RED, "PDF"), "cannot be read as an image: save it as one of"),
        (saved(RED, "GIF"), "cannot be read as an image: save it as one of"),
        (b"", "cannot be read as an image"),
        (png(60_000, 60_000), "has too many pixels: an image may have 5,592,405"),
        (png(2**31 - 1, 1), "has too many pixels|x 1 pixels"),
        (png(10_000, 10_000), "has 10000 x 10000 pixels: an image may have 5,592,405, resize it first"),
        (png(6, 4, bits=16, rows=(b"\0" + bytes(36)) * 4), "has more than 8 bits a channel"),
        (png(6, 4, bits=16, colors=6, rows=(b"\0" + bytes(48)) * 4), "has more than 8 bits a channel"),
        (b"P6 6 4 65535\n" + bytes(144), "has more than 8 bits a channel"),
        (saved(RED, "PNG")[:50], "cannot be read as an image"),
        (saved(RED, "JPEG")[:200], "cannot be read as an image"),
        (saved(RED, "PNG", save_all=True, append_images=[BLUE]), "holds 2 pictures: save each in a file of its own"),
        (saved(RED, "WEBP", save_all=True, append_images=[BLUE]), "holds 2 pictures"),
        (saved(RED, "TIFF", save_all=True, append_images=[BLUE]), "holds 2 pictures"),
        (saved(Image.new("RGBA", (6, 4), (9, 9, 9, 128)), "PNG"), "has transparent pixels: save it on a background"),
        (saved(Image.new("P", (6, 4)), "PNG", transparency=0), "has transparent pixels"),
        (saved(Image.new("LA", (6, 4), (9, 0)), "PNG"), "has transparent pixels"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else str(len(value)),
)
def test_each_file_that_is_not_such_an_image_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, message: str
) -> None:
    """Whatever a file of an image's name holds, it is told in one line; no program is started and nothing is unpacked."""
    monkeypatch.setattr(subprocess, "Popen", None)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.png").write_bytes(content)
    with pytest.raises(UserError, match=rf"^{tmp_path}/a/0\.png ({message})") as refusal:
        ImageFolder(str(tmp_path))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "folder", "nowhere", "itself"])
def test_only_files_are_opened(tmp_path: Path, kind: str) -> None:
    """What is no file, and may have no end or make one wait for ever, is named."""
    path = tmp_path / "a" / "0.png"
    path.parent.mkdir()
    listener = socket.socket(socket.AF_UNIX)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        listener.bind(os.path.relpath(path))
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to({"device": "/dev/zero", "nowhere": tmp_path / "gone.png", "itself": path}[kind])
    with pytest.raises(
        UserError, match="has no images of a" if kind == "folder" else rf"^{path} cannot be read"
    ) as told:
        ImageFolder(str(tmp_path))
    listener.close()
    assert "\n" not in str(told.value)


def test_links_that_lead_back_are_gone_through_once(tmp_path: Path) -> None:
    """A folder inside itself has the images that it has, and links to other folders are followed."""
    fill(tmp_path / "data", each=2)
    write(tmp_path / "more", "z.png", 50)
    for name in ("one", "two", "three"):
        (tmp_path / "data" / "cat" / name).symlink_to(tmp_path / "data" / "cat", target_is_directory=True)
    (tmp_path / "data" / "dog" / "more").symlink_to(tmp_path / "more", target_is_directory=True)
    assert ImageFolder(str(tmp_path / "data")).split("test").labels.bincount().tolist() == [2, 3]


@pytest.mark.parametrize("form", ["PNG", "JPEG", "PPM", "BMP", "TIFF", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "1"])
def test_every_format_gives_what_pillow_does(tmp_path: Path, form: str, mode: str) -> None:
    """Each supported format is read under any image's name, in every kind of 8 bits, as Pillow converts it."""
    picture = Image.fromarray(np.arange(72, dtype=np.uint8).reshape(4, 6, 3) * 3).convert(mode)
    try:
        content = saved(picture, form)
    except OSError:
        content = saved(picture.convert("RGB"), form)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.jpg").write_bytes(content)
    images, _ = ImageFolder(str(tmp_path)).load("test").batch(torch.arange(1))
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    assert np.array_equal((images[0] * 255).round().permute(1, 2, 0).numpy(), expected)


def test_the_order_is_torchvisions(tmp_path: Path) -> None:
    """The files have the order and the labels that torchvision gives them, so that stored results stay what they are."""
    for name in ("b/1.png", "b/a/0.png", "b/c/9.JPG", "B/2.tiff", "b/0.webp", "a/z/y/x.png"):
        write((tmp_path / name).parent, Path(name).name, 3)
    expected = torchvision.datasets.ImageFolder(str(tmp_path)).samples
    samples = [(str(file), label) for file, label in files_in_class_folders(tmp_path, {"B": 0, "a": 1, "b": 2})]
    assert samples == expected

from __future__ import annotations

import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image
from torchvision.models import ResNet18_Weights

from robustbench_cli.benchmarks.datasets.base.load import load_dataset
from robustbench_cli.benchmarks.datasets.base.split import Split
from robustbench_cli.benchmarks.datasets.imagenet import ImageNet, _imagenet_classes
from robustbench_cli.core.errors import UserError

from .conftest import package

SYNSETS = (package("timm") / "data/_info/imagenet_synsets.txt").read_text(encoding="utf-8").split()
"""The class order of another library."""


def labels(name: str) -> list[int]:
    return load_dataset(name).split("test").labels.tolist()


def jpeg(path: Path, *, level: int = 0, size: tuple[int, int] = (12, 10)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (level, level, level)).save(path)


@pytest.fixture
def synset_folders(tmp_path: Path, foolbox_images: dict[str, Path]) -> Path:
    """Foolbox's twenty ImageNet images in folders of their synsets, as in a validation folder."""
    for path in foolbox_images["imagenet"].glob("*.jpg"):
        number = int(path.stem.rpartition("_")[2])
        (tmp_path / "data" / "val" / SYNSETS[number]).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / "data" / "val" / SYNSETS[number])
    return tmp_path / "data"


def flat(folder: Path, count: int = 4) -> Path:
    """Validation images under their original names; the level of image i is i."""
    for number in range(1, count + 1):
        jpeg(folder / f"ILSVRC2012_val_{number:08}.JPEG", level=number)
    return folder


def devkit(folder: Path, numbers: list[int], order: list[int]) -> None:
    """A development kit whose class i + 1 is the synset ``order[i]``, with a few parents behind them."""
    folder.mkdir(parents=True)
    kinds = [("ILSVRC2012_ID", float), ("WNID", object), ("words", object), ("gloss", object), ("num_children", float)]
    rows = [(i + 1, SYNSETS[number], "words", "gloss", 0) for i, number in enumerate(order)]
    rows += [(1001 + i, f"n9999999{i}", "a parent", "gloss", 3) for i in range(5)]
    table = np.array(rows, dtype=kinds)[:, None]
    scipy.io.savemat(folder / "meta.mat", {"synsets": table}, do_compression=True)
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(f"{number}\n" for number in numbers))


def test_the_classes_are_those_of_other_libraries() -> None:
    """Timm's synsets, and torchvision's names of its published weights, in one order."""
    synsets, names = _imagenet_classes()
    assert list(synsets) == SYNSETS == sorted(SYNSETS)
    assert list(names) == ResNet18_Weights.DEFAULT.meta["categories"]


def test_some_synset_folders_keep_the_numbers_of_all(synset_folders: Path) -> None:
    """Twenty images of twenty classes have Foolbox's labels, from the folder above and from the folder itself."""
    for path in (synset_folders, synset_folders / "val"):
        dataset = load_dataset(f"imagenet:{path}?image_size=32")
        assert (dataset.classes, dataset.eps, dataset.shape) == (1000, "4/255", (3, 32, 32))
        split = dataset.split("test")
        numbers = [int(file.stem.rpartition("_")[2]) for file in synset_folders.glob("val/*/*")]
        assert sorted(split.labels.tolist()) == sorted(numbers) != split.labels.tolist()


def test_a_list_of_ids_is_evaluated_in_its_order(synset_folders: Path, tmp_path: Path) -> None:
    """As RobustBench lists its 5,000 images: a synset and a file a line."""
    paths = sorted(synset_folders.glob("val/*/*"), reverse=True)[:7]
    (tmp_path / "ids.txt").write_text("".join(f"{path.parent.name}/{path.name}\n" for path in paths))
    name = f"imagenet:{synset_folders}?ids={tmp_path}/ids.txt&image_size=16"
    assert labels(name) == [int(path.stem.rpartition("_")[2]) for path in paths]
    for line, message in (
        ("n01440764/no.JPEG", "line 8: no file .*n01440764/no.JPEG: the list and the folder do not fit"),
        ("../x.JPEG", r"line 8: '\.\./x.JPEG': give SYNSET/FILE.JPEG"),
        ("n01440764/../../../../x.JPEG", "line 8: '.*': give SYNSET/FILE.JPEG"),
    ):
        with (tmp_path / "ids.txt").open("a") as file:
            file.write(line)
        with pytest.raises(UserError, match=f"ids.txt, {message}"):
            ImageNet(str(synset_folders), ids=f"{tmp_path}/ids.txt")
        text = (tmp_path / "ids.txt").read_text()
        (tmp_path / "ids.txt").write_text(text.removesuffix(line))


def test_a_list_of_ids_agrees_with_the_file_of_labels(tmp_path: Path) -> None:
    """In one folder, a synset of the list that contradicts the labels is named; without a synset nothing can."""
    folder = flat(tmp_path / "val", 3)
    names = [f"ILSVRC2012_val_{number:08}.JPEG" for number in (1, 2, 3)]
    rows = [f"{name},{SYNSETS[label]}\n" for name, label in zip(names, (5, 7, 0), strict=True)]
    (folder / "labels.csv").write_text(f"file,label\n{''.join(rows)}")
    ids = tmp_path / "ids.txt"
    for lines, expected in (
        ([f"{SYNSETS[0]}/{names[2]}", f"{SYNSETS[5]}/{names[0]}"], [0, 5]),
        (names[::-1], [0, 7, 5]),
    ):
        ids.write_text("\n".join(lines))
        assert ImageNet(str(tmp_path), ids=str(ids)).split("test").labels.tolist() == expected
    for line, message in (
        (
            f"{SYNSETS[0]}/{names[1]}",
            rf"line 2: n01440764/{names[1]} is of class 0 \(tench\), and the file of labels says 7 \(cock\): one of the two",
        ),
        (f"val/{names[1]}", f"line 2: 'val/{names[1]}': give SYNSET/FILE.JPEG"),
    ):
        ids.write_text(f"{SYNSETS[5]}/{names[0]}\n{line}\n{SYNSETS[9]}/{names[2]}\n")
        with pytest.raises(UserError, match=message):
            ImageNet(str(tmp_path), ids=str(ids))


def test_one_order_in_every_layout(tmp_path: Path) -> None:
    """The same photographs come first in one folder, in synset folders, without some of them, and in ImageNet-C."""
    flat(tmp_path / "flat", 24)
    rows = []
    for path in sorted((tmp_path / "flat").iterdir()):
        synset = SYNSETS[int(path.stem[-2:]) // 9]
        rows.append(f"{path.name},{synset}\n")
        for folder in ("synsets", "c/snow/1", "c/fog/1", "c/fog/2"):
            (tmp_path / folder / synset).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, tmp_path / folder / synset)
    (tmp_path / "flat" / "labels.csv").write_text(f"file,label\n{''.join(rows)}")

    def order(split: Split) -> list[int]:
        return [round(255 * float(level)) for level in split.first(24)[0].mean(dim=(1, 2, 3))]

    first = order(load_dataset(f"imagenet:{tmp_path}/flat").split("test"))
    assert sorted(first) == [*range(1, 25)] and {level // 9 for level in first[:6]} == {0, 1, 2}
    assert order(load_dataset(f"imagenet:{tmp_path}/synsets").split("test")) == first
    published = load_dataset(f"imagenet-c:{tmp_path}/c")
    for corruption, severity in (("snow", 1), ("fog", 1), ("fog", 2)):
        assert order(published.published(corruption, severity)) == first
    for path in sorted((tmp_path / "synsets").glob("*/*"))[::3]:
        first.remove(int(path.stem[-2:]))
        path.unlink()
    assert order(ImageNet(str(tmp_path / "synsets")).split("test")) == first


def test_class_numbers_as_folders_are_not_sorted_as_text(tmp_path: Path) -> None:
    """ImageNet-V2 calls its folders 0 to 999; sorted as text, 10 comes before 2."""
    for number in (0, 2, 10, 999):
        jpeg(tmp_path / str(number) / "a.jpeg")
    assert sorted(labels(f"imagenet:{tmp_path}")) == [0, 2, 10, 999]


def test_other_folders_need_a_list_of_classes(tmp_path: Path) -> None:
    """A folder that is no class is named, and a list gives the order of the model's outputs."""
    for name in ("zebra", "cat", "dog"):
        jpeg(tmp_path / "val" / name / "a.jpg")
    with pytest.raises(UserError, match="val has the folder cat, which is not among the 1,000 classes"):
        ImageNet(str(tmp_path))
    (tmp_path / "classes.txt").write_text("zebra\nhorse\ndog\ncat\n")
    dataset = load_dataset(f"imagenet:{tmp_path}?class_list={tmp_path}/classes.txt")
    assert (dataset.classes, dataset.class_names) == (4, ("zebra", "horse", "dog", "cat"))
    assert sorted(dataset.split("test").labels.tolist()) == [0, 2, 3]


@pytest.mark.parametrize("place", ["ILSVRC2012_devkit_t12/data", "val"])
def test_the_flat_folder_with_the_development_kit(tmp_path: Path, place: str) -> None:
    """The kit numbers the classes in an order of its own, which its meta.mat tells; each image keeps its label."""
    order = [*np.random.RandomState(5).permutation(1000)]
    kit = tmp_path / place
    devkit(kit, [3, 1000, 1, 3], order)
    flat(tmp_path / "val")
    split = load_dataset(f"imagenet:{tmp_path}").split("test")
    images, got = split.first(4)
    truth = {1: order[2], 2: order[999], 3: order[0], 4: order[2]}
    assert got.tolist() == [truth[round(float(image.mean()) * 255)] for image in images]


def test_the_flat_folder_with_kaggles_file_and_with_a_csv(tmp_path: Path) -> None:
    """Kaggle's file is beside its folder ILSVRC, and has boxes behind the synset."""
    folder = flat(tmp_path / "kaggle/ILSVRC/Data/CLS-LOC/val", 2)
    (tmp_path / "kaggle" / "LOC_val_solution.csv").write_text(
        f"ImageId,PredictionString\nILSVRC2012_val_00000002,{SYNSETS[7]} 1 2 3 4 {SYNSETS[7]} 5 6 7 8 \n"
        f"ILSVRC2012_val_00000001,{SYNSETS[995]} 85 1 499 272 \n"
    )
    assert sorted(labels(f"imagenet:{tmp_path}/kaggle")) == [7, 995]
    (folder / "labels.csv").write_text(
        "file,label\nILSVRC2012_val_00000001.JPEG,12\nILSVRC2012_val_00000002.JPEG,n01440764\n"
    )
    assert sorted(labels(f"imagenet:{folder}")) == [0, 12]


def test_images_of_any_names_with_a_csv(tmp_path: Path) -> None:
    """The file of labels is in the folder of the images, or above it; two endings of one name are two images."""
    for name in ("a.png", "a.JPEG", "b.JPEG"):
        jpeg(tmp_path / "val" / name)
    table = f"file,label\na.png,12\na.JPEG,{SYNSETS[0]}\nb,3\n"
    for folder in (tmp_path, tmp_path / "val"):
        (folder / "labels.csv").write_text(table)
        for path in (tmp_path, tmp_path / "val"):
            assert sorted(labels(f"imagenet:{path}")) == [0, 3, 12]
        (folder / "labels.csv").unlink()
    (tmp_path / "classes.txt").write_text("zebra\ngreat gray owl\n")
    (tmp_path / "val" / "labels.csv").write_text("file,label\na.png,zebra\na.JPEG,great gray owl\nb.JPEG,zebra\n")
    assert sorted(labels(f"imagenet:{tmp_path}?class_list={tmp_path}/classes.txt")) == [0, 0, 1]
    jpeg(tmp_path / "val" / "c.jpg")
    with pytest.raises(UserError, match=r"c\.jpg has no label in the file of labels"):
        ImageNet(str(tmp_path), class_list=f"{tmp_path}/classes.txt")


def test_a_flat_folder_without_its_labels(tmp_path: Path) -> None:
    """Each missing or wrong file of labels is told."""
    flat(tmp_path / "val")
    with pytest.raises(UserError, match="has all images in one folder, and no file of labels is there: put"):
        ImageNet(str(tmp_path))
    devkit(tmp_path / "data", [1, 2, 3], [*range(1000)])
    with pytest.raises(UserError, match=r"ILSVRC2012_val_00000004\.JPEG has no label"):
        ImageNet(str(tmp_path))
    truth = tmp_path / "data" / "ILSVRC2012_validation_ground_truth.txt"
    truth.write_text("1\n1002\n")
    with pytest.raises(UserError, match=r"line 2: '1002' is no class of meta\.mat"):
        ImageNet(str(tmp_path))
    truth.write_text("1\n\n2\n3\n4\n")
    with pytest.raises(UserError, match=r"ground_truth\.txt: line 2 is empty"):
        ImageNet(str(tmp_path))
    meta = tmp_path / "data" / "meta.mat"
    bomb = zlib.compress(bytes(2**25))
    kit = meta.read_bytes()
    head = kit[:128]
    for content, message in (
        # The element behind the kit's unpacks to nothing, and what follows it is beyond the largest size.
        (
            kit + (15).to_bytes(4, "little") + (2**24).to_bytes(4, "little") + zlib.compress(b"").ljust(2**24),
            r"it has more than 16,777,216 bytes",
        ),
        (b"nothing", "cannot be read as the development kit's meta.mat"),
        (
            head + (15).to_bytes(4, "little") + len(bomb).to_bytes(4, "little") + bomb,
            r"holds more than 16,777,216 bytes",
        ),
    ):
        meta.write_bytes(content)
        with pytest.raises(UserError, match=f"meta.mat .*{message}|meta.mat {message}") as refusal:
            ImageNet(str(tmp_path))
        assert "\n" not in str(refusal.value)
    meta.unlink()
    with pytest.raises(UserError, match=r"no file .*meta\.mat: it gives the synsets"):
        ImageNet(str(tmp_path))


def test_a_train_folder_beside(synset_folders: Path) -> None:
    """Training images are in synset folders; without them there is nothing to train on."""
    jpeg(synset_folders / "train" / SYNSETS[3] / "a.JPEG")
    name = f"imagenet:{synset_folders}?image_size=8"
    assert load_dataset(name).split("train").labels.tolist() == [3]
    with pytest.raises(UserError, match="has no folder train"):
        load_dataset(name.replace("data?", "data/val?")).split("train")
    with pytest.raises(UserError, match=r"no folder .*gone: give imagenet:PATH"):
        ImageNet(str(synset_folders / "gone"))


def test_original_names_beside_synset_folders(tmp_path: Path) -> None:
    """One stray file must not hide the class folders."""
    jpeg(tmp_path / SYNSETS[3] / "a.JPEG")
    flat(tmp_path, 1)
    (tmp_path / "LOC_val_solution.csv").write_text(
        f"ImageId,PredictionString\nILSVRC2012_val_00000001,{SYNSETS[7]} 1 2\n"
    )
    with pytest.raises(
        UserError, match=r"ILSVRC2012_val_00000001\.JPEG, and class folders, such as n01491361: move one"
    ):
        ImageNet(str(tmp_path))

"""The page on the first ImageNet model: its files, on the real weights and photographs that it names."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.benchmarks.datasets.base.load import load_dataset
from robustbench_cli.benchmarks.datasets.base.slice import first_examples
from robustbench_cli.benchmarks.models.base.build import build_model

PAGE = (Path(__file__).parents[2] / "docs" / "first-imagenet-model.md").read_text(encoding="utf-8")


def option(name: str) -> str:
    """The value of an option of the page's first attack."""
    found = re.search(rf"--{name} '?([^'` ]+)", PAGE)
    assert found is not None
    return found[1]


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files of the page, after `python photos.py`."""
    for name, text in re.findall(r"```python\n# (\S+)\n(.*?)```", PAGE, re.DOTALL):
        (tmp_path / name).write_text(text, encoding="utf-8")
    subprocess.run([sys.executable, "photos.py"], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_model_is_right_and_pgd_breaks_it(page: Path) -> None:
    """18 of 20 photographs are right, as the page says, and three steps at 1/255 leave at most two."""
    photos = load_dataset(
        option("dataset"),
        image_size=option("image-size"),
        resize=int(option("resize")),
        interpolation=option("interpolation"),
    )
    test = first_examples(photos.split("test"), 20)
    model = build_model(
        option("model"), shape=photos.shape, classes=1000, mean=float(option("mean")), std=float(option("std"))
    ).eval()
    right = model(test.images).argmax(1) == test.labels
    assert int(right.sum()) == 18
    perturbed = PGD(steps=3)(model, test.images[right], test.labels[right], norm="linf", eps=1 / 255)
    assert int((model(perturbed).argmax(1) == test.labels[right]).sum()) <= 2

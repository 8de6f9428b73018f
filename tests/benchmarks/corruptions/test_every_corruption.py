"""What every corruption has to do: look as the published ones do, and change an image whatever is beside it."""

from __future__ import annotations

import csv
import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from robustbench_cli.benchmarks.corruptions import BENCHMARK, SEVERITIES, frost, registry
from robustbench_cli.benchmarks.corruptions.base.corruption import Corruption

HERE = Path(__file__).parent
LINES = (HERE / "imagecorruptions_statistics.csv").read_text(encoding="utf-8").splitlines()
REFERENCE = {(row["corruption"], int(row["severity"])): row for row in csv.DictReader(LINES)}

IMAGE, CHANGE = ("mean", "std"), ("change", "band_0")

EXACT = {"image": 0.005, "change": 0.06, "bands": 0.03}
"""The tolerances of a corruption without large random patterns, relative to the reference: of the corrupted image, of the size of
the change, which is small in the lowest frequencies, and of its other frequencies.
"""

PATTERNS = {
    "motion-blur": {"image": 0.01, "change": 0.04, "bands": 0.03},
    "snow": {"image": 0.01, "change": 0.04, "bands": 0.08},
    "fog": {"image": 0.12, "change": 0.2, "bands": 0.02},
    "frost": {"image": 0.12, "change": 0.25, "bands": 0.3},
    "spatter": {"image": 0.01, "change": 0.15, "bands": 0.15},
}
"""The tolerances of those with patterns: twenty images do not show the mean of all patterns. Frost is synthetic here."""

OTHERS = {("pixelate", 3), *(("elastic-transform", severity) for severity in SEVERITIES)}
"""What imagecorruptions makes in another way than the paper's code: it enlarges to the nearest pixel, which differs where a pixel
is in the middle of two, and it has other parameters for the elastic transform.
"""


def load_helpers() -> Any:
    spec = importlib.util.spec_from_file_location("statistics_of_images", HERE / "statistics_of_images.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


helpers = load_helpers()


@pytest.fixture(scope="module")
def photographs() -> Tensor:
    """Five photographs ``(5, 3, 160, 160)``, uint8, of Foolbox's package."""
    package = importlib.util.find_spec("foolbox")
    assert package is not None and package.origin is not None
    return torch.from_numpy(helpers.photographs(Path(package.origin).parent / "data", 5)).permute(0, 3, 1, 2)


def as_arrays(images: Tensor) -> list[np.ndarray[Any, Any]]:
    return list(images.permute(0, 2, 3, 1).double().numpy())


@pytest.mark.parametrize("name", registry.names())
def test_it_looks_as_in_imagecorruptions(name: str, photographs: Tensor) -> None:
    """Brightness, contrast and the power spectrum of the change are those of Hendrycks' code, as imagecorruptions has it."""
    repeats = 4 if name in PATTERNS else 1
    images = photographs.repeat(repeats, 1, 1, 1)
    clean = as_arrays(images / 255)
    tolerance = PATTERNS.get(name, EXACT)
    for severity in (1, 5) if name in PATTERNS else SEVERITIES:
        if (name, severity) in OTHERS:
            continue
        corruption: Corruption = registry.load(name)(severity=severity)
        found = helpers.statistics(clean, as_arrays(corruption(images)))
        for key in helpers.NAMES:
            limit = tolerance["image" if key in IMAGE else "change" if key in CHANGE else "bands"]
            assert found[key] == pytest.approx(float(REFERENCE[name, severity][key]), rel=limit), (severity, key)


def test_frost_has_the_statistics_of_the_photographs() -> None:
    """Its numbers are those that frost_photographs.py measures."""
    rows = list(csv.reader((HERE / "frost_photographs.csv").read_text(encoding="utf-8").splitlines()))[1:]
    measured: dict[str, dict[str, tuple[float, ...]]] = {}
    for file, name, *values in rows:
        measured.setdefault(file, {})[name] = tuple(map(float, values))
    for photograph, expected in zip(frost._PHOTOGRAPHS, measured.values(), strict=True):
        found = photograph._asdict() | {"slope": (photograph.slope,)}
        assert found == {name: expected[name] for name in found}
    assert pytest.approx(np.mean([expected["crop_mean_std"] for expected in measured.values()]), abs=0.005) == (
        frost._CROP_MEAN_STD
    )


def natural(channels: int, side: int) -> Tensor:
    """Four smooth images ``(4, C, side, side)``, uint8."""
    generator = torch.Generator().manual_seed(side)
    coarse = torch.rand(4, channels, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic").clamp(0, 1)
    return (smooth * 255).to(torch.uint8)


@pytest.mark.parametrize("name", registry.names())
@pytest.mark.parametrize(("channels", "side"), [(1, 8), (3, 32)])
def test_an_image_is_corrupted_alone(name: str, channels: int, side: int) -> None:
    """Its batch changes nothing; it stays an image of 8 bits; the input stays as it was; another seed is another pattern."""
    images = natural(channels, side)
    before = images.clone()
    corruption: Corruption = registry.load(name)(severity=5)
    together = corruption(images, seed=3)
    assert torch.equal(images, before)
    assert together.shape == images.shape and together.dtype == torch.float32
    levels = together * 255
    assert torch.equal(levels, levels.round().clamp(0, 255))
    for index in (3, 1):
        assert torch.equal(
            corruption(images[index : index + 1], seed=3, indices=torch.tensor([index]))[0], together[index]
        )
    assert torch.equal(corruption(images, seed=4), together) == (name in WITHOUT_CHANCE)


WITHOUT_CHANCE = {
    *(
        "brightness",
        "contrast",
        "defocus-blur",
        "gaussian-blur",
        "jpeg-compression",
        "pixelate",
        "saturate",
        "zoom-blur",
    ),
}


@pytest.mark.parametrize("name", sorted({*registry.names()} - {"elastic-transform", "frost", "saturate"}))
@pytest.mark.parametrize("side", [32, 64])
def test_the_highest_severity_changes_more(name: str, side: int) -> None:
    """The fifth severity is farther from the image than the first, for the parameters of small images.

    Not so where the image weighs less, where the first severities move the whole image, or where colors fade first.
    """
    images = natural(3, side)
    weak, strong = ((registry.load(name)(severity=severity)(images) - images / 255).abs().mean() for severity in (1, 5))
    assert 0 < weak < strong


def test_the_benchmark_is_part_of_the_corruptions() -> None:
    """The four others are those of the paper's appendix."""
    assert {*registry.names()} - {*BENCHMARK} == {"speckle-noise", "gaussian-blur", "spatter", "saturate"}

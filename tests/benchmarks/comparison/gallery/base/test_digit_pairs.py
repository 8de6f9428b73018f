from __future__ import annotations

import torch

from robustbench_cli.benchmarks.comparison.gallery.base.digit_pairs import DigitPairs
from robustbench_cli.benchmarks.datasets.digits import Digits


def test_a_pair_shows_its_two_places() -> None:
    """Both halves of an image are digits of the split, whose classes are the places of its class."""
    pairs, digits = DigitPairs().split("test"), Digits().split("test")
    images, known = pairs.first(20)[0], digits.first(len(digits.labels))[0].flatten(1)
    for image, label in zip(images, pairs.labels[:20].tolist(), strict=True):
        places = []
        for half in image.split(8, dim=2):
            same = (known == half.flatten()).all(1)
            places.append(int(digits.labels[same.nonzero()[0, 0]]))
        assert 10 * places[0] + places[1] == label
    assert torch.equal(DigitPairs().split("test").labels, pairs.labels)

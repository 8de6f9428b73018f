"""CIFAR-100, as torchvision reads it."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torchvision

from robustbench_cli.benchmarks.datasets.base.dataset import SplitName
from robustbench_cli.benchmarks.datasets.base.downloaded import Downloaded

__all__ = ["Cifar100"]


_NAMES = """
apple, aquarium fish, baby, bear, beaver, bed, bee, beetle, bicycle, bottle, bowl, boy, bridge, bus, butterfly,
camel, can, castle, caterpillar, cattle, chair, chimpanzee, clock, cloud, cockroach, couch, crab, crocodile, cup,
dinosaur, dolphin, elephant, flatfish, forest, fox, girl, hamster, house, kangaroo, keyboard, lamp, lawn mower,
leopard, lion, lizard, lobster, man, maple tree, motorcycle, mountain, mouse, mushroom, oak tree, orange, orchid,
otter, palm tree, pear, pickup truck, pine tree, plain, plate, poppy, porcupine, possum, rabbit, raccoon, ray, road,
rocket, rose, sea, seal, shark, shrew, skunk, skyscraper, snail, snake, spider, squirrel, streetcar, sunflower,
sweet pepper, table, tank, telephone, television, tiger, tractor, train, trout, tulip, turtle, wardrobe, whale,
willow tree, wolf, woman, worm
"""


class Cifar100(Downloaded):
    """CIFAR-100: 600 images of each of 100 classes, color, 32 x 32; 50,000 train and 10,000 test."""

    paper: ClassVar[str] = "A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, technical report 2009"
    epochs: ClassVar[int] = 30
    eps: ClassVar[str] = "8/255"
    augmentations: ClassVar[tuple[str, ...]] = ("crop", "flip")
    files: ClassVar[str] = "cifar-100-python"
    classes = 100
    class_names = tuple(name.strip() for name in _NAMES.split(","))
    shape = (3, 32, 32)

    def open(self, name: SplitName, *, root: Path, download: bool) -> torchvision.datasets.CIFAR100:
        return torchvision.datasets.CIFAR100(root, train=name == "train", download=download)

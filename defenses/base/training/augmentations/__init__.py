"""The augmentations of training images, one file each; a file named ``random_resized_crop.py`` is ``random-resized-crop``."""

from robustbench_cli.core.registry import Registry

__all__ = ["registry"]

registry = Registry(kind="augmentation", package=__name__, base=f"{__name__}.base.augmentation:Augmentation")

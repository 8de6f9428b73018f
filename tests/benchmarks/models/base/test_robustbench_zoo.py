from __future__ import annotations

from collections import Counter

import pytest
import torch

from robustbench_cli.benchmarks.models.base.robustbench_zoo import find_entry, zoo
from robustbench_cli.core.errors import UserError


def test_it_has_the_entries_of_robustbench() -> None:
    """As many as the tables of RobustBench 1.1.1 have for each data set and threat model, each once."""
    assert Counter((entry.dataset, entry.threat_model) for entry in zoo()) == {
        ("cifar10", "Linf"): 76,
        ("cifar10", "L2"): 21,
        ("cifar10", "corruptions"): 17,
        ("cifar100", "Linf"): 38,
        ("cifar100", "corruptions"): 12,
        ("imagenet", "Linf"): 30,
        ("imagenet", "corruptions"): 12,
    }
    assert len({entry.path for entry in zoo()}) == 206


@pytest.mark.parametrize(
    ("path", "parameters"),
    [
        # Counted in RobustBench 1.1.1's networks, those of TRADES without the group that no image passes through.
        ("cifar10/Linf/Carmon2019Unlabeled", 36_479_194),
        ("cifar10/Linf/Rice2020Overfitting", 184_531_674),
        ("cifar10/Linf/Rebuffi2021Fixing_106_16_cutmix_ddpm", 415_475_162),
        ("cifar10/Linf/Rade2021Helper_R18_extra", 12_548_426),
        ("cifar10/Linf/Wong2020Fast", 11_171_146),
        ("cifar10/Linf/Bartoldson2024Adversarial_WRN-82-8", 79_125_466),
        ("cifar10/corruptions/Hendrycks2020AugMix_WRN", 2_243_546),
        ("cifar100/Linf/Rice2020Overfitting", 11_218_340),
        ("imagenet/Linf/Salman2020Do_50_2", 68_883_240),
    ],
)
def test_networks_have_as_many_parameters_as_robustbenchs(path: str, parameters: int) -> None:
    """The networks of the table are those of RobustBench."""
    with torch.device("meta"):
        network = find_entry(path).build((3, 32, 32))
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


def test_every_network_can_be_built() -> None:
    """Every line names a network that exists, and a normalization of three channels or none."""
    networks = {(entry.network, entry.classes): entry for entry in zoo() if entry.network}
    with torch.device("meta"):
        for entry in networks.values():
            entry.build((3, 32, 32))
    for entry in zoo():
        metadata = entry.metadata
        assert (metadata.mean is None) == (metadata.std is None) == metadata.normalizes
        assert metadata.mean is None or len(metadata.mean) == 3


def test_the_preprocessing_of_imagenet() -> None:
    """RobustBench's name of it says the sizes: the shorter side to 256 pixels, then the middle 224 x 224."""
    metadata = find_entry("Singh2023Revisiting_ViT-S-ConvStem").metadata
    assert (metadata.image_size, metadata.resize, metadata.interpolation) == ((224, 224), 256, "bicubic")
    assert metadata.classes == 1000


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("Carmon2019Unlabeled", "cifar10/Linf/Carmon2019Unlabeled"),
        ("l2/Rice2020Overfitting", "cifar10/L2/Rice2020Overfitting"),
        ("cifar100/linf/Wang2023Better_WRN-28-10", "cifar100/Linf/Wang2023Better_WRN-28-10"),
    ],
)
def test_entries_are_found_by_a_part_of_their_name(path: str, found: str) -> None:
    """Data set and threat model are needed only where several entries have the name."""
    assert find_entry(path).path == found


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("Carmon2019Unlabelled", "no model 'Carmon2019Unlabelled': did you mean 'Carmon2019Unlabeled'"),
        (
            "Linf/Wang2023Better_WRN-28-10",
            "several models 'Linf/Wang2023.*give robustbench:cifar10/Linf/Wang.*, robustbench:cifar100/Linf/Wang",
        ),
        (
            "L2/Carmon2019Unlabeled",
            "no model 'L2/Carmon2019Unlabeled': give robustbench:cifar10/Linf/Carmon2019Unlabeled",
        ),
    ],
)
def test_other_names_are_refused(path: str, message: str) -> None:
    """The message says what to write."""
    with pytest.raises(UserError, match=message):
        find_entry(path)

from __future__ import annotations

from pathlib import Path

import pytest
import torchvision

from robustbench_cli.attacks import registry as attacks
from robustbench_cli.attacks.base.norm import NORMS
from robustbench_cli.benchmarks.datasets import registry as datasets
from robustbench_cli.benchmarks.models import registry as models
from robustbench_cli.benchmarks.suites.load import read_suite
from robustbench_cli.core.errors import UserError
from robustbench_cli.core.suggest import did_you_mean
from robustbench_cli.defenses import registry as defenses

REGISTRIES = {"attack": attacks, "defense": defenses, "model": models, "dataset": datasets}

ADVERSARIAL_TRAINING = "'pgd-at', 'trades', 'mart', 'awp', 'fast-at', 'free-at' or 'interpolated-at'"


@pytest.mark.parametrize(
    ("kind", "name", "suggestion"),
    [
        # As torchattacks, Foolbox, ART, AutoAttack and RobustBench write it.
        ("attack", "PGD", "'pgd'"),
        ("attack", "pgd40", "'pgd'"),
        ("attack", "PGD-100", "'pgd'"),
        ("attack", "LinfPGD", "'pgd'"),
        ("attack", "ProjectedGradientDescent", "'pgd'"),
        ("attack", "BIM", "'pgd'"),
        ("attack", "madry", "'pgd'"),
        ("attack", "CW", "'cw'"),
        ("attack", "carlini-wagner", "'cw'"),
        ("attack", "CarliniL2Method", "'cw'"),
        ("attack", "C&W", "'cw'"),
        ("attack", "CarliniLInfMethod", "'cw-linf'"),
        ("attack", "FGM", "'fgsm'"),
        ("attack", "FastGradientMethod", "'fgsm'"),
        ("attack", "MIFGSM", "'mi-fgsm'"),
        ("attack", "mi_fgsm", "'mi-fgsm'"),
        ("attack", "APGD", "'apgd-ce', 'apgd-dlr', 'apgd-pm' or 'apgd-t'"),
        ("attack", "AutoPGD", "'apgd-ce', 'apgd-dlr', 'apgd-pm' or 'apgd-t'"),
        ("attack", "APGDT", "'apgd-t'"),
        ("attack", "SquareAttack", "'square'"),
        ("attack", "DeepFool", "'deepfool'"),
        ("attack", "HopSkipJumpAttack", "'hopskipjump'"),
        ("attack", "HSJA", "'hopskipjump'"),
        ("attack", "OnePixel", "'sigma-zero' or 'sparse-rs'"),
        ("attack", "pdg", "'pgd'"),
        ("attack", "autoattack", "the suite 'standard' or 'autoattack-compat' (--suite)"),
        ("attack", "AutoAttack", "the suite 'standard' or 'autoattack-compat' (--suite)"),
        ("attack", "auto-attack", "the suite 'standard' or 'autoattack-compat' (--suite)"),
        ("attack", "TRADES", "a defense (--defense)"),
        ("attack", "my_attack.py", "'my_attack.py:NAME', with the name of the object in the file"),
        ("defense", "adversarial-training", ADVERSARIAL_TRAINING),
        ("defense", "at", ADVERSARIAL_TRAINING),
        ("defense", "AdversarialTrainer", ADVERSARIAL_TRAINING),
        ("defense", "madry", "'pgd-at'"),
        ("defense", "Madry-AT", "'pgd-at'"),
        ("defense", "TRADES", "'trades'"),
        ("defense", "smoothing", "'randomized-smoothing'"),
        ("defense", "JpegCompression", "'jpeg'"),
        ("defense", "SpatialSmoothing", "'feature-squeezing'"),
        ("defense", "TotalVarMin", "'total-variation'"),
        ("defense", "distillation", "'defensive-distillation'"),
        ("defense", "squeezing", "'feature-squeezing'"),
        ("defense", "noise", "'gaussian-noise' or 'noise-injection'"),
        ("defense", "undefended", "'none'"),
        ("defense", "pgd", "an attack (--attack)"),
        ("dataset", "CIFAR10", "'cifar10'"),
        ("dataset", "CIFAR-10", "'cifar10'"),
        ("dataset", "cifar_100", "'cifar100'"),
        ("dataset", "cifar", "'cifar10' or 'cifar100'"),
        ("dataset", "MNIST", "'mnist'"),
        ("dataset", "mnsit", "'mnist'"),
        ("dataset", "FashionMNIST", "'fashion-mnist'"),
        ("dataset", "fashion", "'fashion-mnist'"),
        ("dataset", "mnist-fashion", "'fashion-mnist'"),
        ("dataset", "fmnist", "'fashion-mnist'"),
        ("dataset", "SVHN", "'svhn'"),
        ("dataset", "ilsvrc2012", "'imagenet:PATH'"),
        ("dataset", "ImageNet-1k", "'imagenet:PATH'"),
        ("dataset", "imagenette", "'imagefolder:PATH'"),
        ("dataset", "tiny-imagenet", "'imagefolder:PATH'"),
        ("dataset", "data/x.npz", "'npz:data/x.npz'"),
        ("dataset", "x.npz", "'npz:x.npz'"),
        ("dataset", "data/cats", "'imagefolder:data/cats'"),
        ("dataset", "pathmnist", "'npz:FILE.npz'"),
        ("model", "resnet18", "'torchvision:resnet18' or 'resnet18-cifar'"),
        ("model", "ResNet-50", "'torchvision:resnet50'"),
        ("model", "vit_b_16", "'torchvision:vit_b_16'"),
        ("model", "ViT-B/16", "'torchvision:vit_b_16'"),
        ("model", "vit_base_patch16_224", "'torchvision:vit_b_16'"),
        ("model", "efficientnet-b0", "'torchvision:efficientnet_b0'"),
        ("model", "SmallCNN", "'small-cnn'"),
        ("model", "cnn", "'small-cnn'"),
        ("model", "wrn28-10", "'wrn-28-10'"),
        ("model", "WideResNet-28-10", "'wrn-28-10'"),
        ("model", "wide_resnet_34_10", "'wrn-34-10'"),
        ("model", "runs/resnet.pt", "'--checkpoint runs/resnet.pt'"),
    ],
)
def test_names_of_other_libraries(kind: str, name: str, suggestion: str) -> None:
    """Names of other libraries and papers, and typing errors, lead to ours."""
    with pytest.raises(UserError) as refusal:
        REGISTRIES[kind].load(name)
    assert str(refusal.value) == f"unknown {kind} '{name}': did you mean {suggestion}?"


def test_data_files_of_the_user_get_their_prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without a slash in its name is one where it exists."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flat").mkdir()
    for name, meant in (("flat", "imagefolder:flat"), ("val-000.tar", "webdataset:val-000.tar")):
        with pytest.raises(UserError, match=f"did you mean '{meant}'"):
            datasets.load(name)


@pytest.mark.parametrize("name", ["capsule-network", "neural_ode"])
def test_a_model_that_is_not_here_is_answered_with_the_way_to_give_ones_own(name: str) -> None:
    """The message says how to name one's own class."""
    with pytest.raises(UserError, match=r"or a class or a function of your own as path/to/file\.py:object"):
        models.load(name)


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [("autoattack", "'standard' or 'autoattack-compat'"), ("rand", "'randomized' or 'autoattack-rand-compat'")],
)
def test_suites(name: str, suggestion: str) -> None:
    """The versions of AutoAttack lead to our suites."""
    with pytest.raises(UserError, match=f"did you mean {suggestion}"):
        read_suite(name)


@pytest.mark.parametrize(
    ("name", "norm"),
    [
        ("Linf", "linf"),
        ("inf", "linf"),
        ("L_inf", "linf"),
        ("l∞", "linf"),
        ("L2", "l2"),
        ("2", "l2"),
        ("euclidean", "l2"),
    ],
)
def test_norms(name: str, norm: str) -> None:
    """All spellings of a norm lead to ours."""
    assert did_you_mean(name, NORMS) == f"did you mean '{norm}'?"


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [("stepz", "steps"), ("nb_iter", "steps"), ("alpha", "step_size"), ("num_restarts", "restarts"), ("step", "steps")],
)
def test_parameters(name: str, suggestion: str) -> None:
    """Other libraries' names of a parameter lead to ours, if it is known."""
    assert did_you_mean(name, attacks.load("pgd").model_fields) == f"did you mean '{suggestion}'?"
    assert did_you_mean("kappa", ["steps"]) == "known: steps"


def test_words_of_like_letters_are_no_suggestion() -> None:
    """Names that share only a few letters are not suggested, however long they are."""
    names = ["total-variation", "defensive-distillation"]
    assert did_you_mean("adaptive-training", names) == "known: defensive-distillation, total-variation"
    assert did_you_mean("", ["cw"]) == "known: cw"
    assert did_you_mean("é\x1b[1m", ["cw"]) == "known: cw"


def test_distance_counts_a_swap_as_one_error() -> None:
    """Two swapped letters are one error, like a missing, additional or wrong letter."""
    for slip in ("smalll-cnn", "smal-cnn", "smlal-cnn", "smoll-cnn"):
        assert did_you_mean(slip, ["small-cnn", "paper-cnn"]) == "did you mean 'small-cnn'?"


def test_the_networks_of_torchvision_are_known_without_its_import() -> None:
    """Its source files and its registry list the same classifiers."""
    for name in torchvision.models.list_models(module=torchvision.models):
        assert f"'torchvision:{name}'" in did_you_mean(name, ["torchvision"], kind="model")

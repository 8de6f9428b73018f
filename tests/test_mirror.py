"""Every source file has its test file at the mirrored path, and every test file has its source."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests"

FOLDERS = {
    "attacks": ROOT / "attacks",
    "benchmarks": ROOT / "benchmarks",
    "cli": ROOT / "robustbench_cli/cli",
    "core": ROOT / "robustbench_cli/core",
    "defenses": ROOT / "defenses",
}
"""The folders of the sources, by their folder of tests."""

TESTED_ELSEWHERE = {
    "attacks/base/models/cuda_graphs.py": "test_graphed_passes.py and test_graphed_steps.py record graphs with it",
    "benchmarks/execution/engines/local.py": "test_engines.py holds all engines to the same contract",
    "benchmarks/execution/engines/processes.py": "test_engines.py holds all engines to the same contract",
    "benchmarks/execution/engines/ray.py": "test_engines.py holds all engines to the same contract",
    "benchmarks/evaluation/checks/base/same_predictions.py": "test_remembers.py and test_unstable.py run its two checks",
    "benchmarks/models/wrn_28_10.py": "base/test_wide_resnet.py compares the network and counts its parameters",
    "benchmarks/models/wrn_34_10.py": "base/test_wide_resnet.py compares the network and counts its parameters",
    "benchmarks/models/wrn_70_16.py": "base/test_wide_resnet.py compares the network and counts its parameters",
    **{
        f"defenses/base/training/recipes/{path.name}": "test_every_recipe.py compares all with the authors' schedules"
        for path in (ROOT / "defenses/base/training/recipes").glob("[!_]*.py")
    },
    **{
        f"benchmarks/corruptions/{path.name}": "test_every_corruption.py compares all with imagecorruptions"
        for path in (ROOT / "benchmarks/corruptions").glob("[!_]*.py")
    },
    **{
        f"defenses/base/training/augmentations/{path.name}": "test_every_augmentation.py compares all with torchvision"
        for path in (ROOT / "defenses/base/training/augmentations").glob("[!_]*.py")
    },
    **{
        f"benchmarks/comparison/gallery/{path.parent.name}/{path.name}": "make gallery runs all, test_examine.py some"
        for folder in ("broken", "honest")
        for path in (ROOT / "benchmarks/comparison/gallery" / folder).glob("[!_]*.py")
    },
    "benchmarks/comparison/gallery/base/broken_defense.py": "test_examine.py makes broken defenses",
    "benchmarks/comparison/gallery/base/honest_model.py": "test_confusion.py trains a model",
    "benchmarks/comparison/gallery/base/l2_adversarial_training.py": "make gallery trains an honest model by it",
    "benchmarks/comparison/gallery/base/networks.py": "test_confusion.py trains one of the networks",
    "benchmarks/comparison/gallery/base/other_tools.py": "make gallery runs it beside AutoAttack, which no test has",
    "benchmarks/corruptions/base/pillow.py": "test_every_corruption.py compares the two corruptions that use it",
    "benchmarks/datasets/cifar10_c.py": "test_corrupted.py reads made-up files of it",
    "benchmarks/datasets/cifar100_c.py": "test_corrupted.py reads made-up files of it",
    "benchmarks/reports/html/content.py": "plain data without a function; html/conftest.py makes it, and test_page.py shows it",
    "benchmarks/execution/job.py": "plain data without a function; test_suite.py makes jobs, and test_worker.py runs them",
}
"""The sources without a test file beside them, and the reason."""

WITHOUT_SOURCE = {
    "attacks/test_access.py": "what an attack uses of a model, for all attacks",
    "attacks/test_apgd.py": "APGD against AutoAttack's figures, for the files that share it",
    "attacks/test_every_attack.py": "the contract of all attacks",
    "defenses/base/training/recipes/test_every_recipe.py": "the schedules of all recipes",
    "attacks/test_few_classes.py": "models of two and three classes, for all attacks",
    "attacks/test_masked_classes.py": "models with a class of no chance, for all attacks",
    "attacks/test_minimal_norm.py": "closed-form distances, for all minimal-norm attacks",
    "attacks/test_peers.py": "figures of other libraries, for all attacks that have one",
    "attacks/test_renamed_parameters.py": "former names of parameters, for all attacks",
    "benchmarks/models/test_double_backpropagation.py": "second derivatives, for all networks",
    "benchmarks/test_draws_of_images.py": "batch sizes and draws, from attacks to outcomes",
    "benchmarks/test_gallery.py": "models that hide their weakness, through all checks",
    "benchmarks/corruptions/test_every_corruption.py": "the contract of all corruptions",
    "benchmarks/evaluation/checks/test_checks.py": "the contract of all checks",
    "benchmarks/execution/engines/test_engines.py": "the contract of all engines",
    "cli/commands/test_bad_inputs.py": "wrong names, values, models, checkpoints and data, in the command attack",
    "cli/commands/test_bad_suites.py": "suite files with mistakes, in all commands that read one",
    "cli/commands/test_corruptions.py": "corruptions in all commands that have them",
    "cli/commands/test_hostile_checkpoints.py": "checkpoints that name code, paths and repositories, in all commands",
    "cli/commands/test_imports.py": "which libraries a command imports, for several commands",
    "cli/commands/test_own_weights.py": "models that bring weights, in the command attack: what is trained, and on which classes",
    "cli/commands/test_train_in_processes.py": "the command train under a launcher of processes",
    "cli/commands/test_transfer.py": "the attack transfer, which needs a second model, in the commands",
    "cli/commands/test_unused_options.py": "options of trainings and of draws that change nothing, in the command attack",
    "defenses/base/training/augmentations/test_every_augmentation.py": "the contract of all augmentations",
    "defenses/test_every_defense.py": "the contract of all defenses",
    "defenses/test_hrs_expectation.py": "exact expectations of HRS for its attacks, beside test_hrs.py, which is long",
    "defenses/test_renamed_parameters.py": "former names of parameters, for all defenses",
}
"""The test files that belong to no single source, and what they are about."""


def sources() -> set[str]:
    """The source files, by the path of their tests' folder; ``__init__.py`` is none."""
    return {
        f"{name}/{path.relative_to(folder).as_posix()}"
        for name, folder in FOLDERS.items()
        for path in folder.rglob("*.py")
        if path.name != "__init__.py"
    }


def files_of_tests() -> set[str]:
    """The test files in the folders that mirror the sources."""
    return {path.relative_to(TESTS).as_posix() for name in FOLDERS for path in (TESTS / name).rglob("test_*.py")}


def mirrored(source: str) -> str:
    """The path of a source's test file: ``__main__.py`` has ``test_main.py``."""
    folder, _, name = source.replace("__main__", "main").rpartition("/")
    return f"{folder}/test_{name}"


def test_every_source_has_a_test_file() -> None:
    """The exceptions exist, and have none."""
    tests = files_of_tests()
    missing = {source for source in sources() if mirrored(source) not in tests}
    assert missing == {*TESTED_ELSEWHERE}


def test_every_test_file_has_a_source() -> None:
    """The exceptions exist, and have none."""
    strays = files_of_tests() - {mirrored(source) for source in sources()}
    assert strays == {*WITHOUT_SOURCE}


def test_every_test_file_has_a_test() -> None:
    """A file without one tests nothing."""
    empty = [
        path
        for path in sorted(files_of_tests())
        if not re.search(r"^ *def test_", (TESTS / path).read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert empty == []

from __future__ import annotations

import torch

from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel
from robustbench_cli.benchmarks.comparison import models
from robustbench_cli.benchmarks.comparison.models import ImageSet, correctly_classified
from robustbench_cli.defenses import registry as defenses


def test_every_model_of_the_comparison_has_a_valid_defense() -> None:
    """Their names and parameters are those of registered defenses; the randomized ones decide without draws."""
    for name, (defense, parameters) in models._DEFENSES.items():
        built = defenses.load(defense).from_parameters(parameters, name=defense)
        assert getattr(built, "decision", "deterministic") == "deterministic", name


def test_only_correctly_classified_images_are_kept(defended: DefendedModel, examples: ImageSet) -> None:
    """Two of four images are misclassified and go; ``most`` limits the number."""
    labels = examples.labels.clone()
    labels[[0, 2]] = (labels[[0, 2]] + 1) % 10
    correct = correctly_classified(defended, ImageSet(examples.images, labels))
    torch.testing.assert_close(correct.images, examples.images[[1, 3]], rtol=0, atol=0)
    assert len(correctly_classified(defended, examples, most=3)) == 3

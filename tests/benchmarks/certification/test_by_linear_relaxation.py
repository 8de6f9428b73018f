from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from robustbench_cli.attacks.cw_pgd import CWPGD
from robustbench_cli.benchmarks.certification.by_interval_bounds import certified_radii
from robustbench_cli.benchmarks.certification.by_linear_relaxation import LinearRelaxation
from robustbench_cli.benchmarks.certification.certified_radius import enlarged
from robustbench_cli.benchmarks.certification.certify import CertificationOptions, certify_model, stored
from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel, method_spec
from robustbench_cli.benchmarks.datasets.base.load import load_dataset
from robustbench_cli.benchmarks.datasets.base.slice import first_examples
from robustbench_cli.benchmarks.evaluation.evaluate import evaluate
from robustbench_cli.benchmarks.training.model_cache import ModelCache
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses import registry as defenses

DIGITS = first_examples(load_dataset("digits").split("test"), 14)
CPU = torch.device("cpu")


@pytest.fixture
def hardened(cache: Callable[..., ModelCache]) -> DefendedModel:
    """A network after adversarial training, which interval bounds hardly certify."""
    prepared = cache(epochs=4, batch_size=32)
    return prepared.trained(prepared.training(defenses=(method_spec(defenses, "pgd-at", {"eps": 0.03}).spec,)))


def radii(procedure: LinearRelaxation, model: nn.Module, *, batch_size: int | None = None) -> list[float]:
    records = procedure.examine(
        model, DIGITS.images, indices=range(len(DIGITS)), seed=0, device=CPU, batch_size=batch_size
    )
    return [record.radius for record in records]


def test_certificates_of_an_adversarially_trained_network(hardened: DefendedModel, tmp_path: Path) -> None:
    """It certifies far more than intervals; no attack breaks a certified image; the store gives the records back."""
    options = CertificationOptions(procedure=LinearRelaxation(eps=(0.03, 0.01)))
    certified = certify_model(hardened, DIGITS, options, dataset="digits", store=tmp_path)
    certificates, labels = certified.certificates(alpha=0.001), DIGITS.labels.numpy()
    intervals = np.array([record.radius for record in certified_radii(hardened.load(), DIGITS.images)])
    for eps in (0.01, 0.03):
        certain = certificates.certified(labels, eps)
        result = evaluate(hardened.load(), DIGITS.images, DIGITS.labels, attack=CWPGD(steps=15), norm="linf", eps=eps)
        unbroken = result.outcomes.worst()[0] == labels
        assert unbroken[certain].all()
        assert certain.sum() > (intervals >= eps).sum() + 1
        assert (certificates.radius[intervals >= eps] >= eps).all()
    (read,) = stored(tmp_path, damaged=pytest.fail)
    assert (read.procedure, read.images) == (options.procedure, certified.images)
    (row,) = read.rows([0.03], alpha=0.001)
    assert (row.method, row.norm, row.eps, row.sigma, row.flags) == ("linear", "linf", 0.03, None, "")
    assert row.certified_accuracy == certificates.certified(labels, 0.03).mean()


def test_each_image_has_the_largest_radius_that_is_proven(hardened: DefendedModel) -> None:
    """Several radii give the largest of those that each alone would give, in any batch; it covers an attack's rounding."""
    model = hardened.load()
    tried = (0.01, 0.02, 0.04)
    alone = np.array([radii(LinearRelaxation(eps=(eps,)), model) for eps in tried])
    together = radii(LinearRelaxation(eps=tried), model, batch_size=7)
    assert together == alone.max(0).tolist()
    assert {*together} <= {0.0, *map(enlarged, tried)}
    assert len({*together}) > 2
    assert enlarged(0.04) - 0.04 > np.spacing(np.float32(1))


def test_other_norms(hardened: DefendedModel) -> None:
    """The l2 ball of a radius is in the linf ball and holds the l1 ball: so are their certificates; no l2 attack breaks one."""
    model = hardened.load()
    linf, l2, l1 = (np.array(radii(LinearRelaxation(eps=(0.03,), norm=norm), model)) for norm in ("linf", "l2", "l1"))
    assert (linf <= l2).all()
    assert (l2 <= l1).all()
    larger = np.array(radii(LinearRelaxation(eps=(0.04,), norm="l2"), model)) > 0
    result = evaluate(model, DIGITS.images, DIGITS.labels, attack=CWPGD(steps=15), norm="l2", eps=0.04)
    right = (result.outcomes.clean[0] == result.outcomes.worst()[0])[larger]
    assert right.all()
    assert larger.sum() > 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"eps": ()}, "the method linear tries given radii: give an --eps above 0, or --method intervals"),
        ({"eps": (0.0,)}, "give an --eps above 0"),
        ({"eps": (0.1, float("nan"))}, "give an --eps above 0"),
        ({"eps": (0.1,), "norm": "l0"}, "the method linear has no certificates in l0: give linf, l2 or l1"),
    ],
)
def test_values_out_of_range(values: dict[str, object], message: str) -> None:
    """One line says what would be right."""
    with pytest.raises(UserError, match=message):
        LinearRelaxation(**values)


def test_the_way_out_is_in_the_message() -> None:
    """A layer without a relaxation is named."""
    model = nn.Sequential(nn.Softmax2d(), nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(UserError, match=r"its layer 0 is a Softmax2d; .*; or give --sigma SIGMA, such as 0\.25"):
        LinearRelaxation(eps=(0.1,)).require(model, DIGITS.images)

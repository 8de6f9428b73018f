from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from robustbench_cli.attacks.base.eps import parse_eps
from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel
from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec
from robustbench_cli.benchmarks.checkpoints.size import ModelSize
from robustbench_cli.benchmarks.datasets.base.slice import Slice
from robustbench_cli.benchmarks.evaluation.options import GridOptions
from robustbench_cli.benchmarks.execution.job import Job, JobOptions
from robustbench_cli.benchmarks.suites.suite import AttackChoice, Suite, expand, usual_norm
from robustbench_cli.core.errors import UserError

PGD = AttackChoice(spec=MethodSpec(name="pgd"), norms=("linf", "l2"), minimal_norm=False)
OTHER = AttackChoice(spec=MethodSpec(name="fgsm"), norms=("linf", "l2"), minimal_norm=False)
CW = AttackChoice(spec=MethodSpec(name="cw"), norms=("l2",), minimal_norm=True)
FMN = AttackChoice(spec=MethodSpec(name="fmn"), norms=("l0", "l1", "l2", "linf"), minimal_norm=True)
EOT_PGD = AttackChoice(spec=MethodSpec(name="pgd"), norms=("linf", "l2"), minimal_norm=False, eot=10)

EXAMPLES = Slice(torch.zeros(3, 1, 8, 8), torch.tensor([0, 1, 9]), "d" * 64)


def defended(**changes: Any) -> DefendedModel:
    """A model on the disk."""
    usual: dict[str, Any] = {
        "path": Path("model.safetensors"),
        "loading": {"named": []},
        "identity": "c" * 64,
        "model": "small-cnn",
        "mean": None,
        "std": None,
        "dataset": "digits",
        "shape": (1, 8, 8),
        "classes": 10,
        "defenses": (),
        "randomized": False,
        "cost_of_all_draws": None,
        "training": {},
        "size": ModelSize(parameters=1, nonzero=1, macs=1),
    }
    return DefendedModel(**usual | changes)


@pytest.fixture
def jobs(tmp_path: Path) -> Callable[..., list[Job]]:
    """The jobs of a suite of these attacks."""

    def expanded(
        *attacks: AttackChoice, defended_models: list[DefendedModel] | None = None, **fields: Any
    ) -> list[Job]:
        fields.setdefault("norm", usual_norm([attack.norms for attack in attacks]))
        fields["eps"] = [parse_eps(text) for text in fields.get("eps", [])]
        options = GridOptions(**{name: fields.pop(name) for name in GridOptions.model_fields if name in fields})
        return expand(
            Suite(dataset="digits", n=3, attacks=attacks, options=options, **fields),
            defended_models or [defended()],
            examples=EXAMPLES,
            usual_eps="0.15",
            options=JobOptions(store=tmp_path, data_dir=None, device="cpu", batch_size=None),
        )

    return expanded


def threats(jobs: list[Job]) -> list[tuple[str, str, str]]:
    """Attack, norm and radius of each job."""
    return [(job.cell.attack.name, job.cell.norm, job.eps) for job in jobs]


def test_a_suite_is_a_grid(jobs: Callable[..., list[Job]]) -> None:
    """Every model, attack, radius and seed is a cell of its own, in this order."""
    other = defended(identity="o" * 64)
    cell_jobs = jobs(PGD, CW, defended_models=[defended(), other], norm="l2", eps=["1/2", "1"], seeds=(0, 1))
    assert len(cell_jobs) == len({job.cell.id for job in cell_jobs}) == 16
    assert [job.cell.checkpoint[0] for job in cell_jobs] == ["c"] * 8 + ["o"] * 8
    assert threats(cell_jobs)[:8:2] == [
        ("pgd", "l2", "1/2"),
        ("pgd", "l2", "1"),
        ("cw", "l2", "1/2"),
        ("cw", "l2", "1"),
    ]
    assert [job.cell.seed for job in cell_jobs[:4]] == [0, 1, 0, 1]
    assert cell_jobs[0].cell.eps == 0.5
    assert (cell_jobs[0].cell.n, cell_jobs[0].cell.data) == (3, "d" * 64)


@pytest.mark.parametrize(
    ("attacks", "options", "expected"),
    [
        ([PGD], {}, [("pgd", "linf", "0.15")]),
        ([PGD, CW], {}, [("pgd", "linf", "0.15"), ("cw", "l2", "")]),
        ([CW], {}, [("cw", "l2", "")]),
        ([CW], {"eps": ["0.5"]}, [("cw", "l2", "0.5")]),
        ([PGD, CW], {"eps": ["8/255"]}, [("pgd", "linf", "8/255"), ("cw", "l2", "")]),
        ([PGD, CW], {"norm": "l2", "eps": ["1"]}, [("pgd", "l2", "1"), ("cw", "l2", "1")]),
        ([FMN], {}, [("fmn", "linf", "")]),
        ([FMN], {"norm": "l0"}, [("fmn", "l0", "")]),
        ([PGD, FMN], {}, [("pgd", "linf", "0.15"), ("fmn", "linf", "0.15")]),
        ([CW, CW], {}, [("cw", "l2", "")]),
    ],
)
def test_radii_are_in_the_suites_norm(
    jobs: Callable[..., list[Job]],
    attacks: list[AttackChoice],
    options: dict[str, Any],
    expected: list[tuple[str, str, str]],
) -> None:
    """A minimal-norm attack of another norm counts at any distance; the usual radius is linf's; no cell comes twice."""
    assert threats(jobs(*attacks, **options)) == expected


@pytest.mark.parametrize(
    ("attacks", "options", "message"),
    [
        ([PGD], {"norm": "l2"}, "no default eps for l2: pass --eps"),
        ([PGD], {"norm": "l1", "eps": ["1"]}, r"pgd does not support the norm l1 \(it supports linf, l2\)"),
    ],
)
def test_a_threat_that_makes_no_sense_is_named(
    jobs: Callable[..., list[Job]], attacks: list[AttackChoice], options: dict[str, Any], message: str
) -> None:
    """A norm without a radius, or that an attack does not know, is one line."""
    with pytest.raises(UserError, match=message):
        jobs(*attacks, **options)


def test_draws_adapt_to_each_model(jobs: Callable[..., list[Job]]) -> None:
    """A deterministic model is asked and scored once whatever was asked for; a randomized one by ten draws, or exactly."""
    noisy = defended(identity="n" * 64, randomized=True)
    hrs = defended(identity="h" * 64, randomized=True, cost_of_all_draws=6.0)
    cell_jobs = jobs(PGD, EOT_PGD, defended_models=[defended(), noisy, hrs])
    assert [(job.cell.eot, job.cell.repeats) for job in cell_jobs] == [(1, 1), (10, 10), ("exact", 10), (10, 10)]
    cell_jobs = jobs(PGD, defended_models=[defended(), noisy], repeats=30)
    assert [job.cell.repeats for job in cell_jobs] == [1, 30]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"classes": 9},
            "the labels of digits reach from 0 to 9, and model.safetensors gives 9 logits an image: labels are",
        ),
        (
            {"shape": (3, 32, 32)},
            r"takes images of shape \(3, 32, 32\), those of digits have \(1, 8, 8\): name the data set",
        ),
    ],
)
def test_a_model_of_other_data_is_named(jobs: Callable[..., list[Job]], changes: dict[str, Any], message: str) -> None:
    """Before any cell is run, a model that does not take the images or their labels is one line."""
    with pytest.raises(UserError, match=message):
        jobs(PGD, defended_models=[defended(**changes)])


def test_a_job_is_plain_data(jobs: Callable[..., list[Job]]) -> None:
    """It goes to another process as JSON and comes back the same."""
    (job,) = jobs(PGD)
    assert Job.model_validate(json.loads(job.model_dump_json())) == job


def test_jobs_that_are_not_validated_one_by_one_are_valid(jobs: Callable[..., list[Job]]) -> None:
    """Each is equal to what its plain data gives, and its cell has the same identity."""
    for job in jobs(PGD, CW, norm="l2", eps=["1/2", "1"], seeds=(0, 1), cascade=True):
        validated = Job.model_validate(json.loads(job.model_dump_json()))
        assert (validated, validated.cell.id) == (job, job.cell.id)


def names(cell_jobs: list[Job]) -> list[tuple[str, str, str | None]]:
    """Attack, radius, and the attack and radius before it."""
    by_id = {job.cell.id: f"{job.cell.attack.name} {job.eps}" for job in cell_jobs}
    return [(job.cell.attack.name, job.eps, by_id.get(job.cell.after or "")) for job in cell_jobs]


def test_each_attack_goes_on_from_its_own_smaller_radius(jobs: Callable[..., list[Job]]) -> None:
    """Radii rise whatever their order in the words, and one that is given twice is one cell."""
    cell_jobs = jobs(PGD, OTHER, eps=["0.2", "0.1", "1/10"])
    assert names(cell_jobs) == [
        ("pgd", "0.1", None),
        ("pgd", "0.2", "pgd 0.1"),
        ("fgsm", "0.1", None),
        ("fgsm", "0.2", "fgsm 0.1"),
    ]
    assert not any(job.cell.cascade for job in cell_jobs)
    for job in cell_jobs:
        assert (job.previous is None) == (job.cell.after is None)
        assert job.previous is None or job.previous.cell.id == job.cell.after


def test_in_a_cascade_every_attack_goes_on_from_the_one_before(jobs: Callable[..., list[Job]]) -> None:
    """All attacks at the smallest radius, and then from there at the next."""
    cell_jobs = jobs(PGD, FMN, eps=["0.2", "0.1"], cascade=True)
    assert names(cell_jobs) == [
        ("pgd", "0.1", None),
        ("fmn", "0.1", "pgd 0.1"),
        ("pgd", "0.2", "fmn 0.1"),
        ("fmn", "0.2", "pgd 0.2"),
    ]
    assert [job.cell.cascade for job in cell_jobs] == [False, True, True, True]


def test_nothing_is_passed_on_where_a_fall_is_not_certain(jobs: Callable[..., list[Job]]) -> None:
    """Towards targets, and of randomized models unless all draws are counted, every cell stands alone."""
    sampled = defended(randomized=True)
    counted = defended(randomized=True, cost_of_all_draws=4.0)
    radii = ["0.1", "0.2"]
    assert not any(job.previous for job in jobs(PGD, FMN, eps=radii, cascade=True, defended_models=[sampled]))
    assert not any(job.previous for job in jobs(PGD, FMN, eps=radii, cascade=True, targeted="next"))
    assert (
        sum(job.previous is not None for job in jobs(PGD, FMN, eps=radii, cascade=True, defended_models=[counted])) == 3
    )
    assert not any(job.previous for job in jobs(EOT_PGD, eps=radii, defended_models=[counted]))


def test_an_attack_on_a_condition_waits_for_a_cascade(jobs: Callable[..., list[Job]]) -> None:
    """It is a cell of its own, which goes on from those before it; where nothing goes on from another, it is left out."""
    last = replace(FMN, only_if="blinded")
    sampled = defended(randomized=True)
    cell_jobs = jobs(PGD, last, FMN, eps=["0.1", "0.2"], cascade=True)
    assert names(cell_jobs)[:3] == [("pgd", "0.1", None), ("fmn", "0.1", "pgd 0.1"), ("fmn", "0.1", "fmn 0.1")]
    assert [job.cell.only_if for job in cell_jobs] == [None, "blinded", None] * 2
    assert len({job.cell.id for job in cell_jobs}) == 6
    for options in ({}, {"cascade": True, "targeted": "next"}, {"cascade": True, "defended_models": [sampled]}):
        assert [job.cell.attack.name for job in jobs(PGD, last, eps=["0.1"], **options)] == ["pgd"]
    assert [job.cell.attack.name for job in jobs(last, PGD, eps=["0.1"], cascade=True)] == ["pgd"]


def test_only_fixed_radius_attacks_with_gradients_take_a_precision(jobs: Callable[..., list[Job]]) -> None:
    """The cells of the others are the same cells with any value of the option."""
    low = replace(PGD, any_precision=True)
    cell_jobs = jobs(low, OTHER, precision="bf16")
    assert [job.cell.precision for job in cell_jobs] == ["bf16", "tf32"]
    plain = jobs(low, OTHER)
    assert cell_jobs[0].cell.id != plain[0].cell.id
    assert cell_jobs[1].cell.id == plain[1].cell.id


def test_single_draws_are_counted_in_a_cascade_of_each_radius(jobs: Callable[..., list[Job]]) -> None:
    """Whatever the draws, what has fallen leaves the later attacks of its radius; a deterministic model has no such cells."""
    options: dict[str, Any] = {"eps": ["0.2", "0.1"], "cascade": True, "accounting": "single-draw"}
    cell_jobs = jobs(PGD, OTHER, defended_models=[defended(randomized=True)], **options)
    assert names(cell_jobs) == [
        ("pgd", "0.1", None),
        ("fgsm", "0.1", "pgd 0.1"),
        ("pgd", "0.2", None),
        ("fgsm", "0.2", "pgd 0.2"),
    ]
    assert {(job.cell.accounting, job.cell.repeats) for job in cell_jobs} == {("single-draw", 1)}
    assert {job.cell.accounting for job in jobs(PGD, OTHER, **options)} == {"expected"}
    with pytest.raises(UserError, match="leave out --repeats"):
        jobs(PGD, repeats=3, **options)


def transfer(**changes: Any) -> AttackChoice:
    """Transfer from a model on the disk."""
    spec = MethodSpec(name="transfer", parameters={"surrogate": "other"}, surrogates={"surrogate": "5" * 64})
    surrogate = defended(path=Path("other.safetensors"), identity="5" * 64, **changes)
    return AttackChoice(spec=spec, norms=("linf",), minimal_norm=False, surrogates=(surrogate,))


def test_the_draws_of_a_transfer_are_its_surrogates(jobs: Callable[..., list[Job]]) -> None:
    """Whether the attacked model is randomized decides on how it is scored, and not on what is followed."""
    defended_models = [defended(), defended(identity="n" * 64, randomized=True)]
    counted = {"randomized": True, "cost_of_all_draws": 4.0}
    for surrogate, draws in (({}, 1), ({"randomized": True}, 10), (counted, "exact")):
        cell_jobs = jobs(transfer(**surrogate), defended_models=defended_models)
        assert [(job.cell.eot, job.cell.repeats) for job in cell_jobs] == [(draws, 1), (draws, 10)]


def test_all_draws_of_a_surrogate_are_none_of_the_attacked_model(jobs: Callable[..., list[Job]]) -> None:
    """In a cascade on a randomized model its falls are passed on to no one, and on a deterministic one they are."""
    counted = {"randomized": True, "cost_of_all_draws": 4.0}
    attacks, options = (PGD, transfer(**counted), OTHER), {"eps": ["0.1"], "cascade": True}
    cell_jobs = jobs(*attacks, defended_models=[defended(**counted)], **options)
    assert names(cell_jobs) == [("pgd", "0.1", None), ("transfer", "0.1", None), ("fgsm", "0.1", "pgd 0.1")]
    assert names(jobs(*attacks, **options))[1:] == [("transfer", "0.1", "pgd 0.1"), ("fgsm", "0.1", "transfer 0.1")]


def test_a_surrogate_of_other_data_is_named(jobs: Callable[..., list[Job]]) -> None:
    """Of other images or too few classes before the attacked model is known, of other classes as soon as it is."""
    for changes, message in (
        ({"shape": (3, 32, 32)}, r"other\.safetensors takes images of shape \(3, 32, 32\)"),
        ({"classes": 9}, r"the labels of digits reach from 0 to 9, and other\.safetensors gives 9 logits"),
    ):
        with pytest.raises(UserError, match=message):
            Suite(dataset="digits", n=3, norm="linf", attacks=[PGD, transfer(**changes)]).require_fit(EXAMPLES)
    with pytest.raises(
        UserError, match=r"other\.safetensors has 12 classes and model\.safetensors has 10: give a surrogate"
    ):
        jobs(transfer(classes=12))
    Suite(dataset="digits", n=3, norm="linf", attacks=[PGD, transfer()]).require_fit(EXAMPLES)

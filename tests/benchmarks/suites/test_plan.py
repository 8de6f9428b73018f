from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import yaml
from PIL import Image
from timm.models import save_for_hf

from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel
from robustbench_cli.benchmarks.execution.job import Job, JobOptions
from robustbench_cli.benchmarks.suites.grid import attack_choices
from robustbench_cli.benchmarks.suites.load import read_suite
from robustbench_cli.benchmarks.suites.names import BUILTIN
from robustbench_cli.benchmarks.suites.plan import Plan, plan
from robustbench_cli.benchmarks.training.model_cache import ModelCache
from robustbench_cli.core.errors import Choice, UserError

from ..fake_hub import FakeHub


@pytest.fixture
def planned(tmp_path: Path, cache: Callable[..., ModelCache]) -> Callable[[str], Plan]:
    """Plans a suite that is given as YAML, with trainings of one epoch."""

    def make(text: str) -> Plan:
        (tmp_path / "suite.yaml").write_text(text)
        return plan(
            read_suite(str(tmp_path / "suite.yaml")),
            cache_for=lambda dataset, recipe, seed: cache(dataset, seed, **recipe),
            seed=3,
        )

    return make


@pytest.fixture
def expected(planned: Callable[[str], Plan], tmp_path: Path) -> Callable[[str], list[Job]]:
    """The cells of a suite before anything is trained."""
    options = JobOptions(store=tmp_path / "store", data_dir=None, device="cpu", batch_size=None)
    return lambda text: planned(text).expected_jobs(options)


def test_every_list_is_a_dimension(expected: Callable[[str], list[Job]]) -> None:
    """Of the suite and of what attacks and defenses take; a list that is itself a value is none."""
    jobs = expected("""
        n: [5, 6]
        defenses: [none, {name: hrs, channels: [[2, 2], [3, 3]]}]
        attacks: [{name: pgd, steps: [3, 4]}, {name: fgsm, eot: [1, 2]}]
        eps: [1/10, 0.2]
        seeds: [0, 1]
    """)
    cells = [job.cell for job in jobs]
    assert len({cell.id for cell in cells}) == len(cells) == 2 * 2 * 2 * (3 + 4 + 4)
    assert {cell.defense for cell in cells} == {"none", "hrs(channels=[2,2])", "hrs(channels=[3,3])"}
    assert {cell.attack.label for cell in cells} == {"pgd(steps=3)", "pgd(steps=4)", "fgsm"}
    assert {(cell.eps, job.eps) for cell, job in zip(cells, jobs, strict=True)} == {(0.1, "1/10"), (0.2, "0.2")}
    assert {cell.seed for cell in cells} == {0, 1}


@pytest.mark.filterwarnings("ignore::robustbench_cli.core.errors.Notice")
def test_images_of_any_size_get_the_models(expected: Callable[[str], list[Job]], hub: FakeHub, tmp_path: Path) -> None:
    """Each model its own, from what is published with its weights; the user's size comes first, and a file keeps its own."""
    rng = np.random.default_rng(0)
    for label, (name, size) in enumerate({"a": (40, 30), "b": (50, 64)}.items()):
        (tmp_path / "photos" / name).mkdir(parents=True)
        pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{label}.png")
    for name, size, crop in (("small", 32, 0.8), ("large", 48, 1.0)):
        network = timm.create_model("test_resnet", num_classes=2)
        data = {"input_size": (3, size, size), "crop_pct": crop, "interpolation": "bicubic"}
        save_for_hf(network, tmp_path / name, model_config={"pretrained_cfg": data}, data_config=data)
        hub.publish(f"owner/{name}", tmp_path / name)
    head = f"dataset: imagefolder:{tmp_path / 'photos'}\nattacks: fgsm\nn: 2\n"
    jobs = expected(f"{head}model: ['hf-hub:owner/small', 'hf-hub:owner/large']")
    assert {(job.cell.model, job.cell.dataset.rpartition("?")[2]) for job in jobs} == {
        ("hf-hub:owner/small", "image_size=32&interpolation=bicubic&resize=40"),
        ("hf-hub:owner/large", "image_size=48&interpolation=bicubic&resize=48"),
    }
    for rest in ("model: 'hf-hub:owner/small'\nimage_size: 20", f"defenses: [{{checkpoint: {tmp_path / 'large'}}}]"):
        (job,) = expected(head + rest)
        size = "image_size=20" if "image_size" in rest else "image_size=48&interpolation=bicubic&resize=48"
        assert job.cell.dataset.rpartition("?")[2] == size


def test_options_of_the_data_hold_for_every_data_set(expected: Callable[[str], list[Job]]) -> None:
    """The names of the cells carry them, and a condition may name the data set without them."""
    jobs = expected("""
        dataset: [digits, "digits?channels=1"]
        image_size: 12
        channels: 3
        attacks: fgsm
        n: 5
        include: [{dataset: digits}]
    """)
    assert {job.cell.dataset for job in jobs} == {"digits?channels=3&image_size=12"}


def test_a_suite_in_a_suite_keeps_its_cascade(expected: Callable[[str], list[Job]]) -> None:
    """The attacks beside it are no part of that, and run in their own norm; its own that do not know the norm do not run."""
    jobs = expected("{n: 5, attacks: [cw, {suite: quick}, {suite: minimal-norm}], eps: 0.1}")
    assert [(job.cell.attack_label, job.cell.norm, job.eps) for job in jobs] == [
        ("cw", "l2", ""),
        ("cw-pgd(steps=20)", "linf", "0.1"),
        ("+pgd(steps=20)", "linf", "0.1"),
        *((label, "linf", "0.1") for label in _minimal_norm_attacks("linf")),
    ]


def _minimal_norm_attacks(norm: str) -> list[str]:
    choices = [choice for member in read_suite("minimal-norm").entries for choice in attack_choices(member)]
    return [choice.spec.label for choice in choices if norm in choice.norms]


def test_of_several_norms_each_attack_runs_in_those_it_knows(expected: Callable[[str], list[Job]]) -> None:
    """And in no other."""
    jobs = expected("{n: 5, attacks: [pgd, cw], norm: [linf, l2], eps: 0.5}")
    assert [(job.cell.attack.name, job.cell.norm) for job in jobs] == [("pgd", "linf"), ("pgd", "l2"), ("cw", "l2")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "{n: 5, attacks: [cw], norm: linf, eps: 0.5}",
            r"cw does not support the norm linf \(it supports l2\); for linf use cw-linf",
        ),
        ("{n: 5, attacks: [cw, ddn], norm: [linf]}", "cw does not support the norm linf"),
        ("{n: 5, attacks: [pgd, sigma-zero], norm: [linf, l2], eps: 0.5}", "sigma-zero does not support the norm l"),
    ],
)
def test_a_norm_that_no_attack_keeps_to_is_named(planned: Callable[[str], Plan], text: str, message: str) -> None:
    """Where no attack knows it; and of several norms, an attack that knows none of them is not dropped in silence."""
    with pytest.raises(UserError, match=f"suite.yaml, line 1: {message}"):
        planned(text)


@pytest.mark.parametrize(
    ("conditions", "left"),
    [
        (
            "exclude: {defense: hrs}",
            {("none", "pgd", 0.1), ("none", "pgd", 0.2), ("none", "fgsm", 0.1), ("none", "fgsm", 0.2)},
        ),
        ("exclude: [{defense: none}, {attack: pgd, eps: 1/5}, {attack: [fgsm]}]", {("hrs", "pgd", 0.1)}),
        ("include: {attack: pgd, eps: 0.1}", {("none", "pgd", 0.1), ("hrs", "pgd", 0.1)}),
        ("include: {attack: pgd}, exclude: [{eps: 0.1}, {defense: hrs}]", {("none", "pgd", 0.2)}),
    ],
)
def test_only_what_is_wanted_is_run_and_trained(
    conditions: str, left: set[Any], planned: Callable[[str], Plan], expected: Callable[[str], list[Job]]
) -> None:
    """Cells are told by the words of the table; a model that none of them attacks is not trained."""
    suite = f"{{n: 5, defenses: [none, hrs], attacks: [pgd, fgsm], eps: [0.1, 0.2], {conditions}}}"
    assert {(job.cell.defense, job.cell.attack.name, job.cell.eps) for job in expected(suite)} == left
    assert len(planned(suite).models) == len({defense for defense, _, _ in left})


def test_what_is_left_out_need_not_fit_together(planned: Callable[[str], Plan]) -> None:
    """A condition keeps a defense from a model that it does not fit; a slip in another column is still named."""
    suite = (
        "{n: 5, model: [small-cnn, 'robust-wrn:1x1'], defenses: [none, {name: arlst, compression: 10}], attacks: fgsm"
    )
    with pytest.raises(UserError, match="compression=10 is out of reach"):
        planned(f"{suite}}}")
    for condition in (
        "exclude: {model: 'robust-wrn:1x1', defense: arlst}",
        "include: [{model: small-cnn}, {defense: none}]",
    ):
        names = [
            (model.training.model, len(model.training.defenses)) for model in planned(f"{suite}, {condition}}}").models
        ]
        assert sorted(names) == [("robust-wrn:1x1", 0), ("small-cnn", 0), ("small-cnn", 1)]
    with pytest.raises(UserError, match="no cell has model: small-cnn, attack: pdg"):
        planned(f"{suite}, include: [{{defense: none}}, {{model: small-cnn, attack: pdg}}]}}")


def test_a_condition_may_name_the_decision_rule_with_the_defense(planned: Callable[[str], Plan]) -> None:
    """It is part of the label, whether the suite sets it or the defense."""
    suite = "{n: 5, model: small-cnn, defenses: [{name: gaussian-noise%s}], decision: [mean, vote], attacks: fgsm, %s}"
    for parameters, condition in (
        ("", "include: {defense: gaussian-noise(decision=vote)}"),
        (", decision: mean", "exclude: {defense: gaussian-noise(decision=mean)}"),
    ):
        assert [model.decision for model in planned(suite % (parameters, condition)).models] == ["vote"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("attacks:\n- pgd\n- pdg", r"line 3: unknown attack 'pdg': did you mean 'pgd'\?"),
        ("attacks: [{name: pgd, stepps: 3}]", r"line 1: pgd has no parameter 'stepps': did you mean 'steps'\?"),
        ("attacks: [{name: pgd, steps: [3, 0]}]", "line 1: pgd.steps is 0"),
        ("\ndefenses: [none, hsr]", r"line 2: unknown defense 'hsr': did you mean 'hrs'\?"),
        ("defenses: [{name: hrs, chanels: [5, 5]}]", "did you mean 'channels'"),
        ("defenses: {checkpoint: no.safetensors}", r"line 1: .*no.safetensors"),
        ("dataset: digit", r"line 1: unknown dataset 'digit': did you mean 'digits'\?"),
        ("{channels: 2}", r"line 1: channels is 2: give 1 or 3"),
        ("{n: 5, crop: none}", "line 1: crop=none has no meaning without an image size"),
        ("{on_bad_image: skip}", "data set digits has no option 'on_bad_image'"),
        ("model: smal-cnn", r"line 1: .*did you mean 'small-cnn'\?"),
        ("decision: vot", r"line 1: unknown decision rule 'vot': did you mean 'vote'\?"),
        ("train: {epochs: 0}", "line 1: train.epochs is 0"),
        ("train: {seed: x}", "line 1: train.seed is 'x'"),
        ("exclude: {attack: pdg}", "line 1: no cell has attack: pdg"),
        ("{norm: l0, attacks: [{suite: quick}]}", "line 1: no attack of the suites named here supports the norm l0"),
        ("{attacks: [pgd], norm: l2}", "no default eps for l2: pass --eps"),
    ],
)
def test_a_slip_is_named(text: str, message: str, expected: Callable[[str], list[Job]]) -> None:
    """With its line, before anything is trained."""
    with pytest.raises(UserError, match=message) as raised:
        expected(text)
    assert "\n" not in str(raised.value)


def test_a_checkpoint_stands_as_it_is_or_is_defended(
    planned: Callable[[str], Plan], defended: DefendedModel, tmp_path: Path
) -> None:
    """With each rule of decision where draws decide; a defense around it is trained from it."""
    shutil.copy(defended.path, tmp_path / "base.safetensors")
    base = tmp_path / "base.safetensors"
    sweep = planned(
        f"{{n: 5, defenses: [{{checkpoint: {base}}}, [{{checkpoint: {base}}}, gaussian-noise]], decision: [one-draw, vote]}}"
    )
    aside = planned(
        f"{{n: 5, defenses: [none, {{checkpoint: {base}}}], exclude: {{checkpoint: base.safetensors}}, attacks: pgd}}"
    )
    assert [model.training is None for model in aside.models] == [False]
    plain = [model for model in sweep.models if model.training is None]
    noisy = [model for model in sweep.models if model.training is not None]
    assert [model.expected.identity for model in plain] == [defended.identity] * 2
    assert [model.expected.defense for model in noisy] == ["gaussian-noise", "gaussian-noise(decision=vote)"]
    assert [model.training.base for model in noisy if model.training] == [plain[0].base] * 2


def test_rules_of_decision_are_rows_of_one_training(
    planned: Callable[[str], Plan], expected: Callable[[str], list[Job]]
) -> None:
    """What has no draws has one row for all; a rule can be excluded from some attacks, or stand with the defense itself."""
    chains = "[none, {name: hrs, channels: [2, 1]}, {name: hrs, channels: [2, 1], decision: vote}]"
    suite = f"""
        n: 5
        defenses: {chains}
        attacks: [pgd, {{name: fgsm, eot: [auto, frozen]}}]
        decision: [one-draw, deterministic, frozen]
        exclude: [{{decision: [deterministic, frozen], attack: pgd}}]
    """
    cells = [(job.cell.defense, job.cell.attack.name, job.cell.eot) for job in expected(suite)]
    assert sorted(cells, key=str) == sorted(
        [
            ("none", "pgd", 1),
            ("none", "fgsm", 1),
            ("hrs(channels=[2,1])", "pgd", "exact"),
            ("hrs(channels=[2,1])", "fgsm", "exact"),
            ("hrs(channels=[2,1])", "fgsm", "frozen"),
            ("hrs(decision=deterministic,channels=[2,1])", "fgsm", 1),
            ("hrs(decision=frozen,channels=[2,1])", "fgsm", 1),
        ],
        key=str,
    )
    for text in (suite, f"{{n: 5, defenses: {chains}, attacks: fgsm}}"):
        trainings = {model.training.key for model in planned(text).models if model.training is not None}
        assert len(trainings) == 2
    vote_jobs = expected(f"{{n: 5, defenses: {chains}, attacks: fgsm, include: {{decision: [none, vote]}}}}")
    assert [job.cell.defense for job in vote_jobs] == ["none", "hrs(decision=vote,channels=[2,1])"]


def test_draws_of_a_gradient_can_be_excluded(expected: Callable[[str], list[Job]]) -> None:
    """By their number or their word, as the table has it."""
    suite = "n: 5, defenses: [none, {name: hrs, channels: [2, 1]}], attacks: {name: fgsm, eot: [3, exact, frozen]}"
    cells = expected(f"{{{suite}, exclude: [{{eot: 3}}, {{eot: frozen}}]}}")
    assert [(job.cell.defense, job.cell.eot) for job in cells] == [("none", 1), ("hrs(channels=[2,1])", "exact")]


@pytest.mark.parametrize("name", ["hrs-paper-mnist", "hrs-paper-cifar10", "hrs-fashion", "hrs-fashion-quick"])
def test_the_hrs_suites_show_what_the_randomness_is_worth(name: str, expected: Callable[[str], list[Job]]) -> None:
    """Each defense that draws stands beside its deterministic counterpart and a frozen draw; the paper's attacks do not."""
    text = (BUILTIN / f"{name}.yaml").read_text(encoding="utf-8")
    # Two channels say the same as thirty, which take seconds to make.
    suite = yaml.safe_load(re.sub(r"(\[\d+\])+\"", '[2][2]"', text))
    rows: dict[Any, set[Any]] = {}
    for job in expected(yaml.safe_dump(suite | {"dataset": "digits", "model": "small-cnn"})):
        cell = job.cell
        rules = [defense.parameters["decision"] for defense in cell.defenses if "decision" in defense.parameters]
        named = [(defense.name, {**defense.parameters, "decision": ""}) for defense in cell.defenses]
        threat = (str(named), bool(rules), cell.attack.label, cell.eps, cell.targeted)
        rows.setdefault(threat, set()).add((*rules, cell.eot))
    for (_, draws, _, _, targeted), evaluations in rows.items():
        if not draws:
            assert evaluations == {(1,)}
        elif targeted == "all":
            assert evaluations == {("one-draw", 1), ("one-draw", 10)}
        else:
            adaptive = evaluations - {("one-draw", "frozen"), ("deterministic", 1), ("frozen", 1)}
            assert len(evaluations) == 4 and adaptive < {("one-draw", 10), ("one-draw", "exact")}
    assert {(draws, targeted) for _, draws, _, _, targeted in rows} == {
        *((draws, targeted) for draws in (True, False) for targeted in ("all", "no"))
    }


def test_what_is_expected_of_a_model_is_what_it_becomes(planned: Callable[[str], Plan], tmp_path: Path) -> None:
    """All but the weights; and every model is trained once for all that attacks it."""
    sweep = planned(
        "{n: 5, defenses: {name: hrs, channels: [2, 2]}, attacks: [fgsm, {suite: quick}], train: {epochs: 1}}"
    )
    (model,) = sweep.models
    assert model.needs_training
    options = JobOptions(store=tmp_path, data_dir=None, device="cpu", batch_size=None)
    before = {job.eps for job in sweep.expected_jobs(options)}
    sweep.train()
    jobs = sweep.jobs(options)
    assert not model.needs_training
    assert {job.eps for job in jobs} == before
    assert len({job.cell.checkpoint for job in jobs}) == 1
    now = model.defended()
    for name in ("randomized", "cost_of_all_draws", "defense", "model", "shape", "classes"):
        assert getattr(model.expected, name) == getattr(now, name)


def test_a_condition_may_contain_a_label_with_former_names(expected: Callable[[str], list[Job]]) -> None:
    """An older suite selects the same cells."""
    jobs = expected(
        "{n: 5, attacks: [fgsm, {name: square, early_stopping: true}], eps: 0.1, "
        "include: {attack: [fgsm, square(gives_up=true)]}}"
    )
    assert [job.cell.attack.name for job in jobs] == ["fgsm", "square"]


def test_a_recipe_fills_what_the_suite_leaves_open(planned: Callable[[str], Plan]) -> None:
    """Its values are those of the training and of the defense; the row's origin has its name and what differs from it."""
    suite = """
        defenses: [{name: trades, beta: 2}]
        attacks: [pgd]
        eps: 0.1
        train: {recipe: [trades-2019, madry-2018], batch_size: 64}
    """
    with pytest.warns(Choice) as warned:
        models = planned(suite).models
    assert [str(warning.message) for warning in warned] == [
        (
            "recipe trades-2019 is for cifar10 and mnist, not digits: its network, augmentations, eps and step_size do not fit "
            "and are left out"
        ),
        (
            "recipe madry-2018 is for cifar10 and mnist, not digits: its network, augmentations, eps and step_size do not fit "
            "and are left out"
        ),
        "recipe madry-2018 is for pgd-at, not trades",
    ]
    trainings = [model.training for model in models]
    assert [training.recipe["weight_decay"] for training in trainings if training] == [2e-4, 2e-4]
    assert [training.defenses[0].changed for training in trainings if training] == [
        ("beta",),
        ("steps", "attack_mode", "beta"),
    ]
    assert [training.defenses[0].parameters["beta"] for training in trainings if training] == [2, 2]
    assert [model.origin.recipe for model in models] == [
        {"recipe": name, "epochs": 1, "batch_size": 64, "seed": 3} for name in ("trades-2019", "madry-2018")
    ]

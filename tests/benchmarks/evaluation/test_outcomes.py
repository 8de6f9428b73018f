from __future__ import annotations

import io
from dataclasses import fields, replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustbench_cli.benchmarks.evaluation.outcomes import Outcomes, most_votes, summarize, worst_case

from ..conftest import MakeOutcomes

CLASSES = 3


def random_outcomes(seed: int, *, goals: int = 1, targeted: bool = False, draws: int = 4, images: int = 6) -> Outcomes:
    """Any predictions, rejections (-1) and failures (-2) among them, and any order of survival, with ties."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(CLASSES, size=images)
    return Outcomes(
        labels=labels,
        targets=(labels + rng.integers(1, CLASSES, (goals, images))) % CLASSES if targeted else labels[None][:0],
        clean=rng.integers(-2, CLASSES, (draws, images)),
        clean_survival=rng.integers(4, size=images) / 4,
        perturbed=rng.integers(-2, CLASSES, (goals, draws, images)),
        survival=rng.integers(4, size=(goals, images)) / 4,
        distance=rng.random((goals, images)),
        l2=rng.random((goals, images)),
        linf=rng.random((goals, images)),
    )


anything = st.builds(
    random_outcomes,
    st.integers(0, 10**6),
    goals=st.integers(1, 3),
    targeted=st.booleans(),
    draws=st.integers(1, 5),
    images=st.integers(1, 8),
)


def answer(outcomes: Outcomes, goal: int, draw: int, image: int) -> int:
    """The prediction on a perturbed image, or the label where it was rejected and its clean image was not."""
    held_off = outcomes.perturbed[goal, draw, image] == -1 and outcomes.clean[draw, image] != -1
    return int(outcomes.labels[image] if held_off else outcomes.perturbed[goal, draw, image])


def worst_of(outcomes: Outcomes, image: int) -> list[int]:
    """The answers on an image's worst candidate, by a loop over the candidates."""
    draws = range(len(outcomes.clean))
    best, chosen = outcomes.survival[0, image], [answer(outcomes, 0, draw, image) for draw in draws]
    for goal in range(1, len(outcomes.survival)):
        if outcomes.survival[goal, image] < best:
            best, chosen = outcomes.survival[goal, image], [answer(outcomes, goal, draw, image) for draw in draws]
    if outcomes.clean_survival[image] < best:
        chosen = [int(each) for each in outcomes.clean[:, image]]
    return chosen


def in_words(outcomes: Outcomes) -> dict[str, Any]:
    """The contract's figures, counted one image, goal and draw at a time."""
    images, draws = len(outcomes.labels), len(outcomes.clean)
    labels = [int(label) for label in outcomes.labels]
    clean = robust = vote = every = fell = could_fall = 0
    weights: list[Fraction] = []
    l2: list[float] = []
    linf: list[float] = []
    for image in range(images):
        worst = worst_of(outcomes, image)
        own = worst.count(labels[image])
        vote += all(own > worst.count(other) for other in range(-2, CLASSES) if other != labels[image])
        every += own == draws
        robust += own
        for draw in range(draws):
            right = outcomes.clean[draw, image] == labels[image]
            clean += right
            if not len(outcomes.targets):
                could_fall += right
                fell += right and worst[draw] != labels[image]
            for goal in range(len(outcomes.perturbed)):
                prediction = outcomes.perturbed[goal, draw, image]
                if len(outcomes.targets):
                    target = outcomes.targets[goal, image]
                    could_fall += 1
                    fell += prediction == target
                    broken = prediction == target and outcomes.clean[draw, image] != target
                else:
                    broken = right and answer(outcomes, goal, draw, image) != labels[image]
                if broken:
                    weights.append(Fraction(1))
                    l2.append(outcomes.l2[goal, image])
                    linf.append(outcomes.linf[goal, image])
    nothing = float("nan")
    return {
        "clean_accuracy": clean / (images * draws),
        "robust_accuracy": robust / (images * draws),
        "robust_accuracy_vote": vote / images,
        "robust_accuracy_every_draw": every / images,
        "attack_success_rate": fell / could_fall if could_fall else nothing,
        "mean_l2": sum(l2) / len(l2) if l2 else nothing,
        "mean_linf": sum(linf) / len(linf) if linf else nothing,
    }


@given(anything)
def test_the_figures_are_those_of_the_contract(outcomes: Outcomes) -> None:
    """Every figure is what a loop over images, goals and draws counts."""
    expected = in_words(outcomes)
    found = summarize(outcomes)
    assert {key: found[key] for key in expected} == pytest.approx(expected, nan_ok=True)


@given(anything)
def test_a_row_keeps_its_order(outcomes: Outcomes) -> None:
    """Right in every draw is at most right by vote; figures are shares; intervals hold their figures."""
    found = summarize(outcomes)
    assert 0 <= found["robust_accuracy_every_draw"] <= found["robust_accuracy_vote"] <= 1
    assert found["robust_accuracy_every_draw"] <= found["robust_accuracy"]
    for kind in ("clean", "robust"):
        low, value, high = (found[f"{kind}_accuracy{end}"] for end in ("_low", "", "_high"))
        assert 0 <= low <= value <= high <= 1


@given(anything)
def test_an_attack_that_changes_nothing_lowers_nothing(outcomes: Outcomes) -> None:
    """With every perturbed image the clean one, robust equals clean exactly, and no untargeted attack succeeded."""
    goals = len(outcomes.perturbed)
    same = replace(
        outcomes,
        perturbed=np.stack([outcomes.clean] * goals),
        survival=np.stack([outcomes.clean_survival] * goals),
    )
    found = summarize(same)
    for end in ("", "_low", "_high"):
        assert found[f"robust_accuracy{end}"] == found[f"clean_accuracy{end}"]
    assert np.isnan(found["mean_l2"])
    if not len(outcomes.targets):
        assert found["attack_success_rate"] == 0 or not outcomes.clean_right.any()


def test_the_three_accuracies_agree_for_one_draw(make_outcomes: MakeOutcomes) -> None:
    """A deterministic defense has one robust accuracy; where it is wrong on the clean image, that counts as wrong."""
    found = summarize(make_outcomes(clean=[1, 1, 1, 0], robust=[0, 1, 1, 1]))
    assert found["clean_accuracy"] == 0.75
    assert found["robust_accuracy"] == found["robust_accuracy_vote"] == found["robust_accuracy_every_draw"] == 0.5
    assert found["attack_success_rate"] == pytest.approx(1 / 3)


def test_a_tie_is_no_majority(make_outcomes: MakeOutcomes) -> None:
    """Five of ten draws for the label do not carry a vote between two classes; six do."""
    found = summarize(make_outcomes(clean=[10, 10], robust=[5, 6], draws=10))
    assert found["robust_accuracy_vote"] == 0.5
    assert found["robust_accuracy"] == pytest.approx(0.55)
    assert found["robust_accuracy_every_draw"] == 0


@given(anything, st.floats(0, 1))
def test_a_radius_is_read_off_the_distances(outcomes: Outcomes, eps: float) -> None:
    """What lies beyond it is the clean image, at distance 0; what lies within stays as it is."""
    read = outcomes.within(eps)
    for goal in range(len(outcomes.distance)):
        for image in range(len(outcomes.labels)):
            kept = outcomes.distance[goal, image] <= eps
            before = outcomes.perturbed[goal, :, image] if kept else outcomes.clean[:, image]
            assert (read.perturbed[goal, :, image] == before).all()
            survival = outcomes.survival[goal, image] if kept else outcomes.clean_survival[image]
            assert read.survival[goal, image] == survival
            for name in ("distance", "l2", "linf"):
                assert getattr(read, name)[goal, image] == (getattr(outcomes, name)[goal, image] if kept else 0)
    assert read.distance.max() <= eps
    nothing = summarize(outcomes.within(-1))
    assert nothing["robust_accuracy"] == nothing["clean_accuracy"]


def test_a_larger_radius_never_helps_the_defense(make_outcomes: MakeOutcomes) -> None:
    """Read at growing radii, a minimal-norm attack leaves less and less."""
    outcomes = make_outcomes(clean=[1, 1, 1, 1], robust=[0, 0, 0, 1], distance=[0.1, 0.2, 0.3, 0.4])
    left = [summarize(outcomes.within(eps))["robust_accuracy"] for eps in (0, 0.1, 0.15, 0.2, 0.3, 9)]
    assert left == [1, 0.75, 0.75, 0.5, 0.25, 0.25]


@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 3), st.booleans())
def test_the_worst_case_is_each_images_worst_attack(seed: int, attacks: int, goals: int, targeted: bool) -> None:
    """For each image it holds all the outcomes of the attack whose worst candidate survives least, the first of equals."""
    each = [random_outcomes(seed + number, goals=goals, targeted=targeted) for number in range(attacks)]
    each = [replace(outcomes, labels=each[0].labels) for outcomes in each]
    combined = worst_case(each)
    for image in range(len(combined.labels)):
        values = [min([*outcomes.survival[:, image], outcomes.clean_survival[image]]) for outcomes in each]
        chosen = each[values.index(min(values))]
        for field in fields(Outcomes)[:-1]:
            here, there = getattr(combined, field.name), getattr(chosen, field.name)
            assert here.shape == there.shape
            assert (here[..., image] == there[..., image]).all()
        assert list(combined.worst()[:, image]) == worst_of(chosen, image)


def test_at_any_distance_the_worst_case_is_the_nearest(make_outcomes: MakeOutcomes) -> None:
    """Where the radius does not count, of the attacks that an image falls to, the one with the smallest perturbation."""
    first = make_outcomes(clean=[1, 1, 1], robust=[0, 0, 1], distance=[0.3, 0.1, 0.0])
    second = make_outcomes(clean=[1, 1, 1], robust=[0, 1, 0], distance=[0.2, 0.0, 0.4])
    combined = worst_case([first, second], nearest=True)
    assert combined.distance.tolist() == [[0.2, 0.1, 0.4]]
    assert summarize(combined)["robust_accuracy"] == 0


@given(anything)
def test_the_file_gives_back_what_was_written(outcomes: Outcomes) -> None:
    """Types, shapes and values survive the ``.npz`` file."""
    read = Outcomes.from_bytes(outcomes.to_bytes())
    for field in fields(Outcomes)[:-1]:
        before, after = getattr(outcomes, field.name), getattr(read, field.name)
        assert before.dtype == after.dtype
        assert np.array_equal(before, after)


def old_file(outcomes: Outcomes) -> bytes:
    """The file that earlier versions wrote: an array for each attribute, compressed."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{field.name: getattr(outcomes, field.name) for field in fields(Outcomes)})
    return buffer.getvalue()


@given(anything)
def test_files_of_earlier_versions_are_read(outcomes: Outcomes) -> None:
    """Alone, and together with files of this version, whose types are others."""
    assert_equal(Outcomes.from_bytes(old_file(outcomes)), outcomes)
    for contents in ([old_file(outcomes)] * 2, [outcomes.to_bytes()] * 2, [old_file(outcomes), outcomes.to_bytes()]):
        together = Outcomes.from_files(contents)
        for number in range(2):
            assert_equal(together.of_attack(number), outcomes)


def assert_equal(first: Outcomes, second: Outcomes) -> None:
    """Fails where they have other values."""
    for field in fields(Outcomes):
        assert np.array_equal(getattr(first, field.name), getattr(second, field.name))


@pytest.mark.parametrize(("classes", "kind"), [(128, "i1"), (129, "i2"), (40_000, "i4")])
def test_the_file_is_one_record_in_small_types(make_outcomes: MakeOutcomes, classes: int, kind: str) -> None:
    """NumPy reads it alone; integers take as many bytes as the largest class needs, and rounded numbers four."""
    outcomes = make_outcomes(clean=[1, 0], robust=[0, 1])
    outcomes = replace(outcomes, perturbed=(classes - 1) * outcomes.perturbed, survival=outcomes.survival + 0.1)
    with np.load(io.BytesIO(outcomes.to_bytes())) as file:
        record = file["outcomes"]
    assert {record.dtype[name].base.str[1:] for name in ("labels", "targets", "clean", "perturbed")} == {kind}
    assert [record[name].dtype.str[1:] for name in ("l2", "survival", "distance")] == ["f8", "f8", "f8"]
    assert np.array_equal(record["perturbed"], outcomes.perturbed)
    rounded = replace(outcomes, l2=outcomes.l2.astype(np.float32).astype(np.float64))
    with np.load(io.BytesIO(rounded.to_bytes())) as file:
        assert file["outcomes"]["l2"].dtype == np.float32


@given(anything)
def test_equal_outcomes_have_equal_files(outcomes: Outcomes) -> None:
    """The bytes between the fields are zeros, whatever the memory held before."""
    with np.load(io.BytesIO(outcomes.to_bytes())) as file:
        record = file["outcomes"]
    content = np.frombuffer(record.tobytes(), dtype=np.uint8).copy()
    for kind, offset in ((entry[0], entry[1]) for entry in record.dtype.fields.values()):
        content[offset : offset + kind.itemsize] = 0
    assert not content.any()


def test_many_classes_have_room_in_votes() -> None:
    """127 classes fit into one byte, and their numbers beyond the rejection do not."""
    predictions, labels = np.array([[126, 0], [126, 1]], dtype=np.int8), np.array([126, 5], dtype=np.int8)
    assert most_votes(predictions, labels).tolist() == [True, False]

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest

from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel, method_spec, open_defended_model
from robustbench_cli.benchmarks.execution.job import Job
from robustbench_cli.benchmarks.execution.status import seconds_a_pass, states
from robustbench_cli.benchmarks.execution.worker import lease_name, work
from robustbench_cli.benchmarks.store.leases import Leases
from robustbench_cli.benchmarks.store.store import Failure, Result, Store
from robustbench_cli.benchmarks.suites.config import AttackEntry
from robustbench_cli.benchmarks.suites.grid import attack_choices
from robustbench_cli.defenses import registry as defenses


def test_the_state_of_every_cell(jobs: Callable[..., list[Job]]) -> None:
    """Done, failed, at work, missing, or of a model that is not trained; what a search gives costs nothing once more."""
    specs = [
        choice.spec for name in ("fgsm", "pgd", "cw-pgd", "fmn") for choice in attack_choices(AttackEntry(name=name))
    ]
    asked = jobs(*specs, eps=("0.1", "0.2"))
    defended_models = [_subject_of(asked[0])]
    work(asked[0])
    Store(asked[2].store).publish_failure(Failure(cell=asked[2].cell, eps="0.1", error="no way"))
    done = Store(asked[0].store).result(asked[0].cell.id)
    with Leases(asked[0].store).hold(lease_name(asked[-1])):
        found = states(asked, defended_models, stored={done.cell.id: done})
    assert [each.state for each in found] == [
        *("done", "missing", "failed", "missing", "missing", "missing"),
        *("running", "running"),
    ]
    # An image costs a forward and a backward pass a step, one more to look at the last, and one each to judge it before and after.
    assert [each.passes for each in found] == [20 * 4] * 2 + [20 * 83] * 4 + [20 * (201 + 2), 0]
    assert not any(each.changed for each in found)
    of_another_model = states(asked, defended_models, stored={}, untrained={asked[0].cell.checkpoint})
    assert [each.state for each in of_another_model] == ["done", *["untrained"] * (len(asked) - 1)]
    ((model, seconds),) = seconds_a_pass([done]).items()
    assert model == ("digits", "small-cnn")
    assert seconds == pytest.approx(done.seconds / (done.forwards + done.backwards))


def test_what_has_changed_since_a_cell_was_stored_is_told(jobs: Callable[..., list[Job]]) -> None:
    """Of the same name, of what the suite does not ask for as it is; a result of another model's file is of no account."""
    choices = [choice for name in ("pgd", "fgsm") for choice in attack_choices(AttackEntry(name=name))]
    pgd, fgsm = jobs(*(choice.spec for choice in choices), eps=("0.1",))
    slower = pgd.cell.attack.model_copy(update={"parameters": {**pgd.cell.attack.parameters, "steps": 7}})
    edited = pgd.cell.attack.model_copy(update={"source": "0" * 64})

    def told(*olds: dict[str, Any], checkpoint: str = "model.safetensors", wanted: Collection[str] = ()) -> list[Any]:
        stored = [
            Result.model_construct(
                cell=pgd.cell.model_copy(update=old), checkpoint=f"elsewhere/{checkpoint}", versions={}
            )
            for old in olds
        ]
        asked = [job.model_copy(update={"checkpoint": Path("here/model.safetensors")}) for job in (pgd, fgsm)]
        known = {job.cell.id for job in asked} | {stored[int(each)].cell.id for each in wanted}
        return [
            (each.state, each.changed)
            for each in states(
                asked, [_subject_of(pgd)], stored={each.cell.id: each for each in stored}, wanted=known, costs=False
            )
        ]

    nothing = ("missing", ())
    for old, words in (
        ({"checkpoint": "0"}, ["weights"]),
        ({"attack": slower}, ["pgd.steps was 7"]),
        ({"attack": edited}, ["code of pgd"]),
        ({"data": "0"}, ["images"]),
        ({"data": "0", "n": 7}, ["n was 7"]),
        ({"eot": 10, "repeats": 5}, ["eot was 10", "repeats was 5"]),
        ({"after": "0"}, ["the previous cell"]),
    ):
        assert told(old) == [("stale", tuple(words)), nothing]
    for old in ({"seed": 1}, {"eps": 0.2}, {"norm": "l2"}, {"dataset": "mnist"}):
        assert told(old) == [nothing, nothing]
    assert told({"checkpoint": "0"}, checkpoint="other.safetensors") == [nothing, nothing]
    assert told({"attack": slower}, wanted="0") == [nothing, nothing]
    # Of several, the one that is nearest.
    assert told({"attack": slower, "checkpoint": "0"}, {"eot": 10})[0] == ("stale", ("eot was 10",))
    # By another rule of decision it is another row.
    switching = [method_spec(defenses, "hrs", {"decision": rule}).spec for rule in ("one-draw", "frozen")]
    pgd, fgsm = (
        job.model_copy(update={"cell": job.cell.model_copy(update={"defenses": tuple(switching[:1])})})
        for job in (pgd, fgsm)
    )
    assert told({"n": 7}) == [("stale", ("n was 7",)), nothing]
    assert told({"defenses": tuple(switching[1:]), "n": 7}) == [nothing, nothing]


def _subject_of(job: Job) -> DefendedModel:

    return open_defended_model(job.checkpoint)

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
from robustbench_cli.benchmarks.store.records import Failure, Result
from robustbench_cli.benchmarks.store.store import Store
from robustbench_cli.benchmarks.suites.config import AttackEntry
from robustbench_cli.benchmarks.suites.grid import attack_choices
from robustbench_cli.defenses import registry as defenses


def test_the_state_of_every_cell(jobs: Callable[..., list[Job]]) -> None:
    """Each state is reported; a cell that shares the search of another one costs nothing."""
    specs = [
        choice.spec for name in ("fgsm", "pgd", "cw-pgd", "fmn") for choice in attack_choices(AttackEntry(name=name))
    ]
    selected = jobs(*specs, eps=("0.1", "0.2"))
    defended_models = [_model_of(selected[0])]
    work(selected[0])
    Store(selected[2].store).publish_failure(Failure(cell=selected[2].cell, eps="0.1", error="no way"))
    done = Store(selected[0].store).result(selected[0].cell.id)
    with Leases(selected[0].store).hold(lease_name(selected[-1])):
        cell_states = states(selected, defended_models, stored={done.cell.id: done})
    assert [cell_state.state for cell_state in cell_states] == [
        *("done", "missing", "failed", "missing", "missing", "missing"),
        *("running", "running"),
    ]
    # A forward and a backward pass per step, one for the last step, and one each for the clean and the final image.
    assert [cell_state.passes for cell_state in cell_states] == [20 * 4] * 2 + [20 * 83] * 4 + [20 * (201 + 2), 0]
    assert not any(cell_state.changed for cell_state in cell_states)
    untrained_states = states(selected, defended_models, stored={}, untrained={selected[0].cell.checkpoint})
    assert [cell_state.state for cell_state in untrained_states] == ["done", *["untrained"] * (len(selected) - 1)]
    ((model, seconds),) = seconds_a_pass([done]).items()
    assert model == ("digits", "small-cnn")
    assert seconds == pytest.approx(done.seconds / (done.forwards + done.backwards))


def test_stored_batches_are_not_left(jobs: Callable[..., list[Job]]) -> None:
    """The images of stored batches are counted once, and their passes are not left; so for the search of all radii."""
    specs = [choice.spec for name in ("fgsm", "fmn") for choice in attack_choices(AttackEntry(name=name))]
    fgsm, fmn = jobs(*specs, eps=("0.1",))
    search = fmn.cell.model_copy(update={"eps": None}).id
    for folder, batches in (
        (fgsm.store / "pieces" / fgsm.cell.id, ("0-4", "2-5")),
        (fmn.store / "searches/pieces" / search, ("0-15",)),
    ):
        folder.mkdir(parents=True)
        for batch in batches:
            (folder / f"{batch}.piece").touch()
    models = [_model_of(fgsm)]
    first, second = states([fgsm, fmn], models, stored={})
    assert (first.state, first.images_stored, first.passes, first.passes_left) == ("missing", 5, 20 * 4, 15 * 4)
    assert (second.images_stored, second.passes_left) == (15, 5 * (201 + 2))
    work(fgsm)
    (done,) = states([fgsm], models, stored={})
    assert (done.state, done.images_stored, done.passes_left) == ("done", 0, 0)


def test_changes_since_a_cell_was_stored_are_named(jobs: Callable[..., list[Job]]) -> None:
    """A stored result with the same labels makes a cell stale; a result of another checkpoint does not."""
    choices = [choice for name in ("pgd", "fgsm") for choice in attack_choices(AttackEntry(name=name))]
    pgd, fgsm = jobs(*(choice.spec for choice in choices), eps=("0.1",))
    slower = pgd.cell.attack.model_copy(update={"parameters": {**pgd.cell.attack.parameters, "steps": 7}})
    edited = pgd.cell.attack.model_copy(update={"source": "0" * 64})

    def changes(
        *olds: dict[str, Any], checkpoint: str = "model.safetensors", wanted: Collection[str] = ()
    ) -> list[Any]:
        stored = [
            Result.model_construct(
                cell=pgd.cell.model_copy(update=old), checkpoint=f"elsewhere/{checkpoint}", versions={}
            )
            for old in olds
        ]
        selected = [job.model_copy(update={"checkpoint": Path("here/model.safetensors")}) for job in (pgd, fgsm)]
        current = {job.cell.id for job in selected} | {stored[int(index)].cell.id for index in wanted}
        return [
            (cell_state.state, cell_state.changed)
            for cell_state in states(
                selected,
                [_model_of(pgd)],
                stored={result.cell.id: result for result in stored},
                suite_cells=current,
                costs=False,
            )
        ]

    nothing = ("missing", ())
    for old, expected in (
        ({"checkpoint": "0"}, ["weights"]),
        ({"attack": slower}, ["pgd.steps was 7"]),
        ({"attack": edited}, ["code of pgd"]),
        ({"data": "0"}, ["images"]),
        ({"data": "0", "n": 7}, ["n was 7"]),
        ({"eot": 10, "repeats": 5}, ["eot was 10", "repeats was 5"]),
        ({"after": "0"}, ["the previous cell"]),
    ):
        assert changes(old) == [("stale", tuple(expected)), nothing]
    for old in ({"seed": 1}, {"eps": 0.2}, {"norm": "l2"}, {"dataset": "mnist"}):
        assert changes(old) == [nothing, nothing]
    assert changes({"checkpoint": "0"}, checkpoint="other.safetensors") == [nothing, nothing]
    assert changes({"attack": slower}, wanted="0") == [nothing, nothing]
    # Of several results, the one that differs least.
    assert changes({"attack": slower, "checkpoint": "0"}, {"eot": 10})[0] == ("stale", ("eot was 10",))
    # Another decision rule is another row.
    switching = [method_spec(defenses, "hrs", {"decision": rule}).spec for rule in ("one-draw", "frozen")]
    pgd, fgsm = (
        job.model_copy(update={"cell": job.cell.model_copy(update={"defenses": tuple(switching[:1])})})
        for job in (pgd, fgsm)
    )
    assert changes({"n": 7}) == [("stale", ("n was 7",)), nothing]
    assert changes({"defenses": tuple(switching[1:]), "n": 7}) == [nothing, nothing]


def _model_of(job: Job) -> DefendedModel:

    return open_defended_model(job.checkpoint)

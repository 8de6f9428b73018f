"""A page's content, made up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robustbench_cli.benchmarks.audit.verdict import AuditedRows, LeftOut
from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Finding
from robustbench_cli.benchmarks.evaluation.outcomes import Outcomes
from robustbench_cli.benchmarks.evaluation.saved_images import SavedImages
from robustbench_cli.benchmarks.reports.html.content import PageContent
from robustbench_cli.benchmarks.reports.rows import rows
from robustbench_cli.benchmarks.store.records import Result

from ...conftest import MakeCell, MakeOutcomes, MakeResult

MakeContent = Callable[..., PageContent]


def save_images(folder: Path, cell: str, *, side: int = 8) -> SavedImages:
    """Saves four images of the classes 0, 0, 1 and 1; the attack broke the second and the third."""
    images = np.full((4, side, side, 1), 100, dtype=np.uint8)
    perturbed = images + np.arange(4, dtype=np.uint8)[:, None, None, None]
    labels = np.array([0, 0, 1, 1])
    saved = SavedImages(images=images, perturbed=perturbed, labels=labels, predictions=np.array([[0, 1, 0, 1]]))
    saved.write(folder, cell)
    return saved


@pytest.fixture
def make_content(
    tmp_path: Path, make_cell: MakeCell, make_outcomes: MakeOutcomes, make_result: MakeResult
) -> MakeContent:
    """Three models under two attacks at two radii, with every text from a file as a test gives it."""

    def make(name: str = "any", **changes: Any) -> PageContent:
        outcomes: dict[str, Outcomes] = {}
        results: list[Result] = []
        defense = MethodSpec(name=name, parameters={"rate": name}, changed=("rate",))
        models = (((), "a"), ((defense,), "b"), ((defense, defense), "c"))
        attacks = (MethodSpec(name=name), MethodSpec(name="square", parameters={"key": name}, changed=("key",)))
        for number, (defenses, identity) in enumerate(models):
            for index, (attack, eps) in enumerate((attack, eps) for eps in (0.1, 0.2) for attack in attacks):
                cell = make_cell(
                    dataset=name, model=name, defenses=defenses, checkpoint=identity * 64, attack=attack, eps=eps
                )
                right = [int(image + index < 4) for image in range(4)]
                outcomes[cell.id] = make_outcomes(clean=[1, 1, 1, int(number < 2)], robust=right)
                texts = {"eps": f"{eps:g}{name}", "checkpoint": name, "device": name, "versions": {name: name}}
                results.append(make_result(cell, outcomes[cell.id], flags=(name,), **texts)[0])

        def read(some: Sequence[Result]) -> tuple[Sequence[Result], Outcomes]:
            return some, Outcomes.stacked([outcomes[result.cell.id] for result in some])

        table = rows(results, read)
        table["certified_accuracy"], table["certified_gap"] = 0.25, 0.5
        finding = Finding(check=name, severity="suspicious", evidence=name)
        fields = {"dataset": name, "model": name, "checkpoint": name, "checkpoint_sha256": "a" * 64}
        verdict = AuditedRows(
            **fields,
            defense=name,
            norm="linf",
            n=4,
            findings=(finding,),
            passed=(name,),
            left_out=(LeftOut(check=name, reason=name),),
        )
        save_images(tmp_path / "images", results[0].cell.id)
        usual: dict[str, Any] = {
            "table": table,
            "results": results,
            "read": read,
            "verdicts": [verdict],
            "images": tmp_path / "images",
            "missing": [name],
            "conflicts": [name],
            "gates": [(True, name), (False, name), (None, name)],
        }
        return PageContent(**usual | changes)

    return make

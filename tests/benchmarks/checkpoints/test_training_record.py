from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from robustbench_cli.benchmarks.checkpoints.checkpoint import read_info
from robustbench_cli.benchmarks.checkpoints.training_record import checked_record
from robustbench_cli.core.errors import UserError


def record(**network: Any) -> dict[str, Any]:
    """The record of one network that was trained for a second."""
    return {"stages": [{"trained": {"training": {"seconds": 1, **network}}}]}


def test_a_record_stays_as_it_is() -> None:
    """Also one without a training, and a stage whose defense trained by itself."""
    weights = {
        "latest": {},
        "averaged": {"held_out_clean": 1},
        "best": {"held_out_robust": 0.5, "held_out_clean": 0.75},
    }
    whole = {"key": "k", "base": {"anything": [1]}, **record(kept_epoch=3, weights=weights, curve="anything")}
    records: list[dict[str, Any]] = [{}, {"stages": []}, {"stages": [{"trained": {}}]}, whole]
    for good in records:
        before = json.dumps(good)
        assert checked_record(good) is good
        assert json.dumps(good) == before


@pytest.mark.parametrize(
    ("training", "place"),
    [
        ({"stages": {}}, "stages"),
        ({"stages": None}, "stages"),
        ({"stages": [[]]}, "stages.0"),
        ({"stages": [{}]}, "stages.0.trained"),
        ({"stages": [{"trained": []}]}, "stages.0.trained"),
        ({"stages": [{"trained": {"a": {}}}]}, "stages.0.trained.a.seconds"),
        (record(seconds="1"), "stages.0.trained.training.seconds"),
        (record(seconds=10**400), "stages.0.trained.training.seconds"),
        (record(kept_epoch=10**400), "stages.0.trained.training.kept_epoch"),
        (record(weights=[1]), "stages.0.trained.training.weights"),
        (record(weights={"best": {}, "averaged": {}}), "stages.0.trained.training"),
        (record(weights={"/../../tmp/k": {}, "latest": {}}), "stages.0.trained.training.weights./../../tmp/k.[key]"),
        (record(weights={"averaged": {"a" * 9999: 1}}), "stages.0.trained.training.weights.averaged.aaa"),
        *(
            (record(weights={"averaged": {"held_out_clean": value}}), "stages.0.trained.training.weights.averaged.held")
            for value in ("zz", "0.5", None, -0.1, 1.5, float("inf"), float("nan"))
        ),
    ],
)
def test_a_changed_record_is_refused(tmp_path: Path, training: Any, place: str) -> None:
    """In one line that says where."""
    path = tmp_path / "a.safetensors"
    info = {"model": "small-cnn", "shape": [1, 8, 8], "classes": 10, "training": training}
    save_file({"a": torch.zeros(1)}, path, metadata={"advdef": json.dumps(info)})
    with pytest.raises(UserError) as refused:
        read_info(path, named=())
    line = str(refused.value)
    assert line.startswith(
        f"{path} has a description that this version of advdef does not understand (training: {place}"
    )
    assert "\n" not in line
    assert len(line) < len(str(path)) + 500

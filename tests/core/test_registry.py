from __future__ import annotations

import hashlib
import inspect
import re
import sys
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from robustbench_cli.attacks import registry
from robustbench_cli.attacks.cw_pgd import CWPGD
from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.benchmarks.datasets import registry as datasets
from robustbench_cli.benchmarks.models import registry as models
from robustbench_cli.core import registry as module
from robustbench_cli.core.errors import UserError
from robustbench_cli.core.registry import Registry
from robustbench_cli.defenses import registry as defenses

MINE = """
from typing import ClassVar
from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.attacks.base.attack import FixedRadiusAttack

class Mine(PGD):
    "Mine."
    paper: ClassVar[str] = "none"

class Half(FixedRadiusAttack):
    norms: ClassVar[tuple[str, ...]] = ("linf",)

number = 3
function = lambda: None
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A user's file with an attack and other objects."""
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return path


def refused(name: str, registry: Registry = registry) -> str:
    """The error message for a name that cannot be loaded."""
    with pytest.raises(UserError) as refusal:
        registry.load(name)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_every_file_is_a_name() -> None:
    """The names are those of the package's files, with hyphens; each loads the one public object of its file.

    The files of families name no object by themselves.
    """
    files = Path(inspect.getfile(PGD)).parent.glob("*.py")
    names = {file.stem.replace("_", "-") for file in files if file.stem != "__init__"}
    assert registry.names() == sorted(names - registry.families)
    assert registry.families < names
    assert registry.load("cw-pgd") is CWPGD
    assert registry.name_of(CWPGD) == "cw-pgd"


def test_a_new_file_is_a_new_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new file of the package is a name; excluded files and sub-packages are not."""
    package = tmp_path / "some_attacks"
    (package / "base").mkdir(parents=True)
    for file, text in {
        "__init__": "",
        "base/__init__": "",
        "a_b": "__all__ = ['thing']\nthing = 1",
        "tools": "",
    }.items():
        (package / f"{file}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    own_registry = Registry(kind="thing", package="some_attacks", not_named=frozenset({"tools"}))
    assert own_registry.names() == ["a-b"]
    assert own_registry.load("a-b") == 1
    for other in ("tools", "base"):
        with pytest.raises(UserError, match=f"unknown thing '{other}': known: a-b"):
            own_registry.load(other)


def test_a_users_file_is_loaded_once(mine: Path) -> None:
    """An object is found by its file's path, loading it again returns the same object, and its version is the file's hash."""
    name = f"{mine}:Mine"
    loaded = registry.load(name)
    assert issubclass(loaded, PGD)
    assert registry.load(name) is loaded
    assert registry.source_of(name) == hashlib.sha256(mine.read_bytes()).hexdigest()
    assert registry.source_of("pgd") is None


def test_a_users_module_is_found(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``package.module:object`` is imported from Python's path, and this is its name."""
    (mine.parent / "my_package").mkdir()
    mine.rename(mine.parent / "my_package" / "attacks_of_mine.py")
    monkeypatch.syspath_prepend(mine.parent)
    loaded = registry.load("my_package.attacks_of_mine:Mine")
    assert issubclass(loaded, PGD)
    assert registry.name_of(loaded) == "my_package.attacks_of_mine:Mine"


def test_an_entry_point_is_a_name(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entry points of other distributions are names like the project's own."""
    monkeypatch.syspath_prepend(mine.parent)
    point = EntryPoint(name="mine", value="mine:Mine", group="advdef.attacks")
    broken = EntryPoint(name="broken", value="mine:absent", group="advdef.attacks")
    gone = EntryPoint(name="gone", value="not_installed_any_more:Mine", group="advdef.attacks")
    monkeypatch.setattr(module, "entry_points", lambda *, group: [point, broken, gone] if group == point.group else [])
    own_registry = Registry(kind="attack", package=registry.package, base=registry.base)
    assert {"mine", "broken", "gone", "pgd"} <= {*own_registry.names()}
    assert own_registry.load("mine").__name__ == "Mine"
    assert own_registry.name_of(own_registry.load("mine")) == "mine"
    assert "mine has no 'absent'" in refused("broken", own_registry)
    assert "no module not_installed_any_more" in refused("gone", own_registry)
    del sys.modules["mine"]


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    """A typing error gets a suggestion, any other text the list of names."""
    assert refused("pdg") == "unknown attack 'pdg': did you mean 'pgd'?"
    assert refused("Pgd") == "unknown attack 'Pgd': did you mean 'pgd'?"
    assert refused("MyAttack") == "unknown attack 'MyAttack': your own is named with its file, as in file.py:MyAttack"
    assert refused("qqq") == f"unknown attack 'qqq': known: {', '.join(registry.names())}"


@pytest.mark.parametrize(
    "name", ["./foo:obj", ":obj", "..:obj", ".foo:obj", "a b:obj", "absent_module:obj", "json.absent:obj"]
)
def test_what_is_no_module_is_one_line(name: str) -> None:
    """A text that is not a module's name gets the two valid forms."""
    assert refused(name).endswith("give package.module:object or path/to/file.py:object")


def test_what_is_no_file_is_one_line(tmp_path: Path) -> None:
    """A path without a file is named."""
    assert refused(f"{tmp_path}/absent.py:Mine").startswith(f"no file {tmp_path}/absent.py: ")


def test_an_absent_object_is_answered_with_the_nearest(mine: Path) -> None:
    """A typing error in the object's name gets a suggestion from the file."""
    assert refused(f"{mine}:Mime") == f"{mine} has no 'Mime': did you mean 'Mine'?"
    assert refused(f"{mine}:").startswith(f"{mine} has no ''")


def test_an_import_is_no_suggestion(tmp_path: Path) -> None:
    """What a file imports is not suggested: neither modules nor classes, functions or annotations."""
    imports = "from __future__ import annotations\nimport json as near\nfrom typing import Any\nfrom json import dumps, JSONDecoder\n"
    (tmp_path / "own.py").write_text(f"{imports}from math import exp\nfar = 1\n")
    assert refused(f"{tmp_path}/own.py:nearr") == f"{tmp_path}/own.py has no 'nearr': known: far"


@pytest.mark.parametrize("name", ["number", "function", "ClassVar"])
def test_what_is_no_attack_is_one_line(mine: Path, name: str) -> None:
    """An object of another kind is refused when it is loaded, not when it is run."""
    expected = (
        f"'{mine}:{name}' is no attack: give a class that derives from robustbench_cli.attacks.base.attack.Attack"
    )
    assert refused(f"{mine}:{name}") == expected


def test_a_class_with_parts_missing_is_one_line(mine: Path) -> None:
    """An abstract class names the method that it lacks."""
    assert refused(f"{mine}:Half") == f"'{mine}:Half' is no complete attack: its class lacks run"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 +", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import absent_module", "ModuleNotFoundError: No module named 'absent_module'"),
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("raise ValueError('two\\nlines')", "ValueError: two lines"),
        (
            "from robustbench_cli.attacks.pgd import PGD\nclass Mine(PGD):\n    speed = 3",
            "PydanticUserError: A non-annotated",
        ),
        (
            (
                "from robustbench_cli.attacks.base.attack import FixedRadiusAttack\n"
                "class Mine(FixedRadiusAttack):\n"
                "    def run(self, *given): ..."
            ),
            "TypeError: Mine must declare its norms",
        ),
    ],
)
def test_code_that_cannot_be_imported_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    """For any error in a user's file or module, the line says where and what."""
    path = tmp_path / "broken_code.py"
    path.write_text(text)
    for _ in range(2):
        assert refused(f"{path}:Mine").startswith(f"{path} cannot be imported: {message}")


def test_a_module_that_cannot_be_imported_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module with a missing dependency and a missing module have different messages."""
    (tmp_path / "needs_another.py").write_text("import absent_module")
    monkeypatch.syspath_prepend(tmp_path)
    expected = "needs_another cannot be imported: ModuleNotFoundError: No module named 'absent_module'"
    assert refused("needs_another:Mine") == expected


EVIL = "raise SystemExit('code of a file has run')"


@pytest.mark.parametrize(
    "name",
    [
        *("hrs:{0}/evil.py:Evil", "hrs:/evil.py:Evil", "hrs:evil:Evil", "sap:Evil", "none:", "hrs:", ":hrs", ":", ""),
        *("{0}/evil.py:Evil", "./evil.py:Evil", "evil:Evil", "os:system", "evil.py", "evil", "..", "hrs.py:HRS", "HRS"),
        *(" hrs", "hrs ", "hrs\n", "hrs\0", "h\u200brs", "robustbench_cli.defenses.hrs:HRS", "hrs\\evil", "x" * 10_000),
    ],
)
def test_what_a_file_names_is_installed_by_exact_match(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """No form of a name in a data file leads to code that is not installed."""
    (tmp_path / "hrs:").mkdir()
    for file in ("evil", "sap", "hrs", "hrs:/evil"):
        (tmp_path / f"{file}.py").write_text(EVIL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    name = name.format(tmp_path)
    with pytest.raises(UserError) as refusal:
        defenses.trusted(name, file="a.safetensors", named=["jpeg", "other.py:Mine"])
    assert str(refusal.value).startswith("a.safetensors")
    assert len(str(refusal.value)) < 1500
    # Whoever named it themselves gets what they named, and nothing else.
    assert defenses.trusted(name, file="a.safetensors", named=[name]) == name
    assert defenses.trusted("hrs", file="a.safetensors") == "hrs"


@pytest.mark.parametrize(
    ("name", "trusted"),
    [
        *(("torchvision:resnet18", True), ("torchvision", True), ("small-cnn", True), ("torchvision:vit_b-16.x", True)),
        *(("torchvision:/evil.py:Evil", False), ("torchvision:evil.py:Evil", False), ("torchvision:", False)),
        *(("torchvision:x\n", False), ("small-cnn:/evil.py:Evil", False)),
        *(("torchvision:resnet18@IMAGENET1K_V1", True), ("torchvision:owner/name@v1", True), ("torchvision:x@", False)),
        *(("torchvision:a/../b", False), ("torchvision:../a", False), ("torchvision:a//b", False)),
        *(("torchvision:a/b@/evil", False), ("torchvision:a@b/c", False)),
        *(("robust-wrn:1x1,last=1.5", True), ("robust-wrn:last=/evil", False), ("robust-wrn:=x", False)),
    ],
)
def test_an_argument_from_a_file_is_a_plain_word(name: str, trusted: bool) -> None:
    """A data file may give a plug-in a plain name as its argument, but no path."""
    if trusted:
        assert models.trusted(name, file="a.safetensors") == name
        return
    with pytest.raises(UserError, match=r"a\.safetensors needs the code"):
        models.trusted(name, file="a.safetensors")


def test_a_plug_in_keeps_its_name_before_an_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows the colon of an installed name is never an object of a module with that name."""
    point = EntryPoint(name="zoo", value="robustbench_cli.benchmarks.models.small_cnn:SmallCNN", group="advdef.models")
    monkeypatch.setattr(module, "entry_points", lambda group: [point])
    own_registry = Registry(kind="model", package="robustbench_cli.benchmarks.models", argument=r"\w+")
    assert own_registry.find("zoo:word")[1] == "word"
    assert own_registry.find("zoo")[1] is None
    assert own_registry.source_of("zoo:word") == own_registry.source_of("zoo")


def test_the_argument_of_a_plug_in_has_no_slash(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may take it for a path. Of the project's own models, none does."""
    point = EntryPoint(name="zoo", value="robustbench_cli.benchmarks.models.small_cnn:SmallCNN", group="advdef.models")
    monkeypatch.setattr(module, "entry_points", lambda group: [point])
    fresh = replace(models)
    assert fresh.trusted("torchvision:owner/name", file="a.safetensors") == "torchvision:owner/name"
    assert fresh.trusted("zoo:name", file="a.safetensors") == "zoo:name"
    with pytest.raises(UserError, match=r"a\.safetensors needs the code zoo:owner/name"):
        fresh.trusted("zoo:owner/name", file="a.safetensors")


@pytest.mark.parametrize(
    ("registry", "name", "suggestion"),
    [
        (models, "torchvison:resnet18", "'torchvision:resnet18'"),
        (models, "tim:resnet18", "'timm:resnet18'"),
        (models, "hf_hub:owner/net", "'hf-hub:owner/net'"),
        (models, "huggingface:owner/net", "'hf-hub:owner/net'"),
        (datasets, "webdatset:/data/a.tar", "'webdataset:/data/a.tar'"),
        (datasets, "huggingface:mnist", "'hf:mnist'"),
        (registry, "torchatacks:PGD", "'torchattacks:PGD'"),
        (registry, "foolbx:LinfPGD", "'foolbox:LinfPGD'"),
    ],
)
def test_a_misspelled_prefix(registry: Registry, name: str, suggestion: str) -> None:
    """The whole name is suggested; what may be a user's own module is still looked for."""
    assert refused(name, registry) == f"unknown {registry.kind} '{name}': did you mean {suggestion}?"


@pytest.mark.parametrize("name", ["no_such_module:Mine", "tim.models:resnet18", "json:no_such_object"])
def test_what_looks_like_a_users_module(name: str) -> None:
    """It is no misspelled prefix."""
    assert re.search("no module (no_such_module|tim)|json has no", refused(name, models))

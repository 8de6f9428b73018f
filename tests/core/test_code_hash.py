from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from robustbench_cli.benchmarks.models import registry
from robustbench_cli.core.code_hash import hash_of_code

Hash = Callable[[str], str | None]


@pytest.fixture
def hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hash]:
    """The hash of a module in the test's folder, imported anew, as another process would."""
    before = {*sys.modules}
    monkeypatch.syspath_prepend(tmp_path)

    def forget() -> None:
        for name in {*sys.modules} - before:
            del sys.modules[name]
        importlib.invalidate_caches()

    def fresh(name: str) -> str | None:
        forget()
        importlib.import_module(name)
        return hash_of_code(name)

    yield fresh
    forget()


def write(folder: Path, **files: str) -> None:
    """Python files by their names, ``a_in_b`` for ``b/a.py``."""
    for name, content in files.items():
        path = folder.joinpath(*reversed(name.split("_in_"))).with_suffix(".py")
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(content)


def test_a_file_alone_is_its_sha256(tmp_path: Path, hashed: Hash) -> None:
    """Whatever libraries it imports, and whatever else lies beside it."""
    write(tmp_path, mine_alone="import json\nimport torch\n", beside="x = 1\n")
    expected = hashlib.sha256((tmp_path / "mine_alone.py").read_bytes()).hexdigest()
    assert hashed("mine_alone") == expected


@pytest.mark.parametrize(
    "statement",
    [
        "import helper",
        "from helper import constant",
        "def later():\n    import helper",
        "import between",
        "import folder.inside",
        "from folder import inside",
    ],
)
def test_an_edit_of_what_is_imported_is_seen(tmp_path: Path, hashed: Hash, statement: str) -> None:
    """However it is imported, from beside or from below, and at any depth; going back gives the first hash again."""
    files = {"helper": "constant = 1\n", "between": "from helper import constant\n", "beside": "x = 1\n"}
    files |= {"inside_in_folder": "from helper import constant\n", "mine": f"{statement}\n"}
    write(tmp_path, **files)
    first = hashed("mine")
    write(tmp_path, helper="constant = 2\n", beside="x = 2\n")
    second = hashed("mine")
    write(tmp_path, **files)
    assert second != first
    assert hashed("mine") == first


def test_a_package_is_hashed_from_its_top(tmp_path: Path, hashed: Hash) -> None:
    """Relative imports, also of what lies above; other files of the package are of no account."""
    files = {
        "__init___in_pack": "",
        "top_in_pack": "x = 1\n",
        "__init___in_sub_in_pack": "",
        "other_in_pack": "x = 1\n",
    }
    write(tmp_path, **files, mine_in_sub_in_pack="from ..top import x\n")
    first = hashed("pack.sub.mine")
    write(tmp_path, other_in_pack="x = 2\n")
    assert hashed("pack.sub.mine") == first
    write(tmp_path, top_in_pack="x = 2\n")
    assert hashed("pack.sub.mine") != first


def test_where_the_code_lies_is_of_no_account(tmp_path: Path, hashed: Hash, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same files in another folder have the same hash."""
    write(tmp_path, mine="import helper\n", helper="x = 1\n")
    first = hashed("mine")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("mine.py", "helper.py"):
        (tmp_path / name).rename(elsewhere / name)
    monkeypatch.syspath_prepend(elsewhere)
    assert hashed("mine") == first


def test_a_partial_is_known_by_the_file_that_names_it(tmp_path: Path) -> None:
    """Its arguments stand there, whoever wrote the function."""
    text = "from functools import partial\nfrom torch import nn\nnet = partial(nn.Linear, 3)\n"
    (tmp_path / "nets.py").write_text(text)
    assert registry.source_of(f"{tmp_path}/nets.py:net") == hashlib.sha256(text.encode()).hexdigest()


def test_what_is_built_in_has_no_code() -> None:
    """There is no file to read."""
    assert hash_of_code("sys") is None

"""The wheel is what users get: all of the folders, under one name, and it runs outside the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from robustbench_cli import __version__

ROOT = Path(__file__).parents[1]
FOLDERS = ("attacks", "benchmarks", "defenses", "robustbench_cli")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a source distribution built from a copy of the checkout, and of the wheel built from that."""
    copy = tmp_path_factory.mktemp("checkout")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, copy / folder, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, copy)
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", "dist"],
        cwd=copy,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return copy / "dist"


@pytest.fixture(scope="module")
def site(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the wheel is installed in, and nothing else."""
    target = tmp_path_factory.mktemp("site")
    (wheel,) = built.glob("*.whl")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*install, str(wheel)], check=True)
    return target


def on_disk() -> set[str]:
    """What the folders hold, under the names that it is imported by."""
    found = set()
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*"):
            place = path.relative_to(ROOT)
            linked = folder == "robustbench_cli" and len(place.parts) > 2 and place.parts[1] in FOLDERS
            if path.is_file() and "__pycache__" not in place.parts and not linked:
                found.add(place.as_posix() if folder == "robustbench_cli" else f"robustbench_cli/{place.as_posix()}")
    return found


def test_the_wheel_holds_the_folders_and_nothing_else(built: Path) -> None:
    """Every file of the four folders is in the wheel, and its only top level is robustbench_cli."""
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        information = {name for name in names if name.startswith(f"advdef-{__version__}.dist-info/")}
        metadata = archive.read(f"advdef-{__version__}.dist-info/METADATA").decode()
        top_level = archive.read(f"advdef-{__version__}.dist-info/top_level.txt").decode()
    assert names - information == on_disk()
    assert top_level.split() == ["robustbench_cli"]
    assert "Requires-Python: >=3.11\n" in metadata
    assert "License-Expression: MIT\n" in metadata
    assert "Requires-Dist: torch>=2.10\n" in metadata


def test_the_source_distribution_holds_no_links(built: Path) -> None:
    """A link would not survive an unpacking on every system."""
    (source,) = built.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        assert all(member.isfile() or member.isdir() for member in archive)


@pytest.mark.parametrize(
    "words", [["--version"], ["list", "attacks"], ["list", "defenses"], ["show", "model", "paper-cnn"]]
)
def test_the_installed_wheel_runs_outside_the_checkout(site: Path, tmp_path: Path, words: list[str]) -> None:
    """The command works from an empty folder, from the wheel's own files, next to a user's own folder `attacks`."""
    (tmp_path / "attacks").mkdir()
    (tmp_path / "attacks/__init__.py").write_text("raise RuntimeError('the wrong attacks')")
    ask = (
        f"import sys, robustbench_cli.cli.main as m; assert m.__file__.startswith({str(site)!r}), m.__file__; "
        f"code = m.main({words!r}); import robustbench_cli.attacks as a; assert a.__file__.startswith({str(site)!r}); "
        f"sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", ask],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_the_wheel_brings_the_command_and_the_types(site: Path) -> None:
    """The command advdef is made on installation, and type checkers may read the annotations."""
    information = site / f"advdef-{__version__}.dist-info"
    assert "advdef = robustbench_cli.cli.main:main" in (information / "entry_points.txt").read_text()
    assert (site / "robustbench_cli/py.typed").is_file()

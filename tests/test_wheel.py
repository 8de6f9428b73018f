"""The wheel holds all of the folders, under two names, however it was built, and it runs outside the checkout."""

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
LINKS = ("attacks", "benchmarks", "defenses")
FOLDERS = (*LINKS, "robustbench_cli")
INFORMATION = f"advdef-{__version__}.dist-info/"


def copy_of_checkout(folder: Path) -> Path:
    """A copy of what a build reads."""
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "advdef.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


def turn_links_into_text(checkout: Path) -> None:
    """Does to the three links what git does where it cannot make links: each becomes a file that holds its target."""
    for name in LINKS:
        link = checkout / "robustbench_cli" / name
        target = str(link.readlink())
        link.unlink()
        link.write_text(target)


def build(checkout: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", "dist", *options],
        cwd=checkout,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders that three builds write to: from a checkout, from one without links, from a source distribution."""
    folders = {}
    for name, options in (("checkout", ["--wheel"]), ("no links", ["--wheel"]), ("sdist", [])):
        checkout = copy_of_checkout(tmp_path_factory.mktemp("checkout"))
        if name == "no links":
            turn_links_into_text(checkout)
        done = build(checkout, *options)
        assert done.returncode == 0, done.stdout + done.stderr
        folders[name] = checkout / "dist"
    return folders


def files_of(folder: Path) -> dict[str, str]:
    """The files of the wheel in a folder, with their checksums, but not the metadata's."""
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return {
            info.filename: f"{info.CRC:x}" for info in archive.infolist() if not info.filename.startswith(INFORMATION)
        }


@pytest.fixture(scope="module")
def site(built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the wheel is installed in, and nothing else."""
    target = tmp_path_factory.mktemp("site")
    (wheel,) = built["sdist"].glob("*.whl")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*install, str(wheel)], check=True)
    return target


def on_disk() -> set[str]:
    """The files of the folders, under the names that they are imported by; benchmarks/comparison is left out."""
    names = {"advdef.py"}
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*"):
            parts = path.relative_to(ROOT).parts
            linked = folder == "robustbench_cli" and len(parts) > 2 and parts[1] in LINKS
            left_out = "__pycache__" in parts or parts[:2] == ("benchmarks", "comparison")
            if path.is_file() and not linked and not left_out:
                names.add("/".join(parts if folder == "robustbench_cli" else ("robustbench_cli", *parts)))
    return names


def test_three_builds_hold_the_same_files(built: dict[str, Path]) -> None:
    """Links that became text and a source distribution cost no file."""
    checkout, no_links, sdist = (files_of(folder) for folder in built.values())
    assert checkout == no_links == sdist
    assert len(checkout) > 200


def test_the_wheel_holds_the_folders_and_nothing_else(built: dict[str, Path]) -> None:
    """Every file of the four folders is in the wheel, and its top levels are advdef and robustbench_cli."""
    assert set(files_of(built["checkout"])) == on_disk()
    (wheel,) = built["checkout"].glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(f"{INFORMATION}METADATA").decode()
        top_level = archive.read(f"{INFORMATION}top_level.txt").decode()
    assert top_level.split() == ["advdef", "robustbench_cli"]
    assert "Requires-Python: >=3.11\n" in metadata
    assert "License-Expression: MIT\n" in metadata
    assert "Requires-Dist: torch>=2.10\n" in metadata


def test_the_source_distribution_holds_no_links(built: dict[str, Path]) -> None:
    """A link would not survive an unpacking on every system."""
    (source,) = built["sdist"].glob("*.tar.gz")
    with tarfile.open(source) as archive:
        assert all(member.isfile() or member.isdir() for member in archive)


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("defenses", "advdef: no package in defenses/: build from a complete checkout or source distribution"),
        (
            "attacks/base/gradients/__init__.py",
            "advdef: attacks/base/gradients/ has .py files but no __init__.py, so it would be missing: add one",
        ),
    ],
)
def test_a_build_that_would_lose_packages_fails(tmp_path: Path, lost: str, message: str) -> None:
    """A folder that is not there, or that is no package, ends the build with one line."""
    checkout = copy_of_checkout(tmp_path)
    path = checkout / lost
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    done = subprocess.run(
        [sys.executable, "setup.py", "--version"], cwd=checkout, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (1, f"{message}\n")


def run_installed(site: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "words", [["--version"], ["list", "attacks"], ["list", "suites"], ["show", "model", "paper-cnn"]]
)
def test_the_installed_wheel_runs_outside_the_checkout(site: Path, tmp_path: Path, words: list[str]) -> None:
    """The command works from an empty folder, from the wheel's own files, next to a user's own folder `attacks`."""
    (tmp_path / "attacks").mkdir()
    (tmp_path / "attacks/__init__.py").write_text("raise RuntimeError('the wrong attacks')")
    code = (
        f"import sys, robustbench_cli.cli.main as m; assert m.__file__.startswith({str(site)!r}), m.__file__; "
        f"code = m.main({words!r}); import robustbench_cli.attacks as a; assert a.__file__.startswith({str(site)!r}); "
        f"sys.exit(code)"
    )
    done = run_installed(site, tmp_path, "-c", code)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_the_module_advdef_is_the_command(site: Path, tmp_path: Path) -> None:
    """`python -m advdef` runs from the installed wheel, and `import advdef` finds the wheel's own file."""
    done = run_installed(site, tmp_path, "-m", "advdef", "--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"advdef {__version__}\n", "")
    done = run_installed(site, tmp_path, "-c", "import advdef; print(advdef.__file__, advdef.PGD(steps=20).steps)")
    assert (done.stdout, done.stderr) == (f"{site}/advdef.py 20\n", "")


def test_the_wheel_brings_the_command_and_the_types(site: Path) -> None:
    """The command advdef is made on installation, and type checkers may read the annotations."""
    information = site / INFORMATION
    assert "advdef = robustbench_cli.cli.main:main" in (information / "entry_points.txt").read_text()
    assert (site / "robustbench_cli/py.typed").is_file()

"""Names the packages by the folders that hold them, with or without the links inside robustbench_cli/.

`attacks/`, `defenses/` and `benchmarks/` are imported as `robustbench_cli.attacks` and so on. In a checkout three symbolic
links do that. Where git or an unzipper has turned them into text files, and in a source distribution, this mapping does.
"""

import os
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent
PACKAGE = "robustbench_cli"
LINKED = ("attacks", "benchmarks", "defenses")
# Programs that compare advdef with other libraries: they run from a checkout only.
LEFT_OUT = {"benchmarks/comparison"}


def packages(top: str) -> dict[str, str]:
    """The folders below ``top`` by package name. A folder of YAML files is data and still needs a name."""
    found = {}
    for folder, subfolders, files in os.walk(ROOT / top):
        path = Path(folder).relative_to(ROOT).as_posix()
        linked = LINKED if path == PACKAGE else ()
        subfolders[:] = sorted(
            name
            for name in subfolders
            if name != "__pycache__" and name not in linked and f"{path}/{name}" not in LEFT_OUT
        )
        endings = {Path(name).suffix for name in files}
        if ".py" in endings and "__init__.py" not in files:
            raise SystemExit(f"advdef: {path}/ has .py files but no __init__.py, so it would be missing: add one")
        if not endings & {".py", ".yaml"}:
            continue
        name = path.replace("/", ".")
        found[name if top == PACKAGE else f"{PACKAGE}.{name}"] = path
    if not found:
        raise SystemExit(f"advdef: no package in {top}/: build from a complete checkout or source distribution")
    return found


FOLDERS = {name: folder for top in (PACKAGE, *LINKED) for name, folder in packages(top).items()}

setup(packages=sorted(FOLDERS), package_dir=FOLDERS)

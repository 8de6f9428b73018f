"""The navigation of the documentation site has every page of ``docs/``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]


def paths(entries: list[Any]) -> Iterator[str]:
    """The pages of a navigation, its sections included."""
    for entry in entries:
        for value in entry.values():
            yield from paths(value) if isinstance(value, list) else [value]


def test_every_page_is_in_the_navigation() -> None:
    """A new page of docs/ needs a line under `nav` in mkdocs.yml; the pages from outside docs/ are made by a hook."""
    listed = [*paths(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])]
    pages = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert len(listed) == len({*listed})
    assert pages == {*listed} - {"index.md", "contributing.md", "changelog.md", "license.md"}

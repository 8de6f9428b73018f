"""The documentation site builds without a warning, has a page for everything with a name, and loads nothing from elsewhere."""

from __future__ import annotations

import html
import logging
import re
from pathlib import Path

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config

from robustbench_cli.cli import catalog
from robustbench_cli.cli.catalog import KINDS, names

from .test_pages import commands_of, parse

ROOT = Path(__file__).parents[2]
FOLDERS = {"dataset": "data-sets"}


def code_of(page: Path) -> list[str]:
    """The shell blocks of a page of the site, as text."""
    blocks = re.findall(r'<div class="language-sh highlight">(.*?)</div>', page.read_text(encoding="utf-8"), re.DOTALL)
    return [html.unescape(re.sub(r"<[^>]+>", "", block)) for block in blocks]


def test_the_site_builds_with_a_page_for_every_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Strict mode makes a broken link, a page that is not in the navigation and a docstring that cannot be read an error."""
    # Measuring the cost runs every attack; tests/cli/commands/test_show.py does that.
    monkeypatch.setattr(catalog, "_cost", lambda attack: {"forwards": 41, "backwards": 40})
    site = tmp_path / "site"
    # In this process, which has imported what the pages describe.
    build(load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(site)))
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []
    monkeypatch.chdir(tmp_path)
    for kind in KINDS:
        folder = site / "catalog" / FOLDERS.get(kind, f"{kind}s")
        pages = {path.parent.name: path for path in folder.glob("*/index.html")}
        assert pages.keys() == {name.removesuffix(":") for name in names(kind)}
        for page in pages.values():
            commands = [words for block in code_of(page) for words in commands_of(block)]
            assert commands, page
            for words in commands:
                parse(words)
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert re.findall(r'(?:src|<link[^>]* href)="(?:https?:)?//[^"]*"', text) == [], page
        assert "&amp;#" not in text, f"{page}: text was escaped twice"

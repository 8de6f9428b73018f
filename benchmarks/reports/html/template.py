"""Fills the templates of pages. Each page is one HTML document that loads nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from robustbench_cli import __version__
from robustbench_cli.benchmarks.reports.html.svg import shortened
from robustbench_cli.core.escaping import escaped_for_terminal

__all__ = ["rendered"]

_FOLDER = Path(__file__).parent


def rendered(template: str, **values: Any) -> str:
    """A page.

    Args:
        template: The name of a template of this folder that extends ``base.html.jinja``.
        **values: What it shows. Texts are escaped, and their control characters are made visible.
    """
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_visible,
    )
    environment.filters |= {"short": shortened, "tight": _tight, "unbroken": _unbroken}
    style, script = ((_FOLDER / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return environment.get_template(template).render(
        **values,
        version=__version__,
        # Files of the project, whose hashes the policy of the page allows.
        style=Markup(style),  # noqa: S704
        script=Markup(script),  # noqa: S704
        hashes={"style": _hash(style), "script": _hash(script)},
    )


def _hash(source: str) -> str:
    """A hash as a content security policy takes it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}"


def _visible(value: Any) -> Any:
    """A value with its control characters made visible; the template escapes the rest."""
    return value if isinstance(value, Markup) or not isinstance(value, str) else escaped_for_terminal(value)


def _unbroken(text: str) -> Markup:
    """A text whose options, such as ``--repeats``, stay on one line; a picture as it is."""
    if isinstance(text, Markup):
        return text
    # The text is escaped first, and no escape looks like an option.
    escaped = str(escape(_visible(text)))
    return Markup(re.sub(r"(--[a-z][a-z-]*)", r'<span class="option">\1</span>', escaped))  # noqa: S704


def _tight(text: str) -> Markup:
    """A text whose percent signs stay with their numbers."""
    return escape(_visible(text)).replace(" %", Markup("&nbsp;%"))

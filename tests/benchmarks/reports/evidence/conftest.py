"""The content of a report, made up; that of the tests of the page."""

from __future__ import annotations

from ..html.conftest import make_content

__all__ = ["make_content"]

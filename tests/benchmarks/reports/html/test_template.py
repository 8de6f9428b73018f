from __future__ import annotations

import base64
import hashlib

from robustbench_cli.benchmarks.reports.html.tables import Field, Table
from robustbench_cli.benchmarks.reports.html.template import rendered

from .parsed_page import Parsed

NOTHING = Table(caption="", headers=[], rows=[])


def filled(text: str) -> str:
    """A page with a text in a table."""
    table = Table(caption=text, headers=[(text, False)], rows=[[Field(text)]])
    return rendered(
        "audit.html.jinja", groups=[], counts=[], findings=table, accuracies=NOTHING, checked=NOTHING, models=NOTHING
    )


def test_the_policy_has_the_hashes_of_the_style_and_the_script() -> None:
    """And allows nothing else."""
    parsed = Parsed(filled("any"))
    (policy,) = (attrs["content"] for _, attrs in parsed.elements if attrs.get("http-equiv"))
    assert "default-src 'none'" in str(policy)
    for kind in ("script", "style"):
        digest = base64.b64encode(hashlib.sha256("".join(parsed.texts[kind]).encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in str(policy)


def test_a_text_is_escaped_and_its_options_stay_on_one_line() -> None:
    """Its control characters are seen."""
    source = filled("<b>&\x1b give --repeats 10")
    assert "&lt;b&gt;&amp;\\x1b give" in source
    assert '<span class="option">--repeats</span> 10' in source

"""A page as a browser reads it, and names that must stay text in it."""

from __future__ import annotations

import re
from html.parser import HTMLParser

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onload='alert(1)",
    "</script></style></title></svg>",
    "<!--",
    "]]>",
    "&lt;b&gt;&#x3c;",
    "\x1b[31mred\x07\x00",
    "\u202eright to left\u200b",
    '=HYPERLINK("http://x")',
    "{{ 7 * 7 }}{% raw %}",
    "javascript:alert(1)",
    "a|b\nc\r\nd\te",
    "x" * 10_000,
)
"""Names as a file from elsewhere may have them."""

VOID = {"meta", "img", "input", "br", "hr", "link"}


class Parsed(HTMLParser):
    """A page as a browser reads it.

    Attributes:
        elements: Each element with its attributes, in order.
        texts: The text of each element by its tag.
    """

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), (tag, attrs)
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self._open[-1] if self._open else "", []).append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    def hidden_characters(self) -> list[str]:
        """The characters in all texts that control a terminal, take no room or turn the direction."""
        everything = "".join(text for texts in self.texts.values() for text in texts)
        return re.findall(r"[\x00-\x08\x0b-\x1f\x7f\u200b\u202e]", everything)

    def shape(self) -> set[tuple[str, tuple[str, ...], str]]:
        """The tags with their attributes and classes: all that is not text."""
        return {(tag, tuple(sorted(attrs)), attrs.get("class") or "") for tag, attrs in self.elements}

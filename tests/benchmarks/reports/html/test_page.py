from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from robustbench_cli.benchmarks.reports.html import page as page_module
from robustbench_cli.benchmarks.reports.html.content import PageContent
from robustbench_cli.benchmarks.reports.html.page import page

from .conftest import MakeContent
from .parsed_page import HOSTILE, Parsed


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: ascii(name)[:30])
def test_a_hostile_name_stays_text(make_content: MakeContent, name: str) -> None:
    """In every field: the elements, attributes, scripts and styles are those of a page with a harmless name."""
    # Long names change which labels have room, so the harmless one is as long.
    harmless, hostile = Parsed(page(make_content("n" * len(name)))), Parsed(page(make_content(name)))
    assert hostile.shape() == harmless.shape()
    assert hostile.texts["script"] == harmless.texts["script"]
    assert hostile.texts["style"] == harmless.texts["style"]
    assert hostile.texts["title"][0] == "Adversarial robustness report"
    assert hostile.hidden_characters() == []


def test_a_long_name_makes_no_long_page(make_content: MakeContent) -> None:
    """It is cut off in each place."""
    assert len(page(make_content("x" * 10_000))) < 2 * len(page(make_content("x" * 100)))


@pytest.fixture
def source(make_content: MakeContent) -> str:
    """A page with something in every section."""
    return page(make_content())


def test_the_page_loads_nothing_and_runs_only_its_own_script(source: str) -> None:
    """It has one script and one style, which test_template.py holds to the policy, and pictures inside the page."""
    parsed = Parsed(source)
    for kind in ("script", "style"):
        assert sum(tag == kind for tag, _ in parsed.elements) == 1
    addresses = [value for _, attrs in parsed.elements for key, value in attrs.items() if key in {"src", "href"}]
    assert all(str(address).startswith(("data:image/png;base64,", "#")) for address in addresses)
    assert not [attrs for _, attrs in parsed.elements if "style" in attrs or any(key.startswith("on") for key in attrs)]
    assert not re.search(r"url\(|@import|@font-face", "".join(parsed.texts["style"]))
    assert not re.search(r"fetch|XMLHttp|innerHTML|eval", "".join(parsed.texts["script"]))


def test_every_picture_has_a_text(source: str) -> None:
    """An alternative text, or a title and a description by which a drawing is labelled; identifiers occur once."""
    parsed = Parsed(source)
    identifiers = [attrs["id"] for _, attrs in parsed.elements if "id" in attrs]
    assert len(set(identifiers)) == len(identifiers)
    pictures = [attrs for tag, attrs in parsed.elements if tag in {"img", "svg"}]
    assert len(pictures) > 10
    for attrs in pictures:
        labels = str(attrs.get("aria-labelledby", "")).split()
        assert (
            attrs.get("alt") or attrs.get("aria-hidden") == "true" or ({*labels} <= {*identifiers} and len(labels) == 2)
        )
    links = {str(attrs["href"])[1:] for tag, attrs in parsed.elements if tag == "a"}
    assert links <= {*identifiers}


def test_tables_have_headers_and_scroll_by_keyboard(source: str) -> None:
    """Each header and each first field has a scope; what scrolls can be focused and has a name."""
    parsed = Parsed(source)
    assert {attrs.get("scope") for tag, attrs in parsed.elements if tag == "th"} == {"row", "col"}
    scrolling = [attrs for tag, attrs in parsed.elements if attrs.get("class") == "scroll"]
    assert scrolling
    assert all(attrs.get("tabindex") == "0" and attrs.get("aria-label") for attrs in scrolling)


def test_the_sections_come_in_order(source: str) -> None:
    """The answer first, and each section has content or says what is missing."""
    sections = re.findall(r'<section id="([a-z-]+)">', source)
    assert sections == [
        *("answer", "trade-off", "radius", "attacks", "certified", "worst", "classes", "findings", "gallery", "cost"),
        *("rows", "reproduce"),
    ]
    # Every model has a defense that no undefended one is compared with by name, so only the score is missing.
    assert source.count('class="empty"') <= 1


def test_the_figures_are_those_of_the_rows(make_content: MakeContent) -> None:
    """What a table is sorted by is the unrounded value."""
    content = make_content()
    shown = {float(value) for value in re.findall(r'data-v="([^"]+)"', page(content))}
    for column in ("robust_accuracy", "attack_success_rate", "certified_accuracy"):
        assert {float(f"{value:.6g}") for value in content.table[column]} <= shown


def test_models_are_counted_once(make_content: MakeContent) -> None:
    """However many sets of images they were attacked on, each with an answer of its own."""
    content = make_content()
    assert "12 rows, 3 models." in page(PageContent(table=content.table[content.table["attack"] != "worst-case"]))
    twice = pd.concat([content.table, content.table.assign(n=8)], ignore_index=True)
    source = page(PageContent(table=twice))
    assert f"{len(twice)} rows, 3 models." in source
    assert source.count('<svg viewBox="0 0 240 22"') >= 6


def test_a_quick_look_is_said_of_its_rows(make_content: MakeContent) -> None:
    """As below the table in the terminal; an option stays on one line."""
    table = make_content().table.assign(quick_look=[True, *[False] * (len(make_content().table) - 1)])
    assert f'<p class="note">1 of {len(table)} rows is a quick look: ' in page(PageContent(table=table))
    assert '<span class="option">--suite</span> standard' in page(PageContent(table=table))


def test_an_empty_table_has_a_page() -> None:
    """It says so, and what to do."""
    from robustbench_cli.benchmarks.reports.rows import rows

    source = page(PageContent(table=rows([], lambda _: None)))
    Parsed(source)
    assert "There are no rows" in source
    assert source.count('class="empty"') >= 8


def test_a_list_that_is_cut_off_says_so(make_content: MakeContent) -> None:
    """Of the cells without a result."""
    content = replace(make_content(), missing=[f"cell {number} is missing" for number in range(25)], conflicts=())
    source = page(content)
    assert "<li>cell 19 is missing</li><li>and 5 more</li>" in source
    assert "more</li>" not in page(replace(content, missing=content.missing[:20]))


def test_a_table_alone_has_a_page(make_content: MakeContent) -> None:
    """Without outcomes, verdicts and commands; it says where these are."""
    source = page(PageContent(table=make_content().table))
    Parsed(source)
    assert "this page was made from the table alone" in source
    assert "--save-images DIR" in source


def test_rows_of_several_versions_are_marked(make_content: MakeContent) -> None:
    """With the versions of each row."""
    content = make_content()
    first, *others = content.results
    mixed = [first.model_copy(update={"versions": {"torch": "1.0"}}), *others]
    source = page(PageContent(table=content.table, results=mixed, read=content.read, verdicts=()))
    assert "The rows were computed by 2 sets of versions" in source
    assert "torch 1.0" in source


def test_the_same_content_gives_the_same_page(make_content: MakeContent) -> None:
    """Byte for byte, so that reports can be compared."""
    content = make_content()
    assert page(content) == page(content)


def luminance(color: str) -> float:
    """The relative luminance of a color, as WCAG 2.2 defines it."""
    digits = color.lstrip("#")
    digits = "".join(digit * 2 for digit in digits) if len(digits) == 3 else digits
    parts = [int(digits[index : index + 2], 16) / 255 for index in (0, 2, 4)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colors."""
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def themes() -> list[dict[str, str]]:
    """The colors of the light theme, and those of the dark one."""
    style = (Path(page_module.__file__).parent / "page.css").read_text(encoding="utf-8")
    blocks = [dict(re.findall(r"--([a-z0-9]+): (#[0-9a-f]{3,6});", block)) for block in style.split(":root {")[1:3]]
    assert [len(block) for block in blocks] == [17, 17]
    return blocks


@pytest.mark.parametrize("colors", themes(), ids=["light", "dark"])
def test_contrast_is_enough_in_both_themes(colors: dict[str, str]) -> None:
    """4.5 for texts and 3 for what is drawn (WCAG 2.2 AA)."""
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    for background in ("back", "panel"):
        for text in ("ink", "quiet", "link", "good", "fair", "bad"):
            assert contrast(colors[text], colors[background]) >= 4.5, (text, background)
        for drawn in ("accent", "strong", "s0", "s1", "s2", "s3", "s4", "s5"):
            assert contrast(colors[drawn], colors[background]) >= 3, (drawn, background)

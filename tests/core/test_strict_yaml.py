from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from robustbench_cli.core import strict_yaml
from robustbench_cli.core.errors import UserError
from robustbench_cli.core.strict_yaml import open_yaml_file, read_yaml


@pytest.mark.parametrize(
    "text",
    ["", "3", "1.5", "1e-3", "yes", "null", "word", "[5, 5]", "{a: 1, b: [x, {c: null}]}", "a: 1\nb:\n  - 2\n", "é"],
)
def test_values_are_those_of_pyyaml(text: str) -> None:
    """Plain values are those of PyYAML's safe loader."""
    assert read_yaml(text) == yaml.safe_load(text)


@pytest.mark.parametrize("text", ["2001-12-14", "2001-13-45", "2001-12-14t21:59:43.10-05:00"])
def test_dates_stay_words(text: str) -> None:
    """Dates stay strings."""
    assert read_yaml(text) == text


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nb: 2\na: 3", "line 3: 'a' is given twice: give it once"),
        ("x: {a: 1, a: 1}", "line 1: 'a' is given twice: give it once"),
        ("a: &b [1]\nc: *b", "line 2: *b is an alias: write its value out"),
        ("&a [*a]", "line 1: *a is an alias: write its value out"),
        ("[" * 5000, "the value is nested too deeply: give one with fewer brackets inside brackets"),
        ("{a: " * 5000, "the value is nested too deeply: give one with fewer brackets inside brackets"),
    ],
)
def test_what_could_be_misread_is_refused(text: str, line: str) -> None:
    """Repeated keys, aliases and deep nesting have their own messages."""
    with pytest.raises(UserError) as refusal:
        read_yaml(text)
    assert str(refusal.value) == line


@pytest.mark.parametrize(
    "text",
    [
        *(
            "010",
            "-010",
            "1:30",
            "190:20:30",
            "-1:30.5",
            "1_0",
            "1_000",
            "0b11",
            "0x1F",
            "00",
            "+0_1",
            "1_0.5",
            "1._5",
        ),
        *("1e-400", "-1.5e-400", "1.0e+400", "2E400", ".5e-999"),
    ],
)
@pytest.mark.parametrize("template", ["{}", "n: {}", "a: [1, {}]", "{{a: {{b: {}}}}}", "{}: 1"])
def test_a_number_that_is_read_otherwise_than_it_looks_is_refused(text: str, template: str) -> None:
    """Octal and base 60, underscores, other bases, and numbers that are too small or too large."""
    with pytest.raises(UserError, match=rf"^line 1: {re.escape(text)} is ") as refusal:
        read_yaml(template.format(text))
    assert "\n" not in str(refusal.value)


@given(st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False)))
def test_a_number_that_is_read_is_the_one_that_is_written(number: float) -> None:
    """Every number that Python writes has the same value, or stays a string as in PyYAML."""
    result = read_yaml(f"{number!r}")
    assert type(number)(result) == number
    assert type(result) in {type(number), str}


@given(st.text("0123456789+-._:eExobnaif", min_size=1, max_size=12))
def test_whatever_looks_like_a_number(text: str) -> None:
    """The value is that of its decimal digits, a string, or an error, but never another number."""
    try:
        result = read_yaml(f"a: {text}")["a"]
    except (UserError, yaml.YAMLError, KeyError, TypeError):
        return
    if isinstance(result, int | float) and not isinstance(result, bool):
        assert math.isnan(result) or math.isinf(result) or float(text) == result


@pytest.mark.parametrize("text", ["0o17", "08", ".5e", "1e", "2001-12-14", "1.2.3", "٣", "._5", "12:75"])
def test_what_is_no_number_is_a_word(text: str) -> None:
    """Other text stays a string."""
    assert read_yaml(text) == text


@pytest.mark.parametrize("text", ["'010'", '"1_0"', "'1:30'", "|\n  010"])
def test_in_quotes_it_is_a_word(text: str) -> None:
    """Quoted text stays a string."""
    assert isinstance(read_yaml(text), str)


@pytest.mark.parametrize("text", ["9" * 5000, f"[1, {'9' * 5000}]"])
def test_a_number_that_is_too_long_is_refused(text: str) -> None:
    """More digits than Python accepts are a usage error."""
    with pytest.raises(UserError, match=r"a number that cannot be read: .*5000 digits"):
        read_yaml(text)


def test_a_key_may_stand_in_several_mappings_and_types() -> None:
    """Only equal keys of one mapping are repeated keys."""
    text = "[{a: 1}, {a: 2}, {1: x, '1': y}]"
    assert read_yaml(text) == [{"a": 1}, {"a": 2}, {1: "x", "1": "y"}]


def test_what_is_no_yaml_is_pyyamls_error() -> None:
    """Callers may then treat the text as a string."""
    with pytest.raises(yaml.YAMLError):
        read_yaml("[1, 2")


def test_a_value_is_found_by_its_line(tmp_path: Path) -> None:
    """Keys and positions lead to the line; after a missing one, the last existing line counts."""
    path = tmp_path / "a.yaml"
    path.write_text("# a remark\na: 1\nb:\n  - c\n  - d: 2\n    e: [3,\n      4]\n")
    file = open_yaml_file(path)
    assert file.value == {"a": 1, "b": ["c", {"d": 2, "e": [3, 4]}]}
    lines = {(): 2, ("a",): 2, ("b",): 3, ("b", 0): 4, ("b", 1, "e"): 6, ("b", 1, "e", 1): 7, ("b", 7): 3, ("a", 0): 2}
    for keys, line in lines.items():
        assert file.location(*keys) == f"{path}, line {line}"


@pytest.mark.parametrize("separator", [", ", "\n- "])
def test_a_file_with_too_many_values_is_refused_before_it_is_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, separator: str
) -> None:
    """In both notations of a list."""
    path = tmp_path / "suite.yaml"
    path.write_text(f"seeds: [{separator.join(map(str, range(200_002)))}]", encoding="utf-8")
    monkeypatch.delattr(strict_yaml, "_Loader")
    with pytest.raises(UserError, match="more than 200,000 commas and lines"):
        open_yaml_file(path)

from __future__ import annotations

import warnings

import pytest

from robustbench_cli.core.errors import Notice, UserError
from robustbench_cli.core.python_messages import names_keywords, with_keywords


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("give --mean and --std if training used one", "give mean and std if training used one"),
        ("bring the images to it with --channels 3", "bring the images to it with channels=3"),
        ("give --weights NAME (openai) or --checkpoint FILE", "give weights (openai) or a file"),
        ("a -- b and x--y are no options", "a -- b and x--y are no options"),
    ],
)
def test_options_become_keywords(message: str, words: str) -> None:
    """With their values; other dashes stay."""
    assert with_keywords(message) == words


def test_errors_and_notices_of_a_function() -> None:
    """Each once, of its own kind, and where the function was called; another library's warnings stay as they are."""

    @names_keywords
    def function(number: int) -> int:
        """Returns its argument."""
        warnings.warn("give --mean", Notice, stacklevel=2)
        warnings.warn("other --mean", DeprecationWarning, stacklevel=2)
        if number < 0:
            raise UserError("give --classes 2")
        return number

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        assert function(3) == 3
    assert [(str(warning.message), warning.category) for warning in warned] == [
        ("give mean", Notice),
        ("other --mean", DeprecationWarning),
    ]
    assert {warning.filename for warning in warned} == {__file__}
    with pytest.raises(UserError, match=r"^give classes=2$"):
        function(-1)
    assert (function.__name__, function.__doc__) == ("function", "Returns its argument.")

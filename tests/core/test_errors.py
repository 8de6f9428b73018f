from __future__ import annotations

from robustbench_cli.core.errors import UserError, did_you_mean, one_line


def test_the_nearest_word_is_suggested() -> None:
    """A typing error gets a suggestion."""
    assert did_you_mean("pdg", ["cw", "fgsm", "pgd"]) == "did you mean 'pgd'?"


def test_all_words_are_listed_where_none_is_near() -> None:
    """Without a similar name, all names are listed in order."""
    assert did_you_mean("zzz", ["pgd", "cw"]) == "known: cw, pgd"
    assert did_you_mean("channels", ["schedule", "lr"]) == "known: lr, schedule"
    assert did_you_mean("zzz", []) == "there are none"


def test_an_error_is_told_in_one_line() -> None:
    """The lines are joined and cut, after the class of the error; a user's error needs no class."""
    assert one_line(ValueError("a\n  b\tc")) == "ValueError: a b c"
    assert one_line(KeyboardInterrupt()) == "KeyboardInterrupt"
    assert one_line(UserError("give 3")) == "give 3"
    assert len(one_line(ValueError("x" * 5000))) == 300

from __future__ import annotations

from robustbench_cli.attacks.base.errors import did_you_mean


def test_the_nearest_word_is_suggested() -> None:
    """A typing error is answered with the word that was meant."""
    assert did_you_mean("pdg", ["cw", "fgsm", "pgd"]) == "did you mean 'pgd'?"


def test_all_words_are_listed_where_none_is_near() -> None:
    """A word like no other is answered with all of them, sorted; and with a word of its own where there are none."""
    assert did_you_mean("zzz", ["pgd", "cw"]) == "known: cw, pgd"
    assert did_you_mean("zzz", []) == "there are none"

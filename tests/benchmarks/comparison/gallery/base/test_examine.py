"""One broken defense of each kind of trick, by the quick audit; ``make gallery`` looks at all of them."""

from __future__ import annotations

import pytest

from robustbench_cli.benchmarks.comparison.gallery import broken_defenses
from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import examples
from robustbench_cli.benchmarks.comparison.gallery.base.examine import audited, true_accuracy

N = 30


@pytest.mark.parametrize(
    ("name", "check"),
    [
        ("one-hot", "zero-gradient"),
        ("masked-pixels", "zero-gradient"),
        ("reversed-backward", "wrong-gradient"),
        ("reversed-off-the-grid", "wrong-gradient"),
        ("sign-twisted", "wrong-gradient"),
        ("sign-shuffled", "wrong-gradient"),
        ("rippled-signs", "wrong-gradient"),
        ("nan-off-the-grid", "not-a-number"),
        ("remembers", "remembers"),
        ("tires-outside", "remembers"),
        ("switch-per-batch", "shared-draw"),
        ("calendar", "depends-on-clock"),
        ("batch-statistics", "unstable"),
        ("lone-image", "unstable"),
        ("probabilities", "refused"),
    ],
)
def test_the_check_made_for_a_trick_notices_it(name: str, check: str) -> None:
    """And it is named in the defense."""
    kind = broken_defenses()[name]
    images, labels = examples("test", N)
    found = audited(kind(shape=(1, 8, 8), classes=10).eval(), images, labels, budget="quick")
    assert check in kind.noticed_by
    assert check in found.findings


@pytest.mark.parametrize("name", ["one-hot", "reversed-backward", "nan-off-the-grid", "remembers"])
def test_the_attack_made_for_a_defense_finds_what_the_network_is_worth(name: str) -> None:
    """Less than a third of what PGD leaves; the network without a trick is worth a tenth."""
    images, labels = examples("test", N)
    assert true_accuracy(broken_defenses()[name](shape=(1, 8, 8), classes=10).eval(), images, labels) <= 0.3

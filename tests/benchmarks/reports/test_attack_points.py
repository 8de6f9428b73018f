from __future__ import annotations

from robustbench_cli.benchmarks.reports.attack_points import attack_charts, certified_curves

from .result_rows import HRS, table


def test_the_success_of_each_attack_on_each_model() -> None:
    """By threat; the stronger of two rows of one attack counts, and an attack that did not run has no rate."""
    rows = table(
        {"attack_success_rate": 0.7},
        {"attack": "fgsm", "attack_success_rate": 0.4},
        HRS | {"eot": "1", "attack_success_rate": 0.1},
        HRS | {"eot": "10", "attack_success_rate": 0.3},
        {"eps": "0.1", "eps_value": 0.1, "attack_success_rate": 0.9},
        {"attack": "none", "attack_success_rate": None},
        {"eps": "", "eps_value": None},
    )
    small, large = attack_charts(rows)
    assert (small.setting, small.threat) == ("digits, 100 images", "linf 8/255")
    assert small.attacks == ("pgd", "fgsm")
    assert small.models == (("none", (0.7, 0.4)), ("hrs", (0.3, None)))
    assert (large.threat, large.models) == ("linf 0.1", (("none", (0.9,)),))


def test_certified_beside_attacked() -> None:
    """Radii rise, whatever the order of the rows; models without a certificate are left out."""
    rows = table(
        {"eps": "0.1", "eps_value": 0.1, "robust_accuracy": 0.2},
        {"robust_accuracy": 0.6},
        HRS,
    ).assign(certified_accuracy=[0.1, 0.5, None])
    (curve,) = certified_curves(rows)
    assert (curve.label, curve.norm, curve.eps_text) == ("none", "linf", ("8/255", "0.1"))
    assert (curve.robust, curve.certified) == ((0.6, 0.2), (0.5, 0.1))
    assert certified_curves(table({})) == []

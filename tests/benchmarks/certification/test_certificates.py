from __future__ import annotations

import numpy as np

from robustbench_cli.benchmarks.certification.certificates import Certificates


def test_an_image_counts_within_its_radius_and_with_its_class() -> None:
    """The right class and a radius of at least eps count; an abstention (-1) never does."""
    certificates = Certificates(predicted=np.array([1, 1, 2, -1]), radius=np.array([0.3, 0.2, 0.9, 0.0]))
    labels = np.array([1, 1, 1, 1])
    assert certificates.certified(labels, 0.25).tolist() == [True, False, False, False]
    assert certificates.certified(labels, 0.2).tolist() == [True, True, False, False]
    assert certificates.certified(labels, 0).tolist() == [True, True, False, False]

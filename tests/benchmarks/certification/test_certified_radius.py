from __future__ import annotations

import pytest
import torch
from torch import Tensor

from robustbench_cli.attacks.base.models.passes import BatchSize
from robustbench_cli.benchmarks.certification.certified_radius import enlarged, records_by_batch, reduced


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_each_image_has_its_record(batch_size: int) -> None:
    """In the order of the images, whatever the batches are."""
    images, indices = torch.arange(7.0).view(7, 1, 1, 1), [20, 3, 4, 9, 11, 12, 13]

    def radii_of(rows: Tensor) -> tuple[Tensor, Tensor]:
        return rows.flatten().long() % 3, rows.flatten() / 10

    records = list(records_by_batch(images, indices, radii_of, device=torch.device("cpu"), size=BatchSize(batch_size)))
    assert [record.index for record in records] == indices
    assert [record.predicted for record in records] == [0, 1, 2, 0, 1, 2, 0]
    assert [record.radius for record in records] == pytest.approx([number / 10 for number in range(7)])
    assert all(record.seconds >= 0 for record in records)


def test_a_reduced_radius_is_proven_by_the_radius() -> None:
    """What has to be proven for it is the radius itself; nothing below 0 is proven."""
    radii = torch.tensor([0.0, 1e-8, 1e-3, 0.3, 20.0], dtype=torch.float64)
    assert [enlarged(radius) for radius in reduced(radii).tolist()[2:]] == pytest.approx(radii[2:].tolist(), rel=1e-12)
    assert reduced(radii)[:2].tolist() == [0, 0]

from __future__ import annotations

import pytest
import torch

from robustbench_cli.attacks.base.device_memory import may_stay


def test_data_takes_a_quarter_of_the_free_memory_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """One byte more is copied batch by batch. Other devices have no such memory."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (4000, 80_000))
    assert [may_stay(size, torch.device("cuda:1")) for size in (0, 1000, 1001)] == [True, True, False]
    assert not any(may_stay(0, torch.device(name)) for name in ("cpu", "mps"))

from __future__ import annotations

import huggingface_hub
import pytest
from huggingface_hub import constants

from robustbench_cli.core.hub_probe import why_unreachable


def test_one_question(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens at the address: the error is there at once, and nothing waits to try again."""
    template = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("time.sleep", None)
    assert type(why_unreachable(huggingface_hub, "owner/net", "config.json")).__name__ == "ConnectError"

from __future__ import annotations

import subprocess
import sys

from robustbench_cli.attacks.base.models.special_labels import NO_NUMBER, REJECTED


def test_special_labels_are_no_classes_and_stay_what_they_are() -> None:
    """Stored predictions contain these numbers."""
    assert (REJECTED, NO_NUMBER) == (-1, -2)


def test_they_are_read_without_torch() -> None:
    """A report of stored predictions starts at once."""
    code = "import sys; import robustbench_cli.attacks.base.models.special_labels; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

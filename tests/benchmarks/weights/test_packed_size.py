from __future__ import annotations

import io
import zipfile

import pytest

from robustbench_cli.benchmarks.weights.packed_size import ALWAYS_ALLOWED, excessive_size


@pytest.mark.parametrize(
    ("count", "method", "words"),
    [
        (ALWAYS_ALLOWED + 1, zipfile.ZIP_DEFLATED, "unpacks to 16,777,217"),
        (ALWAYS_ALLOWED, zipfile.ZIP_DEFLATED, None),
        (ALWAYS_ALLOWED + 1, zipfile.ZIP_STORED, None),
    ],
)
def test_an_archive_may_not_unpack_to_much_more(count: int, method: int, words: str | None) -> None:
    """Zeros pack to a thousandth; what is small or not packed is read."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as archive:
        archive.writestr("zeros", bytes(count))
    with zipfile.ZipFile(content) as archive:
        found = excessive_size(archive, len(content.getvalue()))
    assert found is None if words is None else found is not None and words in found

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from robustbench_cli.attacks.base.errors import UserError
from robustbench_cli.attacks.base.files import write_whole


def test_a_file_is_written_with_the_folders_above_it(tmp_path: Path) -> None:
    """The content is there, an older one is replaced, and nothing else is left behind."""
    path = tmp_path / "a/b/c.json"
    write_whole(path, b"old")
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"
    assert [*path.parent.iterdir()] == [path]


def test_a_file_has_the_mode_that_the_umask_leaves(tmp_path: Path) -> None:
    """Others may read a result where the person's umask lets them."""
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "file", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_a_failure_leaves_the_old_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is one line for the user, an interruption stays one, and neither costs the old content."""
    path = tmp_path / "file"
    write_whole(path, b"old")
    for error, expected in (
        (OSError(28, "No space left on device"), UserError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ):

        def fail(_: int, error: BaseException = error) -> None:
            raise error

        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(expected):
            write_whole(path, b"new")
        assert path.read_bytes() == b"old"
        assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("place", ["file/inside", "folder", "folder/."])
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, place: str) -> None:
    """A file in the place of a folder and a folder in the place of a file: one line that says where."""
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=f"cannot write {tmp_path}/"):
        write_whole(tmp_path / place, b"content")
    assert [*(tmp_path / "folder").iterdir()] == []

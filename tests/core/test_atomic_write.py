from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from robustbench_cli.core import atomic_write
from robustbench_cli.core.atomic_write import write_all_atomically, write_atomically
from robustbench_cli.core.errors import UserError


def test_a_file_is_written_with_the_folders_above_it(tmp_path: Path) -> None:
    """The content is complete, an old file is replaced, and no other file is left."""
    path = tmp_path / "a/b/c.json"
    write_atomically(path, b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert [*path.parent.iterdir()] == [path]


def test_a_file_has_the_mode_that_the_umask_leaves(tmp_path: Path) -> None:
    """Other users may read a result if the umask allows it."""
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "file", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_a_failure_leaves_the_old_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk raises one line, an interrupt stays an interrupt, and the old content survives both."""
    path = tmp_path / "file"
    write_atomically(path, b"old")
    for error, expected in (
        (OSError(28, "No space left on device"), UserError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ):

        def fail(_: int, error: BaseException = error) -> None:
            raise error

        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(expected):
            write_atomically(path, b"new")
        assert path.read_bytes() == b"old"
        assert [*tmp_path.iterdir()] == [path]


KILLED = """
import os, signal, sys
from pathlib import Path
from robustbench_cli.core.atomic_write import write_atomically

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

{} = die
write_atomically(Path(sys.argv[1]), b"half")
"""


def killed(when: str, path: Path) -> None:
    """Writes a file in a process that kills itself at a call."""
    done = subprocess.run([sys.executable, "-c", KILLED.format(when), str(path)], check=False)
    assert done.returncode == -9


def test_a_killed_writer_leaves_nothing(tmp_path: Path) -> None:
    """Neither the new content nor a temporary file remains."""
    killed("os.fsync", tmp_path / "table.csv")
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("when", ["Path.replace", "del os.O_TMPFILE; os.fsync"])
def test_what_a_killed_writer_left_goes_with_the_next(tmp_path: Path, when: str) -> None:
    """The next writer removes the temporary file of a writer killed before the rename, and no other file."""
    path = tmp_path / "table.csv"
    bystanders = [
        tmp_path / ".table.csv.swp",
        tmp_path / ".table.csv.0123456789abcdef.bak",
        tmp_path / ".other.0123456789abcdef",
    ]
    for other in bystanders:
        other.write_bytes(b"")
    killed(when, path)
    assert len([*tmp_path.iterdir()]) == len(bystanders) + 1
    write_atomically(path, b"whole")
    assert {*tmp_path.iterdir()} == {path, *bystanders}
    assert path.read_bytes() == b"whole"


def test_what_a_living_writer_is_at_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two writers of one file do not remove each other's temporary files."""
    path, replace = tmp_path / "table.csv", Path.replace

    def meanwhile(temporary: Path, target: Path) -> Path:
        monkeypatch.setattr(Path, "replace", replace)
        code = "import sys; from pathlib import Path; from robustbench_cli.core.atomic_write import write_atomically; write_atomically(Path(sys.argv[1]), b'other')"
        subprocess.run([sys.executable, "-c", code, str(path)], check=True)
        assert path.read_bytes() == b"other"
        return replace(temporary, target)

    monkeypatch.setattr(Path, "replace", meanwhile)
    write_atomically(path, b"own")
    assert [*tmp_path.iterdir()] == [path]
    assert path.read_bytes() == b"own"


@pytest.mark.parametrize("folder", ["file/inside", "folder", "folder/."])
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, folder: str) -> None:
    """If a folder is a file or a file is a folder, one line names the path."""
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=f"cannot write {tmp_path}/"):
        write_atomically(tmp_path / folder, b"content")
    assert [*(tmp_path / "folder").iterdir()] == []


def test_a_system_without_posix_locks_writes_whole_files_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows: the temporary file is closed before the rename, and other temporary files stay."""
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.delattr(os, "O_TMPFILE")
    other = tmp_path / ".file.0123456789abcdef"
    other.write_bytes(b"part")
    replace, open_files = Path.replace, len([*Path("/proc/self/fd").iterdir()])

    def renamed(temporary: Path, target: Path) -> Path:
        assert len([*Path("/proc/self/fd").iterdir()]) == open_files
        return replace(temporary, target)

    monkeypatch.setattr(Path, "replace", renamed)
    write_atomically(tmp_path / "file", b"whole")
    assert (tmp_path / "file").read_bytes() == b"whole"
    assert {*tmp_path.iterdir()} == {tmp_path / "file", other}


def test_a_folder_is_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a merge of stores would take the square of the number of their files."""
    listed: list[object] = []
    scan = os.scandir

    def counted(folder: Path) -> object:
        listed.append(folder)
        return scan(folder)

    monkeypatch.setattr(os, "scandir", counted)
    for number in range(5):
        write_atomically(tmp_path / f"{number}.json", b"content")
    assert listed == [tmp_path]


@pytest.mark.parametrize("with_syncfs", [True, False])
def test_several_files_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_syncfs: bool) -> None:
    """They replace what was there, in their order, and leave nothing else; the disk is waited for before any appears."""
    calls: list[str] = []
    if not with_syncfs:
        monkeypatch.setattr(atomic_write, "_flush_of_file_systems", lambda: None)
    flush, fsync, replace = atomic_write._flush_file_system, os.fsync, Path.replace
    monkeypatch.setattr(atomic_write, "_flush_file_system", lambda folder: (calls.append("disk"), flush(folder)))
    monkeypatch.setattr(os, "fsync", lambda descriptor: (calls.append("disk"), fsync(descriptor)))
    monkeypatch.setattr(Path, "replace", lambda path, other: (calls.append(other.name), replace(path, other)))
    folder = tmp_path / "new"
    folder.mkdir()
    (folder / "b").write_bytes(b"old")
    write_all_atomically(folder, {"b": b"1", "a": b"22", "c": b""})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"b": b"1", "a": b"22", "c": b""}
    assert calls[-3:] == ["b", "a", "c"]
    assert set(calls[:-3]) == {"disk"}


def test_files_that_do_not_reach_the_disk_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system reports that it could not write, the old files stay, and no temporary file."""
    (tmp_path / "a").write_bytes(b"old")
    monkeypatch.setattr(atomic_write, "_flush_of_file_systems", lambda: lambda _: -1)
    with pytest.raises(UserError, match="cannot write"):
        write_all_atomically(tmp_path, {"a": b"new", "b": b"new"})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"old"}


def test_a_link_stays_and_its_target_is_written(tmp_path: Path) -> None:
    """The target may lie in another folder."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real/file")
    write_atomically(tmp_path / "link", b"content")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "file").read_bytes() == b"content"


def test_links_in_a_circle_lead_to_the_new_file(tmp_path: Path) -> None:
    (tmp_path / "first").symlink_to("second")
    (tmp_path / "second").symlink_to("first")
    write_atomically(tmp_path / "first", b"content")
    assert (tmp_path / "first").read_bytes() == b"content"


def test_a_pipe_is_not_replaced(tmp_path: Path) -> None:
    """Nor is what a link leads to."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        with pytest.raises(UserError, match="pipe: it is a pipe or a device, not a file; choose another name"):
            write_atomically(tmp_path / name, b"content")
    assert (tmp_path / "pipe").is_fifo()

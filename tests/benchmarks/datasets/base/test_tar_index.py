from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from robustbench_cli.benchmarks.datasets.base.tar_index import members
from robustbench_cli.core.errors import UserError


def write(path: Path, files: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


FILES = {"a.txt": b"first", "folder/" + "long" * 60 + ".txt": b"x" * 700, "empty": b"", "ünicode.txt": b"last"}


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_each_member_is_found_where_it_is(tmp_path: Path, form: int) -> None:
    """All formats of archives, with long names, give Python's own contents in their order."""
    files = {name: content for name, content in FILES.items() if form != tarfile.USTAR_FORMAT or len(name) < 100}
    path = write(tmp_path / "x.tar", files, form)
    found = {member.name: member.open().read() for member in members(path)}
    assert found == files and [*found] == [*files]


def test_links_and_devices_are_no_files(tmp_path: Path) -> None:
    """Only regular files have a content; a link could point anywhere. A folder is no member."""
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo(f"{kind.decode()}.png")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    found = {member.name: member.is_file for member in members(tmp_path / "x.tar")}
    kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)
    assert found == {f"{kind.decode()}.png": False for kind in kinds}


def test_every_cut_is_told_with_the_member(tmp_path: Path) -> None:
    """Wherever an archive ends early, also between two members, where Python's tarfile sees no fault."""
    content = write(tmp_path / "x.tar", {"a.txt": b"1" * 600, "b.txt": b"2" * 600}).read_bytes()
    # 0: header, 512: two blocks of content; 1536: header, 2048: content, 3072: the end.
    for length, line in (
        (600, "is cut short in its member a.txt"),
        (1536, "is cut short after its member a.txt"),
        (1800, "is cut short after its member a.txt|is cut short or damaged after its member a.txt"),
        (2100, "is cut short in its member b.txt"),
        (3072, "is cut short after its member b.txt"),
    ):
        (tmp_path / "cut.tar").write_bytes(content[:length])
        with pytest.raises(UserError, match=f"^{tmp_path}/cut.tar ({line})"):
            list(members(tmp_path / "cut.tar"))


def test_what_is_no_plain_archive_is_refused(tmp_path: Path) -> None:
    """A compressed archive cannot be read from the middle; a member of a pretended size is no file."""
    write(tmp_path / "x.tar", FILES)
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "x.tar")
    (tmp_path / "text.tar").write_text("no archive " * 100)
    (tmp_path / "nothing.tar").write_bytes(b"")
    for name in ("x.tar.gz", "text.tar", "nothing.tar"):
        with pytest.raises(UserError, match=r"cannot be read as a tar archive .*: give an uncompressed one") as refusal:
            list(members(tmp_path / name))
        assert "\n" not in str(refusal.value)
    info = tarfile.TarInfo("big")
    info.size = 2**40
    with (tmp_path / "big.tar").open("wb") as file:
        file.write(info.tobuf())
        file.truncate(2**41)
    with pytest.raises(UserError, match="big has 1,099,511,627,776 bytes: a file may have 268,435,456"):
        list(members(tmp_path / "big.tar"))


def pax(kind: bytes, content: bytes) -> bytes:
    """A member that describes the next one."""
    info = tarfile.TarInfo("header")
    info.type, info.size = kind, len(content)
    return info.tobuf(tarfile.USTAR_FORMAT) + content.ljust(-len(content) // 512 * -512, b"\0")


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    "header",
    [
        pax(b"x", b"14 size=-1536\n"),
        pax(b"L", b"name\0") * 5000,
        pax(b"x", b"25 GNU.sparse.map=1,two\n"),
        pax(b"x", b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n"),
        pax(b"x", b"9 path=a\n".ljust(2**18)),
    ],
    ids=["negative", "chain", "map", "sparse", "long"],
)
def test_a_damaged_header_is_told(tmp_path: Path, header: bytes, first: bool) -> None:
    """It neither loops nor raises an error of another kind, wherever it is; tarfile's versions stop at different ones."""
    content = write(tmp_path / "x.tar", {"a.txt": b"1"}).read_bytes()
    (tmp_path / "x.tar").write_bytes((b"" if first else content[:1024]) + header + content)
    with pytest.raises(UserError, match=r"x\.tar (cannot be read|is cut short( or damaged)? after its member a\.txt)"):
        list(members(tmp_path / "x.tar"))

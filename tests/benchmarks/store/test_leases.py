from __future__ import annotations

import errno
import io
import json
import math
import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel
from robustbench_cli.benchmarks.store.leases import Leases, _observed
from robustbench_cli.core.errors import UserError


def claimed_by(folder: Path, **who: object) -> Path:
    """A claim of the cell ``a`` that somebody left."""
    path = folder / "claims" / "a"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"host": "elsewhere", "process": 1, "token": "0"} | who))
    return path


def test_a_cell_is_held_once_and_given_back(tmp_path: Path) -> None:
    """While one holds it nobody else does; other cells are free, and so is it afterwards, with nothing left lying."""
    leases = Leases(tmp_path)
    with leases.hold("a") as first, leases.hold("a") as second, leases.hold("b") as other:
        assert (first, second, other) == (True, False, True)
    with leases.hold("a") as again:
        assert again
    assert [path.name for path in (tmp_path / "claims").iterdir()] == [".lock"]


def test_parts_are_held_side_by_side_and_never_beside_the_whole(tmp_path: Path) -> None:
    """Each part once; a name that is the beginning of another one has nothing to do with it."""
    leases = Leases(tmp_path)
    with leases.hold("a", "0-5") as first, leases.hold("a", "5-10") as second, leases.hold("a", "0-5") as again:
        assert (first, second, again) == (True, True, False)
        assert leases.holder("a") == f"process {os.getpid()} on {socket.gethostname()}"
        with leases.hold("a") as whole, leases.hold("a*") as other:
            assert (whole, other) == (False, True)
    with leases.hold("a") as whole, leases.hold("a", "0-5") as part, leases.hold("aa", "0-5") as other:
        assert (whole, part, other) == (True, False, True)
    assert [path.name for path in (tmp_path / "claims").iterdir()] == [".lock"]


def test_a_part_of_a_dead_process_does_not_hold_the_whole(tmp_path: Path) -> None:
    """Its lease is removed, and so is the whole's for a part."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    leases = Leases(tmp_path)
    with leases.hold("a", "0-5"):
        left = json.loads((tmp_path / "claims" / "a@0-5").read_text()) | {"process": ended.pid}
    for file, part in (("a@0-5", None), ("a", "0-5")):
        (tmp_path / "claims" / file).write_text(json.dumps(left))
        assert leases.holder("a") is None
        with leases.hold("a", part) as ours:
            assert ours
        assert not (tmp_path / "claims" / file).exists()


def test_the_claim_of_a_dead_process_is_free_at_once(tmp_path: Path) -> None:
    """That of a process of this machine that has ended, and not that of one that lives."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with Leases(tmp_path).hold("a"):
        here = json.loads((tmp_path / "claims" / "a").read_text())
    path = claimed_by(tmp_path, **here | {"process": ended.pid})
    with Leases(tmp_path).hold("a") as ours:
        assert ours
    for other in ({}, {"process": ended.pid, "system": "another boot"}, {"process": ended.pid, "host": "elsewhere"}):
        path.write_text(json.dumps(here | {"process": os.getpid()} | other))
        with Leases(tmp_path).hold("a") as ours:
            assert not ours


def test_another_machines_claim_is_lost_when_it_is_not_renewed(tmp_path: Path) -> None:
    """While somebody looks on who wants it, for long enough; whatever the clocks say, which may jump either way."""
    leases = Leases(tmp_path, expires_after=0)
    path = claimed_by(tmp_path)
    with leases.hold("a") as ours:
        assert not ours
    for jump in (-1e6, 1e6, -3600.0):
        os.utime(path, (path.stat().st_mtime + jump,) * 2)
        with leases.hold("a") as ours:
            assert not ours
    with Leases(tmp_path, expires_after=60).hold("a") as ours:
        assert not ours
    with leases.hold("a") as ours:
        assert ours


def test_who_holds_a_cell_is_told(tmp_path: Path) -> None:
    """By the file system's clock, since nobody looks on for long; nobody does whose claim is old, or whose process is gone."""
    leases = Leases(tmp_path)
    assert leases.holder("a") is None
    with leases.hold("a"):
        assert leases.holder("a") == f"process {os.getpid()} on {os.uname().nodename}"
    path = claimed_by(tmp_path)
    assert leases.holder("a") == "process 1 on elsewhere"
    os.utime(path, (path.stat().st_mtime - 100,) * 2)
    assert leases.holder("a") is None


def test_a_claim_is_renewed_while_it_is_held(tmp_path: Path) -> None:
    """Its file's time moves on."""
    with Leases(tmp_path, renewed_every=0.01).hold("a"):
        path = tmp_path / "claims" / "a"
        os.utime(path, (0, 0))
        renewed = threading.Event()
        for _ in range(1000):
            if path.stat().st_mtime > 0 or renewed.wait(0.01):
                break
        assert path.stat().st_mtime > 0


def test_what_another_took_over_is_not_given_back(tmp_path: Path) -> None:
    """A process that stood still for too long leaves the claim to whom it went."""
    with Leases(tmp_path).hold("a"):
        path = tmp_path / "claims" / "a"
        path.write_text("another's")
    assert path.read_text() == "another's"


def test_of_many_that_find_a_lost_claim_one_gets_it(tmp_path: Path) -> None:
    """Eight threads at once, fifty times over."""
    for _ in range(50):
        path = claimed_by(tmp_path)
        with Leases(tmp_path).hold("a") as ours:
            assert not ours
        _observed[path] = _observed[path][0], -math.inf
        start, end = threading.Barrier(8), threading.Barrier(8)
        got: list[bool] = []

        def take(start: threading.Barrier = start, end: threading.Barrier = end, got: list[bool] = got) -> None:
            start.wait()
            with Leases(tmp_path).hold("a") as ours:
                got.append(ours)
                end.wait()

        threads = [threading.Thread(target=take) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(got) == 1


@pytest.mark.parametrize("content", ["", "[]", "{}", "\x00"])
def test_whatever_stands_in_a_claim_is_one(tmp_path: Path, content: str) -> None:
    """Somebody may be writing it."""
    claimed_by(tmp_path).write_text(content)
    with Leases(tmp_path).hold("a") as ours:
        assert not ours


def test_a_full_disk_leaves_no_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When there is room again nobody waits for a claim that nobody made."""

    class Full(io.BytesIO):
        def write(self, content: Any) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    opened = Path.open

    def full(path: Path, mode: str = "r") -> Any:
        if mode != "xb":
            return opened(path, mode)
        path.touch()
        return Full()

    with monkeypatch.context() as disk:
        disk.setattr(Path, "open", full)
        with pytest.raises(UserError, match="No space left"), Leases(tmp_path).hold("a"):
            pass
    with Leases(tmp_path).hold("a") as ours:
        assert ours


def test_a_store_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """In one line."""
    (tmp_path / "claims").write_text("")
    with pytest.raises(UserError, match=r"cannot write in .*claims"), Leases(tmp_path).hold("a"):
        pass


WITHOUT_LOCKS = """
import sys
sys.modules["fcntl"] = None
from pathlib import Path
from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel
from robustbench_cli.benchmarks.store.leases import Leases
from robustbench_cli.core.atomic_write import write_atomically
leases = Leases(Path("store"))
with leases.hold("a") as first, leases.hold("a") as second:
    assert (first, second) == (True, False)
with leases.hold("a") as third:
    assert third
write_atomically(Path("store/file"), b"content")
assert Path("store/file").read_bytes() == b"content"
from robustbench_cli.cli.main import main
attack = ["attack", "--checkpoint", "model.safetensors", "--attack", "fgsm", "--eps", "0.1", "--n", "5"]
for arguments in (["list", "attacks"], attack):
    print("exit code", main(arguments), flush=True)
"""


def test_a_system_without_fcntl_runs_every_command(tmp_path: Path, defended: DefendedModel) -> None:
    """Leases and atomic writes work without the module, which Windows lacks."""
    shutil.copy(defended.path, tmp_path / "model.safetensors")
    code = [sys.executable, "-c", WITHOUT_LOCKS]
    done = subprocess.run(code, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    listed, attacked, rest = done.stdout.split("exit code 0\n")
    assert "fgsm" in listed and "fgsm" in attacked and not rest

"""Runs functions of a test file, each in two processes as a launcher does: ``python together.py FILE FOLDER NAME ...``.

Slow imports happen once, before the processes are forked. The output of each function goes to ``FOLDER/NAME/RANK.out`` and
``RANK.err``. At the end the exit codes of all functions are printed as JSON, by name.
"""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType

import accelerate.utils  # noqa: F401
import sklearn.datasets  # noqa: F401
import torch
import torch._dynamo
from torch.distributed import TCPStore  # type: ignore[attr-defined]

TIMEOUT = 60.0


def _load(file: str) -> ModuleType:
    """Imports the test file as a module."""
    spec = importlib.util.spec_from_file_location("scenarios", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["scenarios"] = module
    spec.loader.exec_module(module)
    return module


def _work(module: ModuleType, name: str, folder: Path, rank: int, port: int) -> None:
    """Runs a function as one of the two processes; never returns."""
    for stream, ending in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / f"{rank}.{ending}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    os.environ |= {
        "WORLD_SIZE": "2",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
        # Avoids a warning on machines whose host name cannot be resolved.
        "GLOO_SOCKET_IFNAME": "lo",
    }
    torch.set_num_threads(1)
    code = 70
    try:
        code = getattr(module, name)(folder) or 0
    except Exception:  # noqa: BLE001 - the exit code and the traceback report any error
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    # Ends at once, without cleaning up the connection, like a killed process.
    os._exit(code)


def main() -> None:
    """Runs the functions one after the other."""
    file, base, *names = sys.argv[1:]
    module = _load(file)
    codes = {}
    for name in names:
        folder = Path(base) / name
        folder.mkdir()
        # Like a launcher's store, it outlives the processes.
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        context = multiprocessing.get_context("fork")
        both = [context.Process(target=_work, args=(module, name, folder, rank, store.port)) for rank in (0, 1)]
        for process in both:
            process.start()
        for process in both:
            process.join(TIMEOUT)
            process.kill()
            process.join()
        codes[name] = [process.exitcode for process in both]
    sys.stdout.write(json.dumps(codes))


if __name__ == "__main__":
    main()

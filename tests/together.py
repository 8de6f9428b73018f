"""Runs functions of a test's file in two processes each, as a launcher does: ``python together.py FILE FOLDER NAME ...``.

What takes long to import is imported once for all of them. What a function prints goes to ``FOLDER/NAME/RANK.out`` and
``.err``, and its exit codes are printed as JSON, by its name.
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
    spec = importlib.util.spec_from_file_location("scenarios", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["scenarios"] = module
    spec.loader.exec_module(module)
    return module


def _work(module: ModuleType, name: str, folder: Path, rank: int, port: int) -> None:
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
        # A machine that does not know its own name makes no noise about it.
        "GLOO_SOCKET_IFNAME": "lo",
    }
    torch.set_num_threads(1)
    code = 70
    try:
        code = getattr(module, name)(folder) or 0
    except Exception:  # noqa: BLE001 - whatever ends one process, the other one is to end too
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    # A process that is killed does not say goodbye either.
    os._exit(code)


def main() -> None:
    """Runs one function after the other."""
    file, base, *names = sys.argv[1:]
    module = _load(file)
    codes = {}
    for name in names:
        folder = Path(base) / name
        folder.mkdir()
        # As a launcher's own, it outlives the processes.
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

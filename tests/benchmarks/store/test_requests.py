from __future__ import annotations

import hashlib
import json
from pathlib import Path

from robustbench_cli.benchmarks.store.records import RequestedCell, RequestedIds, encoded

from ..conftest import MakeCell
from .conftest import Filled


def test_requests_of_finished_cells_are_not_read_whole(tmp_path: Path, filled: Filled, make_cell: MakeCell) -> None:
    """The identities suffice there; a request without them, of an earlier version, is read all the same."""
    store, result, _ = filled()
    done = RequestedCell(cell=result.cell, eps="", checkpoint="")
    open_cell = RequestedCell(cell=make_cell(seed=1), eps="", checkpoint="")
    store.request([done])
    assert store.requested() == {result.cell.id: done}
    (file,) = (store.path / "asked").iterdir()
    whole = file.read_bytes()
    file.write_bytes(encoded(RequestedIds(ids=(result.cell.id,))))
    assert store.missing() == {}
    file.write_bytes(whole)
    store.request([done, open_cell])
    assert store.missing() == {open_cell.cell.id: open_cell}
    for path in (store.path / "asked").iterdir():
        content = json.loads(path.read_text())
        del content["sha256"], content["ids"]
        body = json.dumps(content)[1:].encode()
        path.write_bytes(b'{"sha256": "%s",\n%s' % (hashlib.sha256(body).hexdigest().encode(), body))
    assert store.missing() == {open_cell.cell.id: open_cell}

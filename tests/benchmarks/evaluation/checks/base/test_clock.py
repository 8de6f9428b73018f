from __future__ import annotations

import datetime as dt
import time
from concurrent.futures import ThreadPoolExecutor

from torch import nn

from robustbench_cli.benchmarks.evaluation.checks.base.clock import clock_from

START = 1_000_000_000 * 10**9
"""2001-09-09, 01:46:40 UTC."""


def test_all_clocks_show_the_time() -> None:
    """Each reading is a millisecond later."""
    with clock_from(START, nn.Identity()):
        readings = [
            time.time_ns(),
            round(time.time() * 1e3) * 10**6,
            round(dt.datetime.now(dt.UTC).timestamp() * 1e3) * 10**6,
            round(time.perf_counter() * 1e3) * 10**6,
        ]
        assert readings == [START + number * 10**6 for number in range(4)]
        assert time.strftime("%Y") == time.strftime("%Y", time.localtime()) == "2001"
        assert dt.date.today().year == dt.datetime.today().year == 2001  # noqa: DTZ002, DTZ011
        assert dt.datetime.utcnow().hour == time.gmtime().tm_hour == 1  # noqa: DTZ003
        assert time.gmtime(0).tm_year == 1970
        assert isinstance(time.ctime(), str)


def test_other_threads_keep_the_true_time() -> None:
    """So does this thread afterwards."""
    before = time.time()
    with clock_from(START, nn.Identity()), ThreadPoolExecutor(1) as pool:
        assert pool.submit(time.time).result() >= before
        assert pool.submit(lambda: dt.datetime.now().year).result() > 2020  # noqa: DTZ005
    assert before <= time.time() < before + 600
    assert isinstance(dt.datetime.now(), dt.datetime)  # noqa: DTZ005

"""Worker processes that are forked from a server that has imported torch: the import takes longer than the work of a test."""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.reduction import DupFd
from typing import Any

import pytest

PRELOADED = (
    "robustbench_cli.attacks.fgsm",
    "robustbench_cli.benchmarks.execution.engines.processes",
    "robustbench_cli.benchmarks.models.small_cnn",
    "robustbench_cli.benchmarks.suites.plan",
    "robustbench_cli.cli.session",
    # What torch.optim imports.
    "torch._dynamo",
)


class _Forked(ForkServerProcess):
    """A process with the environment and the output of the one that starts it; the server may have begun with others."""

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "inherited": (dict(os.environ), DupFd(1), DupFd(2))}

    def run(self) -> None:
        environment, *output = vars(self).pop("inherited")
        os.environ.clear()
        os.environ.update(environment)
        for number, descriptor in enumerate(output, start=1):
            os.dup2(descriptor.detach(), number)
        super().run()


class _Context(ForkServerContext):
    Process = _Forked  # type: ignore[assignment]


def fork_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forks the processes that the tested code would spawn. A command in a process of its own still spawns them."""

    def get_context(method: str) -> _Context:
        assert method == "spawn"
        context = _Context()
        context.set_forkserver_preload([*PRELOADED])
        return context

    monkeypatch.setattr(multiprocessing, "get_context", get_context)

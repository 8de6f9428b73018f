"""The processes that a launcher has started to train one network together.

Importing this file imports neither torch nor Accelerate, which connects the processes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from robustbench_cli.core.errors import UserError, is_out_of_memory, one_line

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["Processes"]

T = TypeVar("T")

# `accelerate launch` and `torchrun` set all three. A scheduler may set WORLD_SIZE alone.
_SET_BY_LAUNCHERS = ("WORLD_SIZE", "RANK", "LOCAL_RANK")


@dataclass(frozen=True)
class Processes:
    """The processes that train one network together, as one of them sees them.

    All processes must make the same calls in the same order. Only :meth:`reports_failure` is exempt.

    Attributes:
        number: The number of processes; 1 without a launcher.
        rank: The number of this process, from 0. Process 0 alone writes files.
    """

    number: int = 1
    rank: int = 0

    @classmethod
    def from_environment(cls) -> Processes:
        """The processes according to the environment variables, not connected yet."""
        if not all(os.environ.get(name, "").isdecimal() for name in _SET_BY_LAUNCHERS):
            return cls()
        return cls(int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"]))

    @classmethod
    def connect(cls, device: torch.device) -> Processes:
        """Connects the processes.

        Args:
            device: The device of this process: the CPU, or its own GPU.

        Raises:
            UserError: There are several processes, and Accelerate is not installed or uses devices of another kind.
        """
        processes = cls.from_environment()
        if processes.number > 1 and processes.device(device.type).type != device.type:
            raise UserError(f"Accelerate has connected the processes on other devices than {device.type}")
        return processes

    @property
    def share(self) -> slice:
        """This process's part of a batch: every ``number``-th index. So an index always belongs to the same process."""
        return slice(self.rank, None, self.number)

    def device(self, kind: str) -> torch.device:
        """Connects the processes, and returns this one's device.

        Args:
            kind: ``cpu`` or ``cuda``.

        Raises:
            UserError: Accelerate is not installed, or there are fewer GPUs than processes.
        """
        import torch

        try:
            from accelerate import PartialState
        except ImportError:
            raise UserError(
                f"{self.number} processes train together by Accelerate: pip install 'advdef[accelerate]'"
            ) from None
        local, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
        if kind == "cuda" and local > gpus:
            raise UserError(
                f"a machine with {local} processes needs as many GPUs, and has {gpus}: start fewer, or give --device cpu"
            )
        with self._connected():
            device: torch.device = PartialState(cpu=kind == "cpu").device
        return device

    def sum(self, numbers: Tensor) -> Tensor:
        """The sum of the processes' tensors, which have one shape. All processes get the same result."""
        if self.number == 1:
            return numbers
        from accelerate.utils import reduce

        with self._connected():
            summed: Tensor = reduce(numbers, "sum")
        return summed

    def broadcast_first(self, tensors: Iterable[Tensor]) -> None:
        """Copies the values of the first process's tensors into those of all processes."""
        if self.number == 1:
            return
        from accelerate.utils import broadcast

        with self._connected():
            for tensor in tensors:
                tensor.detach().copy_(broadcast(tensor.detach().contiguous()))

    def run_on_first(self, function: Callable[[], T]) -> T:
        """Calls a function in the first process alone, and returns its result in all processes.

        Args:
            function: Its result can be pickled. If it raises a :class:`UserError`, all processes raise it.
        """
        if self.number == 1:
            return function()
        from accelerate.utils import broadcast_object_list

        message: list[Any] = [None, None]
        if self.rank == 0:
            try:
                message[0] = function()
            except UserError as error:
                message[1] = str(error)
        with self._connected():
            result, failure = broadcast_object_list(message)
        if failure is not None:
            raise UserError(failure)
        return result  # type: ignore[no-any-return]

    def disconnect(self) -> None:
        """Closes the connection."""
        if self.number > 1:
            from accelerate import PartialState

            PartialState().destroy_process_group()

    def reports_failure(self) -> bool:
        """Whether this process prints the error: the first one to call this method does.

        The other processes may have failed in the same way, or only because this one is gone.
        """
        if self.number == 1 or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
            return True
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        # The launcher's store outlives the processes. The launcher counts its restarts.
        try:
            store = TCPStore(
                os.environ["MASTER_ADDR"],
                int(os.environ["MASTER_PORT"]),
                is_master=False,
                wait_for_workers=False,
                timeout=timedelta(seconds=10),
            )
            return bool(store.add(f"advdef/ended/{os.environ.get('TORCHELASTIC_RESTART_COUNT')}", 1) == 1)
        except RuntimeError:
            # The launcher is gone. An error printed twice is better than none.
            return True

    @contextmanager
    def _connected(self) -> Iterator[None]:
        """Turns a lost connection into a :class:`UserError`: another process has ended."""
        try:
            yield
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            if isinstance(error, NotImplementedError):
                # Some GPUs need a setting. Accelerate's message names it.
                raise UserError(one_line(error)) from error
            raise UserError(
                f"another of the {self.number} processes has ended ({one_line(error)}): run the same command again to resume"
            ) from error

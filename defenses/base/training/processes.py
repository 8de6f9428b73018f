"""The processes that a launcher has started to train one network together.

Nothing here imports torch when it is imported; Accelerate, which connects them, is imported where there are several.
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

# `accelerate launch` and `torchrun` set all of them; a scheduler may set the first alone.
_SET_BY_LAUNCHERS = ("WORLD_SIZE", "RANK", "LOCAL_RANK")


@dataclass(frozen=True)
class Processes:
    """This process among those that train one network together; one alone where no launcher has started several.

    All methods but :meth:`reports_failure` are to be called by all of them, in the same order.

    Attributes:
        number: How many there are.
        rank: Which of them this one is, from 0, the first, which alone writes files.
    """

    number: int = 1
    rank: int = 0

    @classmethod
    def from_environment(cls) -> Processes:
        """Those that the environment tells of, before they are connected."""
        if not all(os.environ.get(name, "").isdecimal() for name in _SET_BY_LAUNCHERS):
            return cls()
        return cls(int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"]))

    @classmethod
    def connect(cls, device: torch.device) -> Processes:
        """Those that compute together, connected.

        Args:
            device: Where this one computes: the CPU, or its own GPU.

        Raises:
            UserError: There are several, and Accelerate is not installed or has connected them otherwise.
        """
        processes = cls.from_environment()
        if processes.number > 1 and processes.device(device.type).type != device.type:
            raise UserError(f"Accelerate has connected the processes on other devices than {device.type}")
        return processes

    @property
    def share(self) -> slice:
        """What of a sequence falls to this process: a place here and there, so that a place in a batch keeps to it."""
        return slice(self.rank, None, self.number)

    def device(self, kind: str) -> torch.device:
        """Connects several processes, and tells this one's device.

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
        here, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
        if kind == "cuda" and here > gpus:
            raise UserError(
                f"a machine with {here} processes needs as many GPUs, and has {gpus}: start fewer, or give --device cpu"
            )
        with self._connected():
            device: torch.device = PartialState(cpu=kind == "cpu").device
        return device

    def sum(self, numbers: Tensor) -> Tensor:
        """The sum over all processes of tensors of one shape; the very same in each of them."""
        if self.number == 1:
            return numbers
        from accelerate.utils import reduce

        with self._connected():
            summed: Tensor = reduce(numbers, "sum")
        return summed

    def broadcast_first(self, tensors: Iterable[Tensor]) -> None:
        """Gives tensors of all processes, in place, the values that the first one's have."""
        if self.number == 1:
            return
        from accelerate.utils import broadcast

        with self._connected():
            for tensor in tensors:
                tensor.detach().copy_(broadcast(tensor.detach().contiguous()))

    def run_on_first(self, function: Callable[[], T]) -> T:
        """What a function returns that only the first process calls, while the others wait for it.

        Args:
            function: Its result can be pickled; a :class:`UserError` of it is raised in all processes.
        """
        if self.number == 1:
            return function()
        from accelerate.utils import broadcast_object_list

        said: list[Any] = [None, None]
        if self.rank == 0:
            try:
                said[0] = function()
            except UserError as error:
                said[1] = str(error)
        with self._connected():
            result, complaint = broadcast_object_list(said)
        if complaint is not None:
            raise UserError(complaint)
        return result  # type: ignore[no-any-return]

    def disconnect(self) -> None:
        """Ends their connection, when all is done."""
        if self.number > 1:
            from accelerate import PartialState

            PartialState().destroy_process_group()

    def reports_failure(self) -> bool:
        """Whether this process is the first to ask, which is the one to tell why all of them end.

        The others may have met the same fault, or only that this one is gone.
        """
        if self.number == 1 or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
            return True
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        # The launcher's own, which outlives the processes; a launcher that starts them anew counts that.
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
            return True

    @contextmanager
    def _connected(self) -> Iterator[None]:
        """Within it, a lost connection is told as what it is: another process has ended."""
        try:
            yield
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            if isinstance(error, NotImplementedError):
                # Accelerate knows GPUs that need a setting, and says which.
                raise UserError(one_line(error)) from error
            raise UserError(
                f"another of the {self.number} processes has ended ({one_line(error)}): the same command goes on"
            ) from error

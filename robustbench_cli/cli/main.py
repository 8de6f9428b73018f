"""The entry point of ``advdef``: from here on a signal, or too little memory, ends it in one line.

This file imports little, so that little can fail before :func:`main` runs.
"""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from robustbench_cli.cli.exit_codes import INTERRUPTED, USAGE_ERROR, unfinished

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: The arguments after ``advdef``; by default those of the process.

    Returns:
        The exit code: 0 done, 1 a gate failed, 2 usage error or invalid input, 3 cells failed or are missing, 4 internal
        error, 130 interrupted.
    """
    command_line = list(sys.argv[1:] if arguments is None else arguments)
    if arguments is None:
        _report_exits_of_libraries()
        _collect_less_garbage()
    with _stopped_by_signals(command_line):
        code = _loaded(command_line)(command_line)
    if arguments is None:
        _keep_exit_code(code)
    return code


def _collect_less_garbage() -> None:
    """Spares the collector the objects of imports and of stored records, which are many and no garbage.

    By default it looks through them at every 700th new object, and once more when Python ends: a tenth of a report, and a
    third of the time that a command spends on torch.
    """
    gc.set_threshold(50_000)
    atexit.register(_skip_last_collections)


def _skip_last_collections() -> None:
    """Exempts all objects from the collections when Python ends, unless Triton is loaded, as PyTorch's optimizers do.

    Triton would list the objects that are left on stderr as leaked.
    """
    if "triton" not in sys.modules:
        gc.freeze()


def _loaded(arguments: list[str]) -> Callable[[list[str]], int]:
    """The function that runs the command line; one that returns the exit code if it cannot be imported."""
    try:
        from robustbench_cli.cli.dispatch import run
    except KeyboardInterrupt:
        _print_error(unfinished("interrupted", arguments))
        return lambda _: INTERRUPTED
    except (ImportError, MemoryError, OSError, RuntimeError) as error:
        # A library that cannot be mapped is an ImportError, a thread that cannot be started a RuntimeError.
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        _print_error(
            f"advdef cannot be loaded ({reason}): give it more memory, as with 'ulimit -v unlimited', or install it again"
        )
        return lambda _: USAGE_ERROR
    return run


@contextmanager
def _stopped_by_signals(arguments: list[str]) -> Iterator[None]:
    """Lets SIGTERM stop a command as Ctrl-C does, so that a cancelled job cleans up."""

    def stop(number: int, frame: FrameType | None) -> None:
        if _is_importing(frame) and "multiprocessing.process" not in sys.modules:
            # An import often loses an exception, or turns it into another one. Nothing is being computed yet.
            _print_error(unfinished("interrupted", arguments))
            os._exit(INTERRUPTED)
        raise KeyboardInterrupt

    handlers = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            # A shell makes background processes ignore Ctrl-C.
            if signal.getsignal(number) is not signal.SIG_IGN:
                handlers[number] = signal.signal(number, stop)
    except ValueError:
        # Only the main thread can handle signals.
        yield
        return
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _print_error(line: str) -> None:
    """Prints on stderr why the command ends, without any further import."""
    printable = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in line)
    try:
        os.write(2, f"advdef: error: {printable}\n".encode(errors="backslashreplace"))
    except OSError:
        # The exit code stays the same where stderr is closed.
        return


def _report_exits_of_libraries() -> None:
    """Gives exit code 2 to a library in C that ends the process, as OpenBLAS does without memory.

    Such a library calls ``exit(1)``, the exit code of a gate. ``exit`` runs the function that is registered here. When
    Python itself ends, it first unregisters the function.
    """
    try:
        import ctypes

        libc = ctypes.CDLL(None)
        register, run_and_forget = getattr(libc, "__cxa_atexit"), getattr(libc, "__cxa_finalize")
        register.argtypes, run_and_forget.argtypes = [ctypes.c_void_p] * 3, [ctypes.c_void_p]
        owner = ctypes.create_string_buffer(1)
        by_python = False

        def ended(_: int | None) -> None:
            if not by_python:
                _print_error("a library ended the process, maybe for lack of memory or threads: see 'ulimit -a'")
                os._exit(USAGE_ERROR)

        function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(ended)

        def forget() -> None:
            nonlocal by_python
            by_python = True
            run_and_forget(ctypes.addressof(owner))
            # The callback must live until here.
            del functions[:]

        functions = [function]
        register(ctypes.cast(function, ctypes.c_void_p), None, ctypes.addressof(owner))
        atexit.register(forget)
    except (ImportError, AttributeError, OSError, MemoryError):
        # The command works without it.
        return


def _keep_exit_code(code: int) -> None:
    """Keeps the exit code where a signal arrives while Python shuts down."""
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, lambda *_: os._exit(code))
    except ValueError:
        return

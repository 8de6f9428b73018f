"""Where ``advdef`` begins: from here on a signal, or too little memory, ends it in one line.

This file imports what Python has imported already, so that hardly anything can happen before :func:`main` runs.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

__all__ = ["main"]

_RESUMED = ("attack", "audit", "certify", "demo", "reprogram", "sweep", "train")
"""The commands that go on, when they are given again, from where they were interrupted."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: The words after ``advdef``; those of the process unless given.

    Returns:
        The exit code: 0 done, 1 a gate did not pass, 2 wrong words or input, 3 cells failed or are missing, 4 a fault
        of the project's own, 130 interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if arguments is None:
        _tell_of_exits_by_libraries()
    with _stopped_by_signals(words):
        code = _run(words)
    if arguments is None:
        _end_with(code)
    return code


def _run(words: list[str]) -> int:
    try:
        from robustbench_cli.cli.dispatch import run
    except KeyboardInterrupt:
        _say(_interrupted(words))
        return 130
    except (ImportError, MemoryError, OSError, RuntimeError) as error:
        # A library that cannot be mapped is an ImportError, a thread that cannot be started a RuntimeError.
        what = " ".join(f"{type(error).__name__}: {error}".split())
        _say(
            f"advdef cannot be loaded ({what}): give it more memory, as with 'ulimit -v unlimited', or install it again"
        )
        return 2
    return run(words)


@contextmanager
def _stopped_by_signals(words: list[str]) -> Iterator[None]:
    """Lets SIGTERM stop a command as Ctrl-C does, so that a job that is cancelled ends in good order."""

    def stop(number: int, frame: FrameType | None) -> None:
        if _is_importing(frame) and "multiprocessing.process" not in sys.modules:
            # An exception inside an import is often lost, or becomes another one. Nothing is being computed.
            _say(_interrupted(words))
            os._exit(130)
        raise KeyboardInterrupt

    handlers = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            # Who started this process in the background may have made it deaf to Ctrl-C.
            if signal.getsignal(number) is not signal.SIG_IGN:
                handlers[number] = signal.signal(number, stop)
    except ValueError:
        # Only a process's main thread can listen to signals.
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


def _interrupted(words: list[str]) -> str:
    if not words or words[0] not in _RESUMED:
        return "interrupted"
    import shlex

    return f"interrupted: what was finished is stored; the same command goes on: {shlex.join(['advdef', *words])}"


def _say(line: str) -> None:
    """Tells on stderr why the command ends, without whatever else would have to be imported."""
    printable = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in line)
    try:
        os.write(2, f"advdef: error: {printable}\n".encode(errors="backslashreplace"))
    except OSError:
        # A stderr that takes no more is no reason to end otherwise than the command would.
        return


def _tell_of_exits_by_libraries() -> None:
    """Keeps libraries in C that end the process, as OpenBLAS does where it gets no memory, from ending it as a gate does.

    They call ``exit(1)``, which runs what is registered here; Python's own end takes it off the list before that.
    """
    try:
        import atexit
        import ctypes

        libc = ctypes.CDLL(None)
        register, run_and_forget = getattr(libc, "__cxa_atexit"), getattr(libc, "__cxa_finalize")
        register.argtypes, run_and_forget.argtypes = [ctypes.c_void_p] * 3, [ctypes.c_void_p]
        owner = ctypes.create_string_buffer(1)
        by_python = False

        def ended(_: int | None) -> None:
            if not by_python:
                _say("a library has ended the process, maybe for want of memory or of threads: see 'ulimit -a'")
                os._exit(2)

        function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(ended)

        def forget() -> None:
            nonlocal by_python
            by_python = True
            run_and_forget(ctypes.addressof(owner))
            # Until here it must live.
            del functions[:]

        functions = [function]
        register(ctypes.cast(function, ctypes.c_void_p), None, ctypes.addressof(owner))
        atexit.register(forget)
    except (ImportError, AttributeError, OSError, MemoryError):
        # Without it all goes on as well.
        return


def _end_with(code: int) -> None:
    """Lets a signal that comes while Python tidies up end the process as it would have ended."""
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, lambda *_: os._exit(code))
    except ValueError:
        return

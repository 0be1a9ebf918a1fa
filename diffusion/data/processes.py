"""Processes that prepare data: they leave Ctrl-C to the one that starts them, and end with it."""

import contextlib
import functools
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker
from types import ModuleType


@contextlib.contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """Context in which this thread starts processes that receive no SIGINT.

    Ctrl-C in a terminal is sent to all processes, of which only the first knows what to save.
    """
    resource_tracker.ensure_running()  # which would end the block where it is started later
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # processes inherit it
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def without_main_module() -> Iterator[None]:
    """Context in which processes are started that do not import the main module.

    They would run a script again that has no `if __name__ == "__main__"`, and so start processes
    that start processes. What is sent to them must lie in other modules.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")  # has no file
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@functools.cache  # once in a process
def end_with_parent() -> None:
    """Ends this process when the one that started it has ended, even by a kill."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        assert parent is not None
        parent.join()
        os._exit(1)

    if parent is not None:
        threading.Thread(target=wait, daemon=True).start()

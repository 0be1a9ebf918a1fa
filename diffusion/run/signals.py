"""SIGINT and SIGTERM as requests to save and stop."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def stop_requests() -> Iterator[Callable[[], signal.Signals | None]]:
    """Context in which SIGINT and SIGTERM request a stop; a second SIGINT exits at once.

    Yields a function that returns the first signal received, or None. A separate thread reads the
    signals, because Python runs signal handlers in the main thread only, and that thread can spend
    minutes in a compilation or a save.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None  # only the main thread can handle signals
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    received: list[signal.Signals] = []
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def print_error(message: str) -> None:
        os.write(2, f"\n{os.path.basename(sys.argv[0])}: {message}\n".encode())

    def listen() -> None:
        while number := os.read(reader, 1):
            if number[0] not in numbers:
                continue
            received.append(signal.Signals(number[0]))
            if received.count(signal.SIGINT) == 2:
                print_error("stopped; checkpoints are kept.")
                os._exit(130)
            if number[0] == signal.SIGINT:
                print_error("saving a checkpoint before stopping; Ctrl-C again stops at once.")

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    pipe_before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    # the handler does nothing, but Python writes only handled signals to the pipe
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    try:
        yield lambda: received[0] if received else None
    finally:
        signal.set_wakeup_fd(pipe_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(writer)  # ends the listener: its read returns b""
        listener.join()
        os.close(reader)

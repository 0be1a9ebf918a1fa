"""SIGINT and SIGTERM as requests to end soon."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def stop_requests() -> Iterator[Callable[[], signal.Signals | None]]:
    """Within it SIGINT and SIGTERM are requests to end soon; a second SIGINT ends the program.

    Gives a function that says which was the first, or None. A thread reads the signals: the main
    one, which Python tells of them, may be minutes in a compiler or a save.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None  # signals are the main thread's
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    received: list[signal.Signals] = []
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def say(what: str) -> None:
        os.write(2, f"\n{os.path.basename(sys.argv[0])}: {what}\n".encode())

    def listen() -> None:
        while number := os.read(reader, 1):
            if number[0] not in numbers:
                continue
            received.append(signal.Signals(number[0]))
            if received.count(signal.SIGINT) == 2:
                say("stopped; checkpoints are kept.")
                os._exit(130)
            if number[0] == signal.SIGINT:
                say("saves, then leaves; once more to leave at once.")

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    pipe_before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    # the handler does nothing, but without one no signal is written to the pipe
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    try:
        yield lambda: received[0] if received else None
    finally:
        signal.set_wakeup_fd(pipe_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(writer)  # the listener reads its end
        listener.join()
        os.close(reader)

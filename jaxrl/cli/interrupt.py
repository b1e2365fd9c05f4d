"""Ctrl-C, SIGTERM, what schedulers send, and a limit of time: the first asks to stop at the next
chunk, a second signal ends the process."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")  # Windows has the first two
_SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))


class Interrupt:
    """Which signal has come, if any: `number` is None or its number.

    Args:
        time_limit: seconds from now after which a stop is asked for without a signal.
    """

    def __init__(self, time_limit: float = math.inf) -> None:
        self.number: int | None = None
        self.end = time.monotonic() + time_limit

    @property
    def requested(self) -> bool:
        """Whether the run should stop."""
        return self.number is not None or time.monotonic() >= self.end

    @property
    def exit_code(self) -> int:
        """128 + signal, as shells report it; 124, as of GNU `timeout`, when only the time is up."""
        return 124 if self.number is None else 128 + self.number


@contextlib.contextmanager
def catch_signals(say: Callable[[str], None], time_limit: float = math.inf) -> Iterator[Interrupt]:
    """Watch for signals to stop while the body runs; the handlers before come back after it.

    Python runs handlers between two of its instructions, which may be many seconds apart while a
    program compiles. So a thread of its own reads the signals as the system delivers them.

    Args:
        say: told, once, that the run is about to stop.
        time_limit: of the body [s].
    """
    interrupt = Interrupt(time_limit)
    if threading.current_thread() is not threading.main_thread():
        yield interrupt  # only the main thread may set handlers
        return
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    previous_fd = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    # The listener acts; a handler must merely exist, or the system's default would.
    previous = {number: signal.signal(number, lambda *_: None) for number in _SIGNALS}
    listener = threading.Thread(target=_listen, args=(receiver, interrupt, say), daemon=True)
    listener.start()
    try:
        yield interrupt
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(previous_fd)
        sender.close()  # the listener reads the end and leaves
        listener.join()
        receiver.close()


def _listen(receiver: socket.socket, interrupt: Interrupt, say: Callable[[str], None]) -> None:
    while data := receiver.recv(1):
        if data[0] not in _SIGNALS:
            continue
        if interrupt.number is not None:
            if sys.stdout.isatty():
                sys.stdout.write("\x1b[?25h\n")  # the progress bar hides the cursor
                sys.stdout.flush()
            os._exit(128 + data[0])
        interrupt.number = data[0]
        say("stopping once this chunk (or the compilation) is done; once more quits at once")

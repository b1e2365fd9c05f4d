"""Ctrl-C, SIGTERM and what schedulers send: the first asks to stop at the next chunk, the second
ends the process."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")  # Windows has the first two
_SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))


class Interrupt:
    """Which signal has come, if any: `number` is None or its number."""

    def __init__(self) -> None:
        self.number: int | None = None

    @property
    def requested(self) -> bool:
        """Whether the run should stop."""
        return self.number is not None

    @property
    def exit_code(self) -> int:
        """128 + signal, as shells report it."""
        return 128 + (self.number or 0)


@contextlib.contextmanager
def catch_signals(say: Callable[[str], None]) -> Iterator[Interrupt]:
    """Watch for signals to stop while the body runs; the handlers before come back after it.

    Python runs handlers between two of its instructions, which may be many seconds apart while a
    program compiles. So a thread of its own reads the signals as the system delivers them.

    Args:
        say: told, once, that the run is about to stop.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt  # only the main thread may set handlers
        return
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    previous_fd = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    previous = {number: signal.signal(number, _ignore) for number in _SIGNALS}
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


def _ignore(number: int, frame: object) -> None:
    """The listener acts; a handler must merely exist, or the system's default would."""


def _listen(receiver: socket.socket, interrupt: Interrupt, say: Callable[[str], None]) -> None:
    while data := receiver.recv(1):
        if data[0] not in _SIGNALS:
            continue
        if interrupt.requested:
            if sys.stdout.isatty():
                sys.stdout.write("\x1b[?25h\n")  # the progress bar hides the cursor
                sys.stdout.flush()
            os._exit(128 + data[0])
        interrupt.number = data[0]
        say("stopping once this chunk (or the compilation) is done; once more quits at once")

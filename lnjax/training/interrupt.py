"""Stopping a run by a signal, so that the same command goes on with it."""

import contextlib
import os
import signal
import threading
from types import FrameType

EXIT_INTERRUPTED = 75
"""Exit code EX_TEMPFAIL of sysexits.h: stopped by a signal after writing a checkpoint; run the same
command again to go on. A scheduler can tell it from success (0) and from failure (anything else).
"""


class Interrupt:
    """Turns SIGTERM, SIGINT (Ctrl-C) and SIGHUP into a flag that the loop asks between two steps.

    SIGHUP says that the terminal is gone; where it is ignored, as under nohup, it stays so.
    A context manager for the main thread; on leaving, the handlers are what they were::

        with Interrupt() as interrupt:
            while step < num_steps:
                ...
                if interrupt.requested:
                    save the checkpoint, leave with EXIT_INTERRUPTED

    A SIGINT after that, such as a second Ctrl-C, raises KeyboardInterrupt at once, wherever the
    program is.

    Attributes:
        requested: name of the first signal that arrived, such as "SIGTERM"; None before.

    Raises:
        RuntimeError: entered outside the main thread, the only one that may set handlers.
    """

    def __init__(self):
        self.requested: str | None = None
        self._previous = {}

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("Interrupt can only be used in the main thread")
        ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        for number in (signal.SIGTERM, signal.SIGINT, *(() if ignored else (signal.SIGHUP,))):
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            # None: set by C code, which Python cannot put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested is None:
            self.requested = signal.Signals(number).name
            text = f"\n{self.requested}: writing a checkpoint, then stopping (Ctrl-C: at once)\n"
            # Not print: the signal may have arrived in the middle of one, which is not reentrant.
            with contextlib.suppress(OSError):  # no standard error
                os.write(2, text.encode())
        elif number == signal.SIGINT:
            raise KeyboardInterrupt

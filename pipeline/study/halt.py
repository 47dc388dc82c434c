"""Why and how a study ends before its budget is met."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from pipeline.errors import StudyError

STOPPING = "stopping: running trials are being saved; Ctrl-C again ends at once"
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(StudyError):
    """Somebody pressed Ctrl-C, or ended the driver's process kindly."""


class Halt:
    """The wish to end: running trials are saved, and another driver can go on."""

    def __init__(self) -> None:
        self._why: Exception | None = None
        self._is_interrupted = False
        self._watched: list[tuple[threading.Event, Exception]] = []

    @property
    def why(self) -> Exception | None:
        """The first reason that was given; None while there is none."""
        for event, why in self._watched:
            if event.is_set():
                self.ask(why)
        return self._why

    def ask(self, why: Exception) -> None:
        """Ask for the end."""
        self._why = self._why or why

    def watch(self, event: threading.Event, why: Exception) -> None:
        """Take an event, once it is set, for a reason."""
        self._watched.append((event, why))

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Let the first Ctrl-C (or SIGTERM) ask for the end, and the second end at once by KeyboardInterrupt."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handle(number: int, frame: Any) -> None:
            if self._is_interrupted:
                raise KeyboardInterrupt
            self._is_interrupted = True
            self.ask(Interrupted("interrupted"))
            _tell(STOPPING)

        before = {kind: signal.signal(kind, handle) for kind in SIGNALS}
        try:
            yield
        finally:
            for kind, handler in before.items():
                signal.signal(kind, handler)


def _tell(text: str) -> None:
    """Say it on the standard error, below all that a signal may have come in the midst of: a print, or an import."""
    # Nobody may read it any more.
    with suppress(OSError):
        os.write(2, f"\n{text}\n".encode())

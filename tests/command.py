"""`vae-study` in a process of its own."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.waiting import PATIENCE_SECONDS

ROOT = Path(__file__).parents[1]
LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
# Calls a function of a module, then the command.
CHANGED = "import sys; from {0} import {1}; {1}(); from vae_study.cli import main; main(sys.argv[1:], 'vae-study')"


def take_signals() -> None:
    """Processes inherit what is ignored: Ctrl-C in a shell's background, a closed terminal under nohup."""
    for kind, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(kind) is signal.SIG_IGN:
            signal.signal(kind, handler)


class Command:
    """The command as it runs.

    Attributes:
        pid: Of its process.
    """

    def __init__(
        self, words: Sequence[str], folder: Path, output: Path, change: Callable[[], None] | None = None
    ) -> None:
        """Start it.

        Args:
            words: What follows `vae-study`.
            folder: Where it runs.
            output: The file that what it prints is appended to.
            change: Called in the process before the command begins; a function of a module.
        """
        program = ["-m", "vae_study"] if change is None else ["-c", CHANGED.format(change.__module__, change.__name__)]
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        # A Ray of the tests listens at the loopback, where by default Ray looks for none of another process.
        environment |= {LOOPBACK: "0"} if "--ray-address" in words else {}
        if change is not None:
            environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        with output.open("ab") as file:
            self._process = subprocess.Popen(
                [sys.executable, *program, *map(str, words)],
                stdout=file,
                stderr=file,
                env=environment,
                cwd=folder,
            )
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    def wait(self) -> int:
        """Its exit code, once it has ended."""
        return self._process.wait(PATIENCE_SECONDS)

    def send_signal(self, kind: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        self._process.send_signal(kind)

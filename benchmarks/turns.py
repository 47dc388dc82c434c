"""Workers that take turns, so that a machine's slow minute meets them all."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

REPOSITORY = Path(__file__).parents[1]


class Turns:
    """A worker's side: a piece of work each time that the parent asks, and what it cost."""

    def __init__(self, answers: TextIO):
        self.answers, self.started, self.taken = answers, 0.0, 0.0

    @classmethod
    def quietly(cls) -> "Turns":
        """Answer on standard output, where from now on nothing else is written: libraries print, the parent reads."""
        answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        return cls(answers)

    def begin(self) -> None:
        """Wait to be asked; when nobody will ask any more, this process ends."""
        print(self.taken if self.started else "ready", file=self.answers, flush=True)
        if not sys.stdin.readline():
            os._exit(0)
        self.started = time.process_time()

    def end(self, without: float = 0.0) -> None:
        """The piece is done; `without`: CPU seconds of it that do not count."""
        self.taken = time.process_time() - self.started - without


class Worker:
    """The parent's side: a process, and the CPU milliseconds that a unit of its work took in each round."""

    def __init__(self, command: Sequence[str], units: int, name: str):
        """Start `command`, each of whose pieces of work has so many units."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
        streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        self.process = subprocess.Popen(command, env=environment, **streams)
        self.units, self.name, self.times_ms = units, name, list[float]()

    def is_ready(self) -> bool:
        """Wait until it is; False if it ended instead. Asked once."""
        return self.process.stdout.readline().strip() == "ready"

    def round(self) -> None:
        """Have it do a piece of work."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.times_ms.append(1e3 * float(self.process.stdout.readline()) / self.units)

    def close(self) -> None:
        """Let it end."""
        self.process.stdin.close()
        self.process.wait()

    @property
    def ms(self) -> float:
        """The median over the rounds."""
        return statistics.median(self.times_ms)


def measure(workers: Sequence[Worker], rounds: int) -> None:
    """All in turn, round by round; the first round warms up."""
    for _ in range(rounds + 1):
        for worker in workers:
            worker.round()
    for worker in workers:
        del worker.times_ms[0]
        worker.close()


def ratio(slow: Worker | None, fast: Worker) -> str:
    """How many times as long the slow one takes: the median of the rounds' ratios."""
    if slow is None:
        return "–"
    pairs = zip(slow.times_ms, fast.times_ms, strict=True)
    return f"{statistics.median(a / b for a, b in pairs):.2f}"

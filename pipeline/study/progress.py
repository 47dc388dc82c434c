"""The live progress line: trials done, the frontier so far, the time left."""

import time
from collections import Counter
from collections.abc import Sequence
from types import TracebackType

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from pipeline.search.pareto import hypervolume, non_dominated

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """One line that is redrawn on a terminal, or a new line every ten seconds where output goes to a file."""

    def __init__(self, console: Console, trials: int, signs: Sequence[float], reference: Sequence[float]):
        """Make a progress line for a budget of `trials`.

        Args:
            console: Where it is shown.
            trials: The budget.
            signs: 1 for each objective that is minimized, -1 for each that is maximized.
            reference: The hypervolume's reference point, with the objectives' own signs.
        """
        self.console, self.trials = console, trials
        self.signs_M = np.asarray(signs, dtype=np.float64)
        self.reference_M = list(self.signs_M * np.asarray(reference))
        self.bar = Bar(
            TextColumn("{task.completed:.0f}/{task.total:.0f} trials"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[facts]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self.task = self.bar.add_task("study", total=trials, facts="starting")
        self.started_done: int | None = None
        self.started = self.last_line = time.monotonic()

    def __enter__(self) -> "Progress":
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def update(self, counts: Counter[str], finished_values: Sequence[Sequence[float]], stalled: int) -> None:
        """Show how far the study is, and how many records wait on the disk since MLflow is away or slow."""
        done = counts.total() - counts["running"] - counts["waiting"]
        waiting = [f"{stalled:,} records wait for MLflow"] if stalled else []
        text = "  ".join([*self._frontier(finished_values), *self._others(counts), *waiting, *self._time_left(done)])
        self.bar.update(self.task, completed=done, facts=text)
        if not self.console.is_terminal and time.monotonic() - self.last_line > SECONDS_BETWEEN_LINES:
            self.last_line = time.monotonic()
            self.console.print(f"{done}/{self.trials} trials  {text}", highlight=False)

    def confirm(self, done: int, total: int) -> None:
        """Show how far the stage after the search is."""
        self.bar.update(self.task, completed=done, total=total, facts="confirming the best with further seeds")
        if not self.console.is_terminal and 0 < done == total:
            self.console.print(f"{done}/{total} confirmations", highlight=False)

    def _frontier(self, finished_values: Sequence[Sequence[float]]) -> list[str]:
        if not finished_values:
            return []
        values_NM = self.signs_M * np.asarray(finished_values)
        size = int(non_dominated(values_NM).sum())
        return [f"frontier {size}", f"hypervolume {hypervolume(values_NM, self.reference_M):.1f}"]

    def _others(self, counts: Counter[str]) -> list[str]:
        return [f"{counts[state]} {state}" for state in ("stopped", "failed") if counts[state]]

    def _time_left(self, done: int) -> list[str]:
        if self.started_done is None:
            self.started_done = done
        fresh = done - self.started_done
        if not fresh:
            return []
        left_s = (time.monotonic() - self.started) / fresh * (self.trials - done)
        return [f"about {left_s / 60:.0f} min left" if left_s >= 90 else f"about {left_s:.0f} s left"]

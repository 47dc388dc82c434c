"""How far a study is: its own metrics after each trial, and the progress line."""

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from vae_study.config.search_space import Choices, Range
from vae_study.selection.ranking import hypervolume, non_dominated
from vae_study.tracking.schema import ENDED, LOG10

Floats = NDArray[np.float64]
SECONDS_BETWEEN_LINES = 10.0


class StudyCurves:
    """The frontier of the trials that have ended so far; each further one is compared with that frontier alone.

    Attributes:
        step: How many trials have ended.
    """

    def __init__(self, reference: Mapping[str, float], signs: Sequence[float]):
        """Begin before the first trial.

        Args:
            reference: The hypervolume's reference point, by objective.
            signs: 1 for each objective that is minimized, -1 for each that is maximized.
        """
        self.metrics, self.signs_M = tuple(reference), np.asarray(signs, dtype=np.float64)
        self.reference_M: Floats = self.signs_M * np.array(list(reference.values()), dtype=np.float64)
        self.front_NM: Floats = np.empty((0, len(self.metrics)))
        self.counts: Counter[str] = Counter()
        self.volume = 0.0
        # After each trial that was compared with the others: it has finished, or was pruned.
        self._volumes: list[float] = []

    @property
    def step(self) -> int:
        """How many trials have ended."""
        return self.counts.total()

    def add(self, state: str, metrics: Mapping[str, float], is_feasible: bool = True) -> dict[str, float]:
        """Count a trial that has ended.

        Args:
            state: `finished`, `pruned` or `failed`.
            metrics: The trial's; used only where it finished.
            is_feasible: Whether it keeps the study's constraints.

        Returns:
            The study's metrics, for the step that `step` is now: `study/hypervolume` (the product of the objectives'
            units), `study/frontier_size`, `study/finished`, `study/pruned`, `study/failed`.
        """
        self.counts[state] += 1
        if state == "finished" and is_feasible:
            self._place(self.signs_M * [metrics.get(name, math.nan) for name in self.metrics])
        if state != "failed":
            self._volumes.append(self.volume)
        counts = {f"study/{name}": float(self.counts[name]) for name in ENDED}
        return {"study/hypervolume": self.volume, "study/frontier_size": float(len(self.front_NM)), **counts}

    @property
    def judged(self) -> int:
        """How many trials have ended without failing."""
        return len(self._volumes)

    def is_flat(self, trials: int, min_gain: float, since: int = 0) -> bool:
        """Whether the hypervolume has grown by less than a fraction of it over the last trials that did not fail.

        Args:
            trials: How many.
            min_gain: The fraction.
            since: Only those after so many are looked at.
        """
        if self.judged < since + trials or not self.volume:
            return False
        before = self._volumes[-1 - trials] if self.judged > trials else 0.0
        return self.volume - before < min_gain * self.volume

    def _place(self, value_M: Floats) -> None:
        candidate_NM = np.vstack([self.front_NM, value_M])
        kept_N = non_dominated(candidate_NM)
        if kept_N[-1]:
            self.volume += self._gain(value_M)
            self.front_NM = candidate_NM[kept_N]

    def _gain(self, value_M: Floats) -> float:
        """What a point adds to the hypervolume: its own box, less the part that the frontier has covered.

        Clipped to the box, most of the frontier is dominated by the rest, so that this is far less work than the whole
        volume (While, Bradstreet and Barone 2012).
        """
        if not (value_M < self.reference_M).all():
            return 0.0
        clipped_NM = np.maximum(self.front_NM, value_M)
        covered = hypervolume(clipped_NM[non_dominated(clipped_NM)], self.reference_M.tolist())
        return max(float(np.prod(self.reference_M - value_M)) - covered, 0.0)


def log10_parameters(search: Mapping[str, Range | Choices], parameters: Mapping[str, Any]) -> dict[str, float]:
    """The logarithms of a trial's log-scaled parameters as metrics, since MLflow's parallel coordinates are linear."""
    return {
        f"{LOG10}{name}": math.log10(value)
        for name, value in parameters.items()
        if isinstance(parameter := search.get(name), Range) and parameter.log
    }


class Progress:
    """One line that is redrawn on a terminal, or a new line every ten seconds if the output goes to a file.

    Attributes:
        bar: The line; it is shown in its context.
    """

    def __init__(self, console: Console, trials: int):
        """Make a progress line for a budget of `trials`."""
        self.console, self.trials = console, trials
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

    def update(self, curves: StudyCurves, stalled: int) -> None:
        """Show how far the study is, and how many records a slow or silent MLflow does not have yet."""
        frontier = [f"frontier {len(curves.front_NM)}", f"hypervolume {curves.volume:.1f}"]
        facts = frontier if len(curves.front_NM) else []
        facts += [f"{curves.counts[state]} {state}" for state in ("pruned", "failed") if curves.counts[state]]
        facts += [f"{stalled:,} records not in MLflow yet"] if stalled else []
        text = "  ".join([*facts, *self._time_left(curves.step)])
        self.bar.update(self.task, completed=curves.step, facts=text)
        pause = getattr(self.console, "seconds_between_lines", SECONDS_BETWEEN_LINES)
        if not self.console.is_terminal and time.monotonic() - self.last_line > pause:
            self.last_line = time.monotonic()
            self.console.print(f"{curves.step}/{self.trials} trials  {text}", highlight=False)

    def confirm(self, done: int, total: int) -> None:
        """Show how far the confirmation after the search is."""
        self.bar.update(self.task, completed=done, total=total, facts="confirming the best with further seeds")
        if not self.console.is_terminal and 0 < done == total:
            self.console.print(f"{done}/{total} confirmations", highlight=False)

    def _time_left(self, done: int) -> list[str]:
        if self.started_done is None:
            self.started_done = done
        fresh = done - self.started_done
        if not fresh:
            return []
        left_s = (time.monotonic() - self.started) / fresh * (self.trials - done)
        return [f"about {left_s / 60:.0f} min left" if left_s >= 90 else f"about {left_s:.0f} s left"]

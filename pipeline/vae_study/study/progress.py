"""How far a study is: its own metrics after each trial, and the progress line."""

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from vae_study.config.search_space import Choices, Range
from vae_study.metrics import RULES, metric_of, sign_of
from vae_study.selection.ranking import hypervolume, non_dominated
from vae_study.tracking.schema import ENDED, LOG10

Floats = NDArray[np.float64]
SECONDS_BETWEEN_LINES = 10.0


class StudyCurves:
    """The frontier of the trials that have ended so far; each further one is compared with that frontier alone.

    Attributes:
        step: How many trials have ended.
    """

    def __init__(self, reference: Mapping[str, float], signs: Sequence[float], rule: str = "val/elbo"):
        """Begin before the first trial.

        Args:
            reference: The hypervolume's reference point, by objective.
            signs: 1 for each objective that is minimized, -1 for each that is maximized.
            rule: Chooses the champion; the best value of its metric is kept.
        """
        self._ranked_by, self._best = RULES[rule].metric, -math.inf
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
        if state == "finished":
            self.place(metrics, is_feasible)
        if state != "failed":
            self._volumes.append(self.volume)
        counts = {f"study/{name}": float(self.counts[name]) for name in ENDED}
        return {"study/hypervolume": self.volume, "study/frontier_size": float(len(self.front_NM)), **counts}

    def place(self, metrics: Mapping[str, float], is_feasible: bool = True) -> None:
        """Take a finished model into the frontier without counting it: one that a sweep has kept."""
        if is_feasible:
            self._place(self.signs_M * [metrics.get(name, math.nan) for name in self.metrics])
            self._rank(metrics)

    def largest(self, found: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
        """Of several models' metrics those that alone have the largest hypervolume."""

        def box(metrics: Mapping[str, float]) -> float:
            gain_M = self.reference_M - self.signs_M * [metrics.get(name, math.nan) for name in self.metrics]
            return float(np.prod(np.nan_to_num(gain_M).clip(min=0)))

        return max(found, key=box)

    def _rank(self, metrics: Mapping[str, float]) -> None:
        sign, name = -sign_of(self._ranked_by), self._ranked_by
        # A rule that chooses the score, too, has a metric for each.
        found = [value for key, value in metrics.items() if key == name or (name[-1] == "/" and key.startswith(name))]
        self._best = max([self._best, *(sign * value for value in found if math.isfinite(value))])

    @property
    def best_text(self) -> str:
        """The best value so far of what the champion is chosen by, such as "best AUROC 0.953"; empty without one."""
        metric = metric_of(self._ranked_by)
        value = -sign_of(self._ranked_by) * self._best
        return f"best {metric.label} {value:.{metric.digits}f}" if math.isfinite(value) else ""

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

    def __init__(
        self,
        console: Console,
        trials: int,
        hours_left: Callable[[], float] = lambda: math.inf,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Make a progress line for a budget of `trials`, and of hours; `clock` gives seconds."""
        self.console, self.trials = console, trials
        self._hours_left, self._clock = hours_left, clock
        self.bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[facts]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self.task = self.bar.add_task("starting workers", total=trials, facts="")
        # When the first trial was handed out, and how many trials' work was done by then.
        self._began: tuple[float, float] | None = None
        self._last_line = clock()

    def update(self, curves: StudyCurves, under_way: float, stalled: int) -> None:
        """Show how far the study is.

        Args:
            curves: Of the trials that have ended.
            under_way: The shares that the running trials have trained of their epochs, added up.
            stalled: How many records a slow or silent MLflow does not have yet.
        """
        facts = [curves.best_text] if curves.best_text else []
        if len(curves.front_NM):
            facts += [f"frontier {len(curves.front_NM)}", f"hypervolume {curves.volume:.1f}"]
        facts += [f"{curves.counts[state]} {state}" for state in ("pruned", "failed") if curves.counts[state]]
        facts += [f"{stalled:,} records not in MLflow yet"] if stalled else []
        done = curves.step + under_way
        text = "  ".join([*facts, *self._time_left(done)])
        count = f"{curves.step}/{self.trials} trials"
        self.bar.update(self.task, completed=done, description=count, facts=text)
        pause = getattr(self.console, "seconds_between_lines", SECONDS_BETWEEN_LINES)
        if not self.console.is_terminal and self._clock() - self._last_line > pause:
            self._last_line = self._clock()
            self.console.print(f"{count}  {text}", highlight=False)

    def tell(self, text: str) -> None:
        """Print a line above the progress line."""
        self.console.print(text, highlight=False, soft_wrap=True)

    def after_search(self, done: int, total: int, what: str, facts: str) -> None:
        """Show how far that is which is trained after the search, if there is any: how many of what, and facts."""
        if not total:
            return
        count = f"{done}/{total} {what}"
        self.bar.update(self.task, completed=done, total=total, description=count, facts=facts)
        if not self.console.is_terminal and 0 < done == total:
            self.console.print(count, highlight=False)

    def _time_left(self, done: float) -> list[str]:
        """At the speed so far, or until the hours are over; nothing while no work is done, or hardly any is left."""
        if self._began is None:
            self._began = self._clock(), done
        began, before = self._began
        fresh, left = done - before, self.trials - done
        seconds = (self._clock() - began) / fresh * left if fresh > 0 else math.inf
        return [text] if (text := duration_left(min(seconds, 3600 * self._hours_left()))) else []


def duration_left(seconds: float) -> str:
    """A time in words, in steps that do not pretend to more than is known; empty if it is unknown, or under 5 s."""
    if not math.isfinite(seconds) or seconds < 5:
        return ""
    if seconds < 90:
        return f"about {5 * round(seconds / 5)} s left"
    return f"about {seconds / 60:.0f} min left" if seconds < 5400 else f"about {seconds / 3600:.1f} h left"

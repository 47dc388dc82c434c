"""The progress line: what it says of the best, of how far the study is and of the time that is left."""

import io
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from vae_study.study.progress import Progress, StudyCurves, duration_left
from vae_study.study.start import waiting

from tests.waiting import until

REFERENCE = {"val/reconstruction": 50.0, "val/kl": 20.0}


class Clock:
    """Seconds, as a test sets them."""

    now = 0.0

    def __call__(self):
        return self.now


class Line:
    """A progress line into a file, which prints at every update."""

    def __init__(self, trials, hours_left=lambda: math.inf):
        self.clock, self.printed = Clock(), io.StringIO()
        self.progress = Progress(Console(file=self.printed, width=200), trials, hours_left, self.clock)

    def at(self, seconds, curves, under_way):
        self.clock.now = seconds
        before = self.printed.tell()
        self.progress.update(curves, under_way, 0)
        return self.printed.getvalue()[before:]


def ended(count, **metrics):
    curves = StudyCurves(REFERENCE, [1, 1], "val/auroc")
    for _ in range(count):
        curves.add("finished", metrics)
    return curves


def test_the_time_left_is_that_of_the_work_so_far_also_within_trials():
    line = Line(trials=10)
    # Two trials are restored: they say nothing of the speed here.
    assert "left" not in line.at(20, ended(2), 0.0)
    # In 100 seconds four trials are half done.
    assert "about 5 min left" in line.at(120, ended(2), 2.0)
    assert "about 3 min left" in line.at(180, ended(3), 2.5)


@given(st.floats(0.01, 1e3), st.integers(1, 50), st.integers(1, 50))
def test_at_a_steady_speed_the_time_left_is_right(speed, done, more):
    line = Line(trials=done + more)
    line.at(0.0, ended(0), 0.0)
    said = line.at(100 + done / speed, ended(done), 0.0)
    expected = duration_left((100 + done / speed) / done * more)
    assert ("left" in said) == bool(expected)
    assert expected in said


def test_the_time_left_is_at_most_that_of_the_budget():
    line = Line(trials=1000, hours_left=lambda: 0.5)
    line.at(0, ended(0), 0.0)
    assert "about 30 min left" in line.at(100, ended(1), 0.0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, ""), (4, ""), (math.inf, ""), (math.nan, ""), (7, "about 5 s left"), (88, "about 90 s left"),
     (91, "about 2 min left"), (7200, "about 2.0 h left")],
)  # fmt: skip
def test_a_time_in_words(seconds, text):
    assert duration_left(seconds) == text


def test_the_line_says_the_best_of_what_the_champion_is_chosen_by():
    curves = StudyCurves(REFERENCE, [1, 1], "val/auroc")
    assert curves.best_text == ""
    curves.add("finished", {"val_auroc/elbo": 0.91, "val_auroc/kl": 0.953, "val/elbo": -30.0})
    curves.add("finished", {"val_auroc/elbo": math.nan, "val/auroc": 0.99})
    curves.add("pruned", {"val_auroc/elbo": 0.98})
    curves.add("finished", {"val_auroc/elbo": 0.97}, is_feasible=False)
    assert curves.best_text == "best AUROC 0.953"
    others = StudyCurves(REFERENCE, [1, 1], "val/reconstruction")
    for value in (31.0, 29.0, 30.0):
        others.add("finished", {"val/reconstruction": value, "val/elbo": -value})
    assert others.best_text == "best reconstruction 29.00"


def test_without_confirmations_nothing_is_said_of_them():
    line = Line(trials=2)
    line.progress.after_search(0, 0, "confirmations", "")
    assert line.progress.bar.tasks[0].total == 2
    line.progress.after_search(3, 3, "confirmations", "")
    assert line.printed.getvalue() == "3/3 confirmations\n"


def test_whoever_waits_hears_of_it_every_few_seconds():
    printed = io.StringIO()
    with waiting(Console(file=printed, width=80), "starting Ray", seconds=0.01):
        until(lambda: printed.getvalue().count("\n") >= 2, "two words were said")
    said = printed.getvalue()
    assert re.fullmatch(r"(starting Ray, \d+ s so far\n)+", said)
    assert printed.getvalue() == said

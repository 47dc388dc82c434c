import itertools
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.search.store import Proposal
from pipeline.study import asking
from pipeline.study.asking import Asker


class Sampler:
    """Takes its time for each configuration, and counts what it is asked for.

    Attributes:
        asked, drawn: The numbers that were given by asking, and at random.
        is_over: Set, and nothing takes time any more.
    """

    def __init__(self, *seconds, fails=()):
        self.seconds, self.fails = itertools.cycle(seconds or (0,)), fails
        self.numbers, self._lock = itertools.count(), threading.Lock()
        self.asked, self.drawn, self.begun, self.is_over = [], [], 0, threading.Event()

    def _next(self):
        with self._lock:
            return next(self.numbers)

    def ask(self):
        self.begun += 1
        number = self._next()
        self.is_over.wait(next(self.seconds))
        if number in self.fails:
            raise ValueError(f"no configuration {number}")
        self.asked.append(number)
        return Proposal(number, {"beta": number})

    def draw(self):
        number = self._next()
        self.drawn.append(number)
        return Proposal(number, {"beta": number})

    def asker(self, count, at_once):
        return Asker(self.ask, self.draw, count, at_once)


def timed(take):
    started = time.monotonic()
    return take(), time.monotonic() - started


def test_with_a_slow_sampler_nobody_is_held_up_and_all_slots_get_a_configuration(monkeypatch):
    monkeypatch.setattr(asking, "LONGEST_WAIT_SECONDS", 0.1)
    sampler = Sampler(3.0)
    asker, taken, blocked = sampler.asker(100, at_once=32), [], []
    while len(taken) < 32:
        proposal, seconds = timed(asker.take)
        blocked.append(seconds)
        taken += [proposal.number] if proposal else []
    assert max(blocked) < 0.5
    assert sorted(blocked)[len(blocked) // 2] < 0.1
    assert len(set(taken)) == 32
    assert len(sampler.drawn) >= 25
    assert set(taken) == {*sampler.asked, *sampler.drawn}
    sampler.is_over.set()
    asker.close()


def test_a_slot_stands_idle_for_the_longest_wait_before_it_gets_a_random_one(monkeypatch):
    monkeypatch.setattr(asking, "LONGEST_WAIT_SECONDS", 0.3)
    sampler = Sampler(5.0)
    asker, started, seconds = sampler.asker(10, at_once=4), time.monotonic(), []
    for _ in range(2):
        while asker.take() is None:
            pass
        seconds.append(time.monotonic() - started)
        started = time.monotonic()
    assert all(0.3 <= waited < 1.5 for waited in seconds)
    assert len(sampler.drawn) == 2
    sampler.is_over.set()
    asker.close()


def test_a_quick_sampler_is_always_waited_for(monkeypatch):
    monkeypatch.setattr(asking, "PATIENCE_SECONDS", 1.0)
    sampler = Sampler(0.002)
    asker = sampler.asker(50, at_once=8)
    assert [asker.take().number for _ in range(50)] == list(range(50))
    assert asker.take() is None
    assert not asker.has_more()
    assert not sampler.drawn
    asker.close()


def test_one_at_a_time_nothing_is_asked_ahead_or_drawn_at_random_and_the_order_is_kept(monkeypatch):
    monkeypatch.setattr(asking, "PATIENCE_SECONDS_ALONE", 0.01)
    monkeypatch.setattr(asking, "LONGEST_WAIT_SECONDS", 0.02)
    sampler = Sampler(0.25)
    asker, taken = sampler.asker(3, at_once=1), []
    while asker.has_more():
        proposal, seconds = timed(asker.take)
        assert seconds < 0.2
        if proposal is not None:
            taken.append(proposal.number)
            time.sleep(0.02)
            assert sampler.begun == len(taken)
    assert taken == sampler.asked == list(range(3))
    assert not sampler.drawn
    asker.close()


def test_side_by_side_a_dear_configuration_is_asked_for_before_it_is_needed_and_a_cheap_one_is_not(
    monkeypatch,
):
    monkeypatch.setattr(asking, "PATIENCE_SECONDS", 1.0)
    monkeypatch.setattr(asking, "DEAR_SHARE", 0.5)
    for seconds, ahead in ((0.3, 1), (0.0, 0)):
        sampler = Sampler(seconds)
        asker = sampler.asker(9, at_once=2)
        time.sleep(0.1)
        for taken in range(1, 4):
            assert asker.take().number == taken - 1
            time.sleep(0.06)
            assert sampler.begun == taken + ahead
        asker.close()


def test_an_error_of_the_sampler_reaches_the_one_who_takes_and_later_configurations_still_come():
    sampler = Sampler(0.01, fails=(1, 2))
    asker = sampler.asker(5, at_once=2)
    assert asker.take().number == 0
    for number in (1, 2):
        with pytest.raises(ValueError, match=f"no configuration {number}"):
            asker.take()
    assert [asker.take().number for _ in range(2)] == [3, 4]
    assert asker.take() is None
    assert not asker.has_more()
    asker.close()


def test_closing_waits_for_the_ask_under_way_and_asks_for_nothing_more():
    sampler = Sampler(0.0, 0.3)
    asker = sampler.asker(9, at_once=4)
    assert asker.take().number == 0
    while sampler.begun < 2:
        assert asker.take() is None
    _, seconds = timed(asker.close)
    assert seconds < 1.5
    assert sampler.asked == [0, 1]
    assert sampler.begun == 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("sampler")]


@settings(max_examples=40)
@given(
    count=st.integers(0, 12),
    at_once=st.integers(1, 4),
    asks=st.lists(st.floats(0, 0.02), min_size=1, max_size=6),
    turns=st.lists(st.floats(0, 0.01), min_size=1, max_size=6),
    fails=st.sets(st.integers(0, 12), max_size=2),
)
def test_exactly_the_count_is_handed_out_whatever_takes_how_long(count, at_once, asks, turns, fails):
    with pytest.MonkeyPatch.context() as patch:
        for name, seconds in (("", 0.002), ("_ALONE", 0.004)):
            patch.setattr(asking, f"PATIENCE_SECONDS{name}", seconds)
        patch.setattr(asking, "LONGEST_WAIT_SECONDS", 0.005)
        sampler, taken, failed = Sampler(*asks, fails=fails), [], 0
        asker, pauses = sampler.asker(count, at_once), itertools.cycle(turns)
        while asker.has_more():
            try:
                proposal = asker.take()
            except ValueError:
                failed += 1
                continue
            taken += [proposal.number] if proposal else []
            assert sampler.begun + len(sampler.drawn) <= count
            time.sleep(next(pauses))
        assert asker.take() is None
        asker.close()
    assert sorted(taken) == sorted([*sampler.asked, *sampler.drawn])
    assert len(set(taken)) == len(taken) == count - failed
    assert sampler.begun + len(sampler.drawn) == count
    if at_once == 1:
        assert taken == sampler.asked == sorted(taken)


def test_a_study_whose_budget_is_met_asks_for_nothing():
    for count in (0, -3):
        sampler = Sampler()
        asker = sampler.asker(count, at_once=4)
        assert asker.take() is None
        assert not asker.has_more()
        asker.close()
        assert not sampler.begun

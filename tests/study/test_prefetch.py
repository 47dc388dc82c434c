import itertools
import math
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vae_study.search.sampler import Proposal
from vae_study.study import prefetch
from vae_study.study.prefetch import Prefetcher

from tests.waiting import PATIENCE_SECONDS


class Clock:
    """The time that a prefetcher sees, where a test sets it; any thread may let it pass."""

    def __init__(self):
        self.now, self._lock = 100.0, threading.Lock()

    def monotonic(self):
        return self.now

    def passes(self, seconds):
        with self._lock:
            self.now += seconds


class Sampler:
    """Takes its time for each configuration, and counts what it is asked for.

    Attributes:
        asked, drawn: The numbers that were given by prefetch, and at random.
        is_over: Set, and nothing takes time any more; what takes None waits for that.
        clock: By which time passes; by default by that of the machine.
    """

    def __init__(self, *seconds, fails=(), clock=None):
        self.seconds, self.fails, self.clock = itertools.cycle(seconds or (0,)), fails, clock
        self.numbers, self._lock = itertools.count(), threading.Lock()
        self.asked, self.drawn, self.begun, self.is_over = [], [], 0, threading.Event()

    def _next(self):
        with self._lock:
            return next(self.numbers)

    def ask(self):
        self.begun += 1
        number, seconds = self._next(), next(self.seconds)
        if self.clock:
            self.clock.passes(seconds)
        else:
            self.is_over.wait(seconds)
        if number in self.fails:
            raise ValueError(f"no configuration {number}")
        self.asked.append(number)
        return Proposal(number, {"beta": number})

    def draw(self):
        number = self._next()
        self.drawn.append(number)
        return Proposal(number, {"beta": number})

    def prefetcher(self, count, at_once):
        return Prefetcher(self.ask, self.draw, count, at_once)


def taken(prefetcher):
    """The next configuration, as soon as there is one."""
    while (proposal := prefetcher.take()) is None:
        pass
    return proposal.number


@pytest.fixture
def unhurried(monkeypatch):
    """Nothing is drawn at random, however long the machine lets a thread wait."""
    monkeypatch.setattr(prefetch, "RANDOM_AFTER_SECONDS", math.inf)


def test_with_a_slow_sampler_nobody_is_held_up_and_all_slots_get_a_configuration(monkeypatch):
    """It answers when all slots but one have a configuration: whoever waited for it would wait for ever."""
    monkeypatch.setattr(prefetch, "WAIT_SECONDS", 0.001)
    monkeypatch.setattr(prefetch, "RANDOM_AFTER_SECONDS", 0.01)
    sampler = Sampler(None)
    prefetcher = sampler.prefetcher(100, at_once=32)
    drawn = [taken(prefetcher) for _ in range(31)]
    assert drawn == sampler.drawn
    assert sampler.begun == 1
    monkeypatch.setattr(prefetch, "RANDOM_AFTER_SECONDS", math.inf)
    sampler.is_over.set()
    assert [taken(prefetcher)] == sampler.asked[:1]
    assert len({*drawn, sampler.asked[0]}) == 32
    prefetcher.close()


def test_a_slot_stands_idle_for_the_longest_wait_before_it_gets_a_random_one(monkeypatch):
    clock, sampler = Clock(), Sampler(None)
    monkeypatch.setattr(prefetch, "time", clock)
    monkeypatch.setattr(prefetch, "WAIT_SECONDS", 0.001)
    monkeypatch.setattr(prefetch, "RANDOM_AFTER_SECONDS", 0.5)
    prefetcher = sampler.prefetcher(10, at_once=4)
    for drawn in (1, 2):
        for passes in (0, 0.375, 0.125):
            assert len(sampler.drawn) == drawn - 1
            clock.passes(passes)
            proposal = prefetcher.take()
        assert proposal.number == sampler.drawn[-1]
        assert len(sampler.drawn) == drawn
    sampler.is_over.set()
    prefetcher.close()


def test_a_quick_sampler_is_always_waited_for(monkeypatch):
    monkeypatch.setattr(prefetch, "WAIT_SECONDS", PATIENCE_SECONDS)
    sampler = Sampler(0.002)
    prefetcher = sampler.prefetcher(50, at_once=8)
    assert [prefetcher.take().number for _ in range(50)] == list(range(50))
    assert prefetcher.take() is None
    assert not prefetcher.has_more()
    assert not sampler.drawn
    prefetcher.close()


def test_one_at_a_time_nothing_is_asked_ahead_or_drawn_at_random_and_the_order_is_kept(monkeypatch):
    monkeypatch.setattr(prefetch, "SERIAL_WAIT_SECONDS", 0.001)
    monkeypatch.setattr(prefetch, "RANDOM_AFTER_SECONDS", 0.0)
    sampler = Sampler(None)
    prefetcher = sampler.prefetcher(3, at_once=1)
    for number in range(3):
        sampler.is_over.clear()
        assert [prefetcher.take() for _ in range(5)] == [None] * 5
        sampler.is_over.set()
        assert taken(prefetcher) == number
        assert prefetcher.left == 2 - number
    assert not prefetcher.has_more()
    assert sampler.asked == list(range(3))
    assert not sampler.drawn
    prefetcher.close()


def test_side_by_side_a_dear_configuration_is_asked_for_before_it_is_needed_and_a_cheap_one_is_not(
    monkeypatch, unhurried
):
    clock = Clock()
    monkeypatch.setattr(prefetch, "time", clock)
    monkeypatch.setattr(prefetch, "PREFETCH_SHARE", 0.5)
    for seconds, ahead in ((0.3, 1), (0.0, 0)):
        sampler = Sampler(seconds, clock=clock)
        prefetcher = sampler.prefetcher(9, at_once=2)
        clock.passes(0.1)
        for count in range(1, 4):
            assert taken(prefetcher) == count - 1
            clock.passes(0.06)
            assert prefetcher.left == 9 - count - ahead
        prefetcher.close()


def test_an_error_of_the_sampler_reaches_the_one_who_takes_and_later_configurations_still_come(unhurried):
    sampler = Sampler(0.01, fails=(1, 2))
    prefetcher = sampler.prefetcher(5, at_once=2)
    assert taken(prefetcher) == 0
    for number in (1, 2):
        with pytest.raises(ValueError, match=f"no configuration {number}"):
            taken(prefetcher)
    assert [taken(prefetcher) for _ in range(2)] == [3, 4]
    assert prefetcher.take() is None
    assert not prefetcher.has_more()
    prefetcher.close()


def test_closing_waits_for_the_ask_under_way_and_asks_for_nothing_more(unhurried):
    sampler = Sampler(0.0, None)
    prefetcher = sampler.prefetcher(9, at_once=4)
    assert taken(prefetcher) == 0
    while sampler.begun < 2:
        assert prefetcher.take() is None
    closing = threading.Thread(target=prefetcher.close)
    closing.start()
    sampler.is_over.set()
    closing.join(PATIENCE_SECONDS)
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
        for name, seconds in (("", 0.002), ("SERIAL_", 0.004)):
            patch.setattr(prefetch, f"{name}WAIT_SECONDS", seconds)
        patch.setattr(prefetch, "RANDOM_AFTER_SECONDS", 0.005)
        sampler, numbers, failed = Sampler(*asks, fails=fails), [], 0
        prefetcher, pauses = sampler.prefetcher(count, at_once), itertools.cycle(turns)
        while prefetcher.has_more():
            try:
                proposal = prefetcher.take()
            except ValueError:
                failed += 1
                continue
            numbers += [proposal.number] if proposal else []
            assert sampler.begun + len(sampler.drawn) <= count
            time.sleep(next(pauses))
        assert prefetcher.take() is None
        prefetcher.close()
    assert sorted(numbers) == sorted([*sampler.asked, *sampler.drawn])
    assert len(set(numbers)) == len(numbers) == count - failed
    assert sampler.begun + len(sampler.drawn) == count
    if at_once == 1:
        assert numbers == sampler.asked == sorted(numbers)


def test_a_study_whose_budget_is_met_asks_for_nothing():
    for count in (0, -3):
        sampler = Sampler()
        prefetcher = sampler.prefetcher(count, at_once=4)
        assert prefetcher.take() is None
        assert not prefetcher.has_more()
        prefetcher.close()
        assert not sampler.begun

"""Asking the sampler in a thread of its own, so that a slow one never holds up what the workers report."""

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for

from pipeline.search.store import Proposal

# A quick sampler answers within this, so that no turn of the driver's loop is lost.
PATIENCE_SECONDS = 0.05
# With one trial at a time nobody else waits.
PATIENCE_SECONDS_ALONE = 1.0
# Where an ask costs a larger share of a trial's time, the next configuration is asked for before it is needed.
DEAR_SHARE = 0.02
# Of the newest in the mean time between two turns.
NEWEST_SHARE = 0.2
# So long a slot stands idle for a slow sampler; then it gets a configuration drawn at random.
LONGEST_WAIT_SECONDS = 1.0


class Asker:
    """Hands out configurations without ever waiting long for one."""

    def __init__(self, ask: Callable[[], Proposal], ask_at_random: Callable[[], Proposal], count: int, at_once: int):
        """Prepare to ask.

        Args:
            ask: Asks the sampler, which may take seconds.
            ask_at_random: Gives a configuration at once.
            count: How many there are to hand out.
            at_once: How many trials run side by side. One by one, nothing is asked ahead or drawn at random: the
                sampler sees every earlier result, and the same seed gives the same study.
        """
        self._ask, self._ask_at_random, self.left, self._at_once = ask, ask_at_random, count, at_once
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sampler")
        self._answers: deque[Future[Proposal]] = deque()
        self._patience = PATIENCE_SECONDS_ALONE if at_once == 1 else PATIENCE_SECONDS
        self._ask_seconds = self._turn_seconds = 0.0
        self._taken = time.monotonic()
        self._waiting_since: float | None = None

    def take(self) -> Proposal | None:
        """A configuration; None where none is ready, or none is left."""
        self._order(1)
        if not self._answers:
            return None
        wait_for([self._answers[0]], self._patience)
        if not self._answers[0].done():
            return self._instead()
        answer = self._answers.popleft().result()
        self._turn()
        return answer

    def has_more(self) -> bool:
        """Whether any configuration is still to be taken."""
        return self.left > 0 or bool(self._answers)

    def close(self) -> None:
        """End the thread; what was asked for and not taken is left to a later driver."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _order(self, ahead: int) -> None:
        while self.left > 0 and len(self._answers) < ahead:
            self.left -= 1
            self._answers.append(self._thread.submit(self._timed))

    def _timed(self) -> Proposal:
        started = time.monotonic()
        answer = self._ask()
        self._ask_seconds = time.monotonic() - started
        return answer

    def _turn(self) -> None:
        now = time.monotonic()
        self._turn_seconds += NEWEST_SHARE * (now - self._taken - self._turn_seconds)
        self._taken, self._waiting_since = now, None
        trial_seconds = self._at_once * self._turn_seconds
        if self._at_once > 1 and self._ask_seconds > DEAR_SHARE * trial_seconds:
            self._order(1)

    def _instead(self) -> Proposal | None:
        self._waiting_since = self._waiting_since or time.monotonic()
        waited = time.monotonic() - self._waiting_since
        if self._at_once == 1 or self.left == 0 or waited < LONGEST_WAIT_SECONDS:
            return None
        self.left -= 1
        self._waiting_since = None
        return self._ask_at_random()

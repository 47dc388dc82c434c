"""The prefetcher asks the sampler in a thread of its own: a slow sampler never holds up the reports of workers."""

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for

from vae_study.search.sampler import Proposal

# A quick sampler answers within this, so that no turn of the driver's loop is lost.
WAIT_SECONDS = 0.05
# With one trial at a time, no other worker waits.
SERIAL_WAIT_SECONDS = 1.0
# If an ask takes a larger share of a trial's time, the next configuration is asked for before it is needed.
PREFETCH_SHARE = 0.02
# The weight of the newest in the running mean of the time between two configurations.
NEWEST_SHARE = 0.2
# A slot is idle for this long while the sampler is asked; then it gets a configuration drawn at random.
RANDOM_AFTER_SECONDS = 1.0


class Prefetcher:
    """Hands out configurations without ever waiting long for one."""

    def __init__(self, ask: Callable[[], Proposal], ask_at_random: Callable[[], Proposal], count: int, at_once: int):
        """Prepare to ask.

        Args:
            ask: Asks the sampler, which may take seconds.
            ask_at_random: Draws a configuration at random, which takes no time.
            count: How many configurations to hand out.
            at_once: How many trials run at once. With 1, nothing is asked for ahead or drawn at random: the sampler
                sees every earlier result, and the same seed gives the same study.
        """
        self._ask, self._ask_at_random, self.left, self._at_once = ask, ask_at_random, count, at_once
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sampler")
        self._answers: deque[Future[Proposal]] = deque()
        self._wait_seconds = SERIAL_WAIT_SECONDS if at_once == 1 else WAIT_SECONDS
        self._ask_seconds = self._turn_seconds = 0.0
        self._taken = time.monotonic()
        self._waiting_since: float | None = None

    def take(self) -> Proposal | None:
        """The next configuration; None if none is ready, or none is left."""
        self._request(1)
        if not self._answers:
            return None
        wait_for([self._answers[0]], self._wait_seconds)
        if not self._answers[0].done():
            return self._random()
        answer = self._answers.popleft().result()
        self._turn()
        return answer

    def has_more(self) -> bool:
        """Whether any configuration is still to be taken."""
        return self.left > 0 or bool(self._answers)

    def close(self) -> None:
        """End the thread. A later driver hands out what was asked for and not taken."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _request(self, ahead: int) -> None:
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
        if self._at_once > 1 and self._ask_seconds > PREFETCH_SHARE * trial_seconds:
            self._request(1)

    def _random(self) -> Proposal | None:
        self._waiting_since = self._waiting_since or time.monotonic()
        waited = time.monotonic() - self._waiting_since
        if self._at_once == 1 or self.left == 0 or waited < RANDOM_AFTER_SECONDS:
            return None
        self.left -= 1
        self._waiting_since = None
        return self._ask_at_random()

"""A connection that breaks at one request, wherever in some work that is."""

from collections.abc import Callable, Iterator

from mlflow import MlflowClient

MANY = 10**6


class UnluckyModels(MlflowClient):
    """A client whose connection breaks once.

    Attributes:
        left: How many requests are carried out before that.
        requests: How many have been made.
    """

    left, requests = MANY, 0

    def __getattribute__(self, name):
        found = super().__getattribute__(name)
        if name.startswith("_") or not callable(found):
            return found

        def perform(*words, **named):
            self.requests += 1
            self.left -= 1
            if self.left == -1:
                raise ConnectionError("lost")
            return found(*words, **named)

        return perform


def broken_everywhere(client: UnluckyModels, begin: Callable[[], object], work: Callable[[], object]) -> Iterator[None]:
    """Some work, begun anew and broken off before each of its requests, and then done again; at last done twice."""
    requests, place = MANY, 0
    while place <= requests:
        begin()
        client.requests, client.left = 0, place
        try:
            work()
            requests = client.requests
        except ConnectionError:
            pass
        client.left = MANY
        work()
        yield
        place += 1

"""A study's model over HTTP on this machine, by the protocol of MLflow's scoring server.

One thread scores. It takes all requests that wait at once: many small ones together cost little more than one.
"""

import asyncio
import csv
import importlib.metadata
import io
import json
import logging
import queue
import shlex
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import uvicorn

from vae_study.data.requests import RequestRows, csv_request, json_request, request_features
from vae_study.detector.detector import Detector
from vae_study.errors import UserError
from vae_study.tracking.serving import ENDS, LOOPBACK, OWN_NAMES, handling, listening

logger = logging.getLogger(__name__)

# Of a request that a user may try; a longer one would fill the screen.
CHARACTERS_SHOWN = 1000
JSON, CSV = "application/json", "text/csv"
PARSERS = {JSON: json_request, CSV: csv_request}
#: The paths that there are, and their method.
PATHS = {"/invocations": "POST", "/ping": "GET", "/health": "GET", "/version": "GET"}
# Of one body; of all that are held at once; of those that are scored together.
BODY_BYTES, HELD_BYTES, BATCH_BYTES = 32 << 20, 256 << 20, 8 << 20
SECONDS_TO_SEND, SECONDS_TO_END = 60.0, 5
# As MLflow's errors name them.
ERRORS = {400: "BAD_REQUEST", 404: "ENDPOINT_NOT_FOUND", 500: "INTERNAL_ERROR", 503: "TEMPORARILY_UNAVAILABLE"}
MESSAGE_CHARACTERS = 200

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


@dataclass(frozen=True)
class Answer:
    """What a client gets: a status and JSON."""

    status: int
    content: bytes


class Refused(Exception):
    """A request that gets an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.answer = error_answer(status, message)


def error_answer(status: int, message: str) -> Answer:
    """An error in the form of MLflow's, with one sentence."""
    code = ERRORS.get(status, "BAD_REQUEST")
    return Answer(status, json.dumps({"error_code": code, "message": message}).encode())


def serve(
    detector: Detector, name: str, example: Mapping[str, Any] | None, port: int, say: Callable[[str], None]
) -> None:
    """Serve a packed model on localhost until SIGINT, SIGTERM or SIGHUP.

    Args:
        detector: The model.
        name: What to call it.
        example: Rows to try it with, as `columns` and `data`.
        port: To listen at.
        say: Told where it is, and what to try.

    Raises:
        UserError: The port is taken.
    """
    with listening(port) as listener:
        config = uvicorn.Config(
            App(Scorer(detector)),
            lifespan="off",
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=SECONDS_TO_END,
        )
        server = uvicorn.Server(config)
        say(f"{name} is at http://{LOOPBACK}:{port}; Ctrl-C stops it")
        if example is not None:
            for line in _commands(example, detector, port):
                say(line)
        with handling(ENDS, lambda number, frame: setattr(server, "should_exit", True)):
            server.run(sockets=[listener])
    say("ended")


def _commands(example: Mapping[str, Any], detector: Detector, port: int) -> Iterator[str]:
    """What to try: shell commands that ask for the scores of an example's first row or window, in JSON and in CSV."""
    sequence = detector.preprocessing.sequence
    # The example of whole series is one.
    count = None if sequence and sequence.is_whole else sequence.steps if sequence else 1
    row = {"columns": example["columns"], "data": example["data"][:count]}
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([row["columns"], *row["data"]])
    bodies = {JSON: json.dumps({"dataframe_split": row}, ensure_ascii=False)}
    # Where training data had decimal commas or no header, a CSV file for this model is written as they are.
    bodies |= {} if json.loads(detector.preprocessing.reading) else {CSV: text.getvalue()}
    for kind, body in bodies.items():
        if len(body) <= CHARACTERS_SHOWN:
            command = f"curl http://{LOOPBACK}:{port}/invocations -H 'Content-Type: {kind}' --data-binary"
            yield f"try\n{command} {shlex.quote(body)}"


class Scorer:
    """Scores what waits in a queue, all of it together, in a thread of its own."""

    def __init__(self, detector: Detector) -> None:
        """Begin to wait."""
        self._detector = detector
        self._waiting: queue.SimpleQueue[Waiting] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="scorer", daemon=True).start()

    def put(self, waiting: "Waiting") -> None:
        """Add a request; its answer is given to `waiting.give`, in the scorer's thread."""
        self._waiting.put(waiting)

    def _run(self) -> None:
        while True:
            batch = [self._waiting.get()]
            size = len(batch[0].body)
            while size < BATCH_BYTES:
                try:
                    batch.append(self._waiting.get_nowait())
                except queue.Empty:
                    break
                size += len(batch[-1].body)
            for waiting, answer in zip(batch, self.answers([(one.kind, one.body) for one in batch]), strict=True):
                waiting.give(answer)

    def answers(self, requests: Sequence[tuple[str, bytes]]) -> list[Answer]:
        """The answers to requests, each a content type and a body: the same as if each came alone."""
        found: dict[int, Answer] = {}
        alike: dict[object, dict[int, RequestRows]] = {}
        for index, (form, body) in enumerate(requests):
            try:
                rows = PARSERS[form](body, self._detector.preprocessing)
                # Windows do not reach from one request into another.
                alone = self._detector.preprocessing.sequence is not None
                alike.setdefault(index if alone else rows.kind, {})[index] = rows
            except Exception as error:
                found[index] = _error(error)
        for group in alike.values():
            found |= zip(group, self._scored([*group.values()]), strict=True)
        return [found[index] for index in range(len(requests))]

    def _scored(self, requests: Sequence[RequestRows]) -> list[Answer]:
        """The answers to requests of one kind; where some fail, each half is scored by itself."""
        try:
            scores = self._detector.score(request_features(requests, self._detector.preprocessing))
        except Exception as error:
            half = len(requests) // 2
            return [*self._scored(requests[:half]), *self._scored(requests[half:])] if half else [_error(error)]
        records, first, answers = scores.to_dict("records"), 0, []
        for one in requests:
            last = first + len(one.table)
            answers.append(Answer(200, json.dumps({"predictions": records[first:last]}).encode()))
            first = last
        return answers


def _error(error: Exception) -> Answer:
    if isinstance(error, UserError):
        return error_answer(400, str(error))
    logger.error("a request failed", exc_info=error)
    return error_answer(500, f"the server failed with {type(error).__name__}; its log says more")


@dataclass(frozen=True)
class Waiting:
    """A request that waits for its answer.

    Attributes:
        kind: Its content type.
        give: Takes the answer.
    """

    kind: str
    body: bytes
    give: Callable[[Answer], None]


class App:
    """The ASGI application: /invocations, /ping, /health and /version, as MLflow has them."""

    def __init__(self, scorer: Scorer) -> None:
        """Answer by a scorer."""
        self._scorer = scorer
        self._held_bytes = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            return
        headers = [(b"content-type", JSON.encode())]
        try:
            answer = await self._answer(scope, receive)
        except Refused as refused:
            answer = refused.answer
            # What is left of the body is not read.
            headers.append((b"connection", b"close"))
        headers.append((b"content-length", str(len(answer.content)).encode()))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.content})

    async def _answer(self, scope: Message, receive: Receive) -> Answer:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get("host", "")
        if host.removesuffix(f":{scope['server'][1]}") not in OWN_NAMES:
            raise Refused(400, f"Host: got {host[:MESSAGE_CHARACTERS]!r}, expected one of {', '.join(OWN_NAMES)}")
        path, method = scope["path"], scope["method"]
        if path not in PATHS:
            raise Refused(404, f"no {path[:MESSAGE_CHARACTERS]!r} is here; expected one of {', '.join(PATHS)}")
        if method != PATHS[path]:
            raise Refused(405, f"{path} got {method}, expected {PATHS[path]}")
        if path == "/version":
            return Answer(200, importlib.metadata.version("mlflow").encode())
        return await self._scores(headers, receive) if path == "/invocations" else Answer(200, b"\n")

    async def _scores(self, headers: Mapping[str, str], receive: Receive) -> Answer:
        given = headers.get("content-type", "")
        kind, *parameters = [part.strip().lower() for part in given.split(";")]
        if kind not in PARSERS or not {*parameters} <= {"charset=utf-8"}:
            expected = f"expected {' or '.join(PARSERS)} in UTF-8"
            raise Refused(415, f"Content-Type: got {given[:MESSAGE_CHARACTERS]!r}, {expected}")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answer] = loop.create_future()
        body = bytearray()
        try:
            async with asyncio.timeout(SECONDS_TO_SEND):
                await self._receive(body, receive)
            self._scorer.put(Waiting(kind, bytes(body), lambda given: _give(loop, answer, given)))
            return await answer
        except TimeoutError:
            raise Refused(408, f"the body did not come within {SECONDS_TO_SEND:g} seconds") from None
        finally:
            self._held_bytes -= len(body)

    async def _receive(self, body: bytearray, receive: Receive) -> None:
        while True:
            message = await receive()
            chunk = message.get("body", b"")
            if message["type"] == "http.disconnect":
                raise Refused(400, "the client has left")
            if len(body) + len(chunk) > BODY_BYTES:
                said = f"the body has more than {BODY_BYTES >> 20} MiB"
                raise Refused(413, f"{said}; expected less, or vae-study score, which takes files of any size")
            if self._held_bytes + len(chunk) > HELD_BYTES:
                raise Refused(503, f"requests of {HELD_BYTES >> 20} MiB wait already; try again later")
            body += chunk
            self._held_bytes += len(chunk)
            if not message.get("more_body"):
                return


def _give(loop: asyncio.AbstractEventLoop, future: "asyncio.Future[Answer]", answer: Answer) -> None:
    """Set a future's result from another thread, if anybody still waits for it."""

    def give() -> None:
        if not future.done():
            future.set_result(answer)

    with suppress(RuntimeError):
        # The server has ended.
        loop.call_soon_threadsafe(give)

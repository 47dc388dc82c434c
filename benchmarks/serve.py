"""One-row requests a second of `vae-study serve`, and of `mlflow models serve` with the same model: Markdown.

python -m benchmarks.serve
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

import numpy as np
from vae_study.tracking.code import write_pyfunc

from benchmarks.peers.environment import machine
from benchmarks.score import data_of, names_of, packed, rows_of
from benchmarks.turns import REPOSITORY

OURS = """
import sys
from vae_study.detector.detector import Detector
from vae_study.server import serve
serve(Detector.load(sys.argv[1]), "a model", None, int(sys.argv[2]), print)
"""
REQUESTS = 1000


@dataclass
class Server:
    """A server, and what its clients saw in each round: requests a second, and the seconds that each request took."""

    name: str
    command: Sequence[str]
    port: int
    rates: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def __enter__(self) -> "Server":
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        environment = {**os.environ, "PATH": path, "PYTHONPATH": str(REPOSITORY / "pipeline")}
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(self.command, env=environment, start_new_session=True, **quiet)
        while True:
            try:
                return socket.create_connection(("127.0.0.1", self.port), 1).close() or self
            except OSError:
                time.sleep(0.2)

    def __exit__(self, *_: object) -> None:
        os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait()


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--clients", type=int, default=200, help="connections, each with one request at a time")
    parser.add_argument("--seconds", type=float, default=10, help="of a round")
    parser.add_argument("--rounds", type=int, default=3, help="of each server, in turn; their median counts")
    parser.add_argument("--columns", type=int, default=30, help="numbers in a row")
    return parser.parse_args()


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


async def client(port: int, requests: Iterable[bytes], until: float, seconds: list[float]) -> list[bytes]:
    """Send one request after the other on one connection, until there is no other or no time; the answers."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    bodies = []
    for request in requests:
        if (started := time.perf_counter()) > until:
            break
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        body = await reader.readexactly(int(length.split(b":")[1]))
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(body.decode())
        seconds.append(time.perf_counter() - started)
        bodies.append(body)
    writer.close()
    return bodies


async def round_of(server: Server, requests: Sequence[bytes], clients: int, length: float) -> None:
    """All clients at once for some seconds; the time to answer the last requests counts."""
    seconds: list[float] = []
    started = time.perf_counter()
    each = [cycle(requests[number % len(requests) :]) for number in range(clients)]
    await asyncio.gather(*(client(server.port, one, started + length, seconds) for one in each))
    server.rates.append(len(seconds) / (time.perf_counter() - started))
    server.seconds += seconds


def answers(server: Server, requests: Sequence[bytes]) -> list[object]:
    """The answers to requests, one at a time."""
    return [json.loads(one) for one in asyncio.run(client(server.port, requests, float("inf"), []))]


def main() -> None:
    """Pack one model, and have it served by both, which are asked in turn."""
    asked = arguments()
    with tempfile.TemporaryDirectory() as name:
        place, data = Path(name), data_of(asked.columns)
        detector = packed(data, 1, place)["elbo"]
        example_ND = data.splits["validation"].normal_ND[:5]
        write_pyfunc(place / "elbo", data.frame(example_ND), detector.score(example_ND), place / "model")
        rows_ND = rows_of(REQUESTS, asked.columns, 2).astype(np.float64)
        split = [{"dataframe_split": {"columns": names_of(asked.columns), "data": [row]}} for row in rows_ND.tolist()]
        bodies = [json.dumps(one).encode() for one in split]
        head = "POST /invocations HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: "
        requests = [f"{head}{len(body)}\r\n\r\n".encode() + body for body in bodies]
        ports = free_port(), free_port()
        plain = ["-m", "mlflow", "models", "serve", "--model-uri", str(place / "model"), "--env-manager", "local"]
        plain += ["--workers", "1", "--host", "127.0.0.1", "--port", str(ports[1])]
        ours = Server("vae-study serve", [sys.executable, "-c", OURS, str(place / "elbo"), str(ports[0])], ports[0])
        with ours, Server("mlflow models serve", [sys.executable, *plain], ports[1]) as theirs:
            same = answers(ours, requests[:50]) == answers(theirs, requests[:50])
            for _ in range(asked.rounds):
                for server in (ours, theirs):
                    asyncio.run(round_of(server, requests, asked.clients, asked.seconds))
    lines = [["server", "requests a second", "median, ms", "p99, ms"], ["---"] * 4]
    for server in (ours, theirs):
        middle, late = (1e3 * float(np.quantile(server.seconds, share)) for share in (0.5, 0.99))
        lines.append([server.name, f"{statistics.median(server.rates):,.1f}", f"{middle:,.0f}", f"{late:,.0f}"])
    times = statistics.median(a / b for a, b in zip(ours.rates, theirs.rates, strict=True))
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    print(
        f"{machine()}, {asked.clients} clients, {asked.rounds} rounds of {asked.seconds:g} s, rows of {asked.columns} "
        f"numbers\n\n{table}\n{times:.1f} times as many; the same answers, digit by digit: {'yes' if same else 'no'}"
    )


if __name__ == "__main__":
    main()

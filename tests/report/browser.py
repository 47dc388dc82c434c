"""A real Chromium without a window and without a network, driven through its DevTools protocol over a pipe."""

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.waiting import PATIENCE_SECONDS

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--force-color-profile=srgb",
)  # fmt: skip


class Browser:
    """One tab. What the page complains of is in `complaints`, what it asked for in `requests`."""

    def __init__(self, folder: Path) -> None:
        to_browser, from_browser = os.pipe(), os.pipe()
        # The browser reads from descriptor 3 and writes to 4, so a shell puts ours there; sh knows no two digits.
        command = f'exec "$0" "$@" 3<&{to_browser[0]} 4>&{from_browser[1]}'
        self.process = subprocess.Popen(
            ["bash", "-c", command, str(CHROMIUM), *FLAGS, f"--user-data-dir={folder}", "about:blank"],
            pass_fds=(to_browser[0], from_browser[1]), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(to_browser[0])
        os.close(from_browser[1])
        self.writer, self.reader, self.rest = to_browser[1], from_browser[0], b""
        os.set_blocking(self.reader, False)
        self.number, self.session = 0, ""
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.opened: list[str] = []
        self._attach()

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self.call("Browser.close", of_tab=False)
            self.process.wait(PATIENCE_SECONDS)
        finally:
            self.process.kill()
        os.close(self.writer)
        os.close(self.reader)

    def _attach(self) -> None:
        self.call("Target.setDiscoverTargets", discover=True, of_tab=False)
        tabs = self.call("Target.getTargets", of_tab=False)["targetInfos"]
        tab = next(target["targetId"] for target in tabs if target["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=tab, flatten=True, of_tab=False)["sessionId"]
        self.opened.clear()
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, of_tab: bool = True, **parameters: Any) -> dict[str, Any]:
        """Sends a command and waits for its result."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        message |= {"sessionId": self.session} if of_tab else {}
        os.write(self.writer, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < until:
            for answer in self._messages():
                if answer.get("id") == self.number:
                    assert "error" not in answer, (method, answer)
                    return dict(answer["result"])
                self._heard(answer)
        raise TimeoutError(method)

    def _messages(self) -> list[dict[str, Any]]:
        try:
            self.rest += os.read(self.reader, 1 << 20)
        except BlockingIOError:
            time.sleep(0.002)
        *whole, self.rest = self.rest.split(b"\0")
        return [json.loads(message) for message in whole]

    def _heard(self, event: dict[str, Any]) -> None:
        method, about = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(about["exceptionDetails"])[:400])
        if method == "Log.entryAdded" and about["entry"]["level"] in ("error", "warning"):
            self.complaints.append(f"{about['entry']['text']} {about['entry'].get('url', '')}")
        if method == "Runtime.consoleAPICalled" and about["type"] in ("error", "warning", "assert"):
            self.complaints.append(json.dumps(about["args"])[:400])
        if method == "Network.requestWillBeSent":
            self.requests.append(about["request"]["url"])
        if method in ("Target.targetCreated", "Target.targetInfoChanged") and about["targetInfo"].get("openerId"):
            self.opened.append(about["targetInfo"]["url"])

    def look(self, width: int, height: int, dark: bool = False, touch: bool = False, media: str = "") -> None:
        """The size of the window in pixels, the reader's mode, what points, and the medium (the screen by default)."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=touch)
        self.call("Emulation.setTouchEmulationEnabled", enabled=touch)
        mode = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=media, features=[mode])

    def open(self, path: Path) -> None:
        """Opens a file, and waits until it is there and in front, since what is behind is not drawn."""
        self.complaints.clear()
        self.requests.clear()
        self.call("Page.navigate", url=path.as_uri())
        self.call("Page.bringToFront")
        self.wait("document.readyState === 'complete' && location.protocol === 'file:'")

    def visit(self, address: str) -> None:
        """Opens a page of a server on this machine, and waits until it is there and in front."""
        self.complaints.clear()
        self.requests.clear()
        self.call("Page.navigate", url=address)
        self.call("Page.bringToFront")
        self.wait(f"document.readyState === 'complete' && location.href === {json.dumps(address)}")

    def evaluate(self, expression: str) -> Any:
        """A JavaScript expression's value."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, condition: str) -> None:
        """Until a JavaScript expression is true."""
        self.until(lambda: bool(self.evaluate(condition)), condition)

    def until(self, holds: Callable[[], bool], what: str) -> None:
        """Until something holds, which may depend on what the browser tells meanwhile."""
        until = time.monotonic() + PATIENCE_SECONDS
        while not holds():
            assert time.monotonic() < until, f"{what}: {self.complaints}"
            time.sleep(0.03)
            self.evaluate("0")

    def point(self, x: float, y: float, click: bool = False) -> None:
        """Moves the mouse to a place in the window, and clicks there."""
        kinds = ("mouseMoved", "mousePressed", "mouseReleased") if click else ("mouseMoved",)
        for kind in kinds:
            pressed = {"button": "left", "clickCount": 1} if kind != "mouseMoved" else {}
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **pressed)

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Presses the mouse at a place in the window and lets it go at another."""
        steps = [("mouseMoved", start), ("mousePressed", start), ("mouseMoved", end), ("mouseReleased", end)]
        for kind, (x, y) in steps:
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    def screenshot(self) -> bytes:
        """A PNG of the window."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

"""Headless Chromium through the DevTools protocol, for tests of what a page really does in a browser."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import websocket

_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-allow-origins=*",
    "--remote-debugging-port=0",
]
_SECONDS = 60.0


def executable() -> str | None:
    """The browser: $CHROMIUM, or the first known name on the PATH; None where there is none."""
    names = [os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]
    return next((found for name in names if name and (found := shutil.which(name))), None)


class Page:
    """One open page: what it requested and complained of, and a way to ask it things."""

    def __init__(self, socket: websocket.WebSocket) -> None:
        self._socket = socket
        self._sent = 0
        self.requests: list[str] = []
        self.complaints: list[str] = []  # exceptions, console errors and warnings, log entries
        self._events: set[str] = set()
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: object) -> dict[str, Any]:
        """Call a DevTools method and wait for its answer; events that arrive before are kept."""
        self._sent += 1
        self._socket.send(json.dumps({"id": self._sent, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == self._sent:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']['message']}")
                return dict(message["result"])
            self._note(message)

    def open(self, path: Path) -> None:
        """Load a local file and wait until it has loaded and drawn a frame."""
        self._events.discard("Page.loadEventFired")
        self.send("Page.navigate", url=path.resolve().as_uri())
        while "Page.loadEventFired" not in self._events:
            self._note(json.loads(self._socket.recv()))
        self.settle()

    def settle(self) -> None:
        """Let timers and frames that are due happen, so that late errors and requests are seen."""
        self.js("new Promise(done => setTimeout(() => requestAnimationFrame(() => requestAnimationFrame(done)), 300))")

    def resize(self, width: int, height: int = 900) -> None:
        """Emulate a window of this size in CSS pixels."""
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        self.settle()

    def dark(self, on: bool = True) -> None:
        feature = {"name": "prefers-color-scheme", "value": "dark" if on else "light"}
        self.send("Emulation.setEmulatedMedia", features=[feature])
        self.settle()

    def js(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited if it is a promise.

        Raises:
            RuntimeError: the expression threw.
        """
        answer = self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"].get("exception", {}).get("description", "JavaScript error"))
        return answer["result"].get("value")

    def screenshot(self, path: Path) -> Path:
        """The whole page as a PNG."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", captureBeyondViewport=True)["data"]))
        return path

    def _note(self, message: dict[str, Any]) -> None:
        method, parameters = message.get("method", ""), message.get("params", {})
        self._events.add(method)
        if method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(parameters["exceptionDetails"]))
        elif method == "Log.entryAdded":
            self.complaints.append(parameters["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning", "assert"):
            self.complaints.append(" ".join(str(argument.get("value")) for argument in parameters["args"]))


@contextmanager
def browser() -> Iterator[Page]:
    """A new browser with a profile of its own and one blank page; both are gone afterwards.

    Raises:
        RuntimeError: there is no browser, or it did not start within a minute.
    """
    program = executable()
    if program is None:
        raise RuntimeError("no Chromium found: put chromium on the PATH or its path into CHROMIUM")
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        command = [program, *_FLAGS, f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            with _connected(process, Path(profile)) as socket:
                yield Page(socket)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def _connected(process: subprocess.Popen[bytes], profile: Path) -> Iterator[websocket.WebSocket]:
    """The DevTools connection to a page of its own; its events come over the same socket."""
    port, address = _listening(process, profile / "DevToolsActivePort")
    root = websocket.create_connection(f"ws://127.0.0.1:{port}{address}", timeout=_SECONDS)
    try:
        root.send(json.dumps({"id": 1, "method": "Target.createTarget", "params": {"url": "about:blank"}}))
        while (message := json.loads(root.recv())).get("id") != 1:
            pass
        target = message["result"]["targetId"]
    finally:
        root.close()
    socket = websocket.create_connection(f"ws://127.0.0.1:{port}/devtools/page/{target}", timeout=_SECONDS)
    try:
        yield socket
    finally:
        socket.close()


def _listening(process: subprocess.Popen[bytes], announced: Path) -> tuple[int, str]:
    """Port and path of the browser's DevTools socket, as it writes them into its profile."""
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        lines = announced.read_text().splitlines() if announced.exists() else []
        if len(lines) == 2:
            return int(lines[0]), lines[1]
        time.sleep(0.05)
    raise RuntimeError("Chromium did not start")

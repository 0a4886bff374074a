"""As much of the W3C WebDriver protocol as the browser test needs, spoken to chromedriver over
loopback."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
_FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
          "--disable-background-networking", "--disable-component-update", "--window-size=1200,1400")  # fmt: skip
_LIMIT_S = 30.0


class Browser:
    """One headless Chromium."""

    def __init__(self, base: str, profile: Path) -> None:
        self._base = base
        options = {"args": [*_FLAGS, f"--user-data-dir={profile}"]}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        session = self._send("POST", "", {"capabilities": {"alwaysMatch": wanted}})
        self._base = f"{base}/{session['sessionId']}"

    def go(self, url: str) -> None:
        self._send("POST", "/url", {"url": url})

    def run(self, script: str, *arguments: Any) -> Any:
        """The value of a script in the page; `arguments` are its `arguments`."""
        return self._send("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def find(self, css: str) -> str:
        return self._send("POST", "/element", {"using": "css selector", "value": css})[_ELEMENT]

    def type(self, css: str, text: str) -> None:
        """Type into an element, or give a file input its paths."""
        self._send("POST", f"/element/{self.find(css)}/value", {"text": text})

    def click(self, css: str) -> None:
        self._send("POST", f"/element/{self.find(css)}/click", {})

    def text(self, css: str) -> str:
        return self._send("GET", f"/element/{self.find(css)}/text")

    def press(self, key: str) -> None:
        """One key, to whatever has the focus."""
        actions = [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        self._send("POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})

    def wait(self, what: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + _LIMIT_S
        while not (value := what()):
            assert time.monotonic() < deadline, "the page did not get there in time"
            time.sleep(0.05)
        return value

    def complaints(self) -> list[str]:
        """What the page wrote to the console at level SEVERE: errors, and what its security policy
        stopped."""
        entries = self._send("POST", "/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] == "SEVERE"]

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._send("GET", "/screenshot")))

    def quit(self) -> None:
        self._send("DELETE", "")

    def _send(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._base + path, data=data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=_LIMIT_S) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path}: {error.read().decode()[:400]}") from error


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """Start chromedriver and a browser with a fresh profile; both are gone afterwards."""
    try:
        driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, text=True)
    except FileNotFoundError as error:
        raise AssertionError("this test needs Debian's chromium and chromium-driver: install them") from error
    try:
        assert driver.stdout is not None
        port = next(match[1] for line in driver.stdout if (match := re.search(r"successfully on port (\d+)", line)))
        opened = Browser(f"http://127.0.0.1:{port}/session", profile)
        try:
            yield opened
        finally:
            opened.quit()
    finally:
        driver.terminate()
        driver.wait(10)

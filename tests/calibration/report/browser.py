"""A page as headless Chromium shows it, through chromedriver's own protocol (W3C WebDriver) and the standard library."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


class Browser:
    """One window."""

    def __init__(self, url: str, profile: Path) -> None:
        options = {"args": [*FLAGS, f"--user-data-dir={profile}"], "binary": shutil.which("chromium")}
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        found = _call("POST", f"{url}/session", {"capabilities": {"alwaysMatch": wanted}})
        self._url = f"{url}/session/{found['sessionId']}"

    def show(self, page: Path, width: int, scheme: str) -> None:
        """Opens a file as a phone (below 500 px) or a desktop, light or dark."""
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        self._devtools("Emulation.setDeviceMetricsOverride", metrics)
        media = [{"name": "prefers-color-scheme", "value": scheme}]
        self._devtools("Emulation.setEmulatedMedia", {"features": media})
        _call("POST", f"{self._url}/url", {"url": page.as_uri()})

    def ask(self, script: str) -> Any:
        return _call("POST", f"{self._url}/execute/sync", {"script": f"return {script}", "args": []})

    def console(self) -> list[str]:
        return [entry["message"] for entry in _call("POST", f"{self._url}/se/log", {"type": "browser"})]

    def requests(self) -> list[str]:
        """Addresses asked for since the last call."""
        events = _call("POST", f"{self._url}/se/log", {"type": "performance"})
        messages = [json.loads(event["message"])["message"] for event in events]
        return [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]

    def picture(self, path: Path) -> None:
        """Writes the whole page as PNG."""
        width, height = self.ask("[document.documentElement.clientWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        shot = self._devtools("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        _call("DELETE", self._url)

    def _devtools(self, command: str, parameters: dict[str, Any]) -> Any:
        return _call("POST", f"{self._url}/goog/cdp/execute", {"cmd": command, "params": parameters})


@contextmanager
def open_browser(folder: Path) -> Iterator[Browser]:
    """Starts chromedriver and Chromium with a profile of their own; fails where one of them is missing."""
    for program in ("chromium", "chromedriver"):
        if shutil.which(program) is None:
            pytest.fail(
                f"{program} is not installed, and the report cannot be looked at without it: "
                "apt-get install chromium chromium-driver (make test does so as root)"
            )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    driver = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_for(f"{url}/status")
        browser = Browser(url, folder / "profile")
        try:
            yield browser
        finally:
            browser.close()
    finally:
        driver.terminate()
        driver.wait()


def _wait_for(url: str, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            _call("GET", url)
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def _call(method: str, url: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # this machine, whatever proxy is set
    with opener.open(request, timeout=120) as answer:
        return json.load(answer)["value"]

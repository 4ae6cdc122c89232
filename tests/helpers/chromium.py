"""A headless Chromium, driven over the DevTools protocol: real pages, real clicks, real keys.

https://chromedevtools.github.io/devtools-protocol/ describes the methods and events that are used here.
"""

import base64
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

TIMEOUT_SECONDS = 20.0
"""Seconds to wait for a page or for the browser."""

VIEWER_READY = "document.querySelector('main')?.getAttribute('aria-busy') === 'false'"
"""True when the episode viewer has unpacked its episodes."""

LEAST_CONTRAST = 4.5
"""Of a text to its background (WCAG 2.2, 1.4.3)."""

CONTRASTS = """((selectors) => {
  const canvas = Object.assign(document.createElement("canvas"), { width: 1, height: 1 })
    .getContext("2d", { willReadFrequently: true });
  const light = (colour) => {
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((c) => c / 255)
      .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const { backgroundColor } = getComputedStyle(e);
      if (backgroundColor !== "rgba(0, 0, 0, 0)") return backgroundColor;
    }
  };
  return selectors.flatMap((s) => [...document.querySelectorAll(s)].filter((e) => e.checkVisibility())).map((e) => {
    const [a, b] = [light(getComputedStyle(e).color), light(behind(e))];
    return [`${e.className} ${e.innerText}`, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)];
  });
})"""

KEY_CODES = {"ArrowDown": 40, "ArrowUp": 38, "ArrowLeft": 37, "ArrowRight": 39, "Escape": 27, "Enter": 13, "Tab": 9}


class Page:
    """One tab, with all that it asked the network for and all that it complained of."""

    def __init__(self, connection: ClientConnection) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self._connection = connection
        self._ids = itertools.count(1)
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: object) -> dict[str, Any]:
        """One method of the protocol; events that come before its answer are noted."""
        number = next(self._ids)
        message = {"id": number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        self._connection.send(json.dumps(message))
        while True:
            answer = json.loads(self._connection.recv(timeout=TIMEOUT_SECONDS))
            if answer.get("id") == number:
                assert "error" not in answer, answer["error"]
                return dict(answer["result"])
            self._note(answer.get("method", ""), answer.get("params", {}))

    def _note(self, event: str, params: dict[str, Any]) -> None:
        if event == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif event == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"]))
        elif event == "Runtime.consoleAPICalled":
            self.complaints.append(str(params["args"]))
        elif event == "Log.entryAdded":
            self.complaints.append(params["entry"]["text"])

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page, promises awaited."""
        done = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def wait_for(self, expression: str) -> None:
        """Wait until a JavaScript expression is true."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not self.evaluate(f"Boolean({expression})"):
            assert time.monotonic() < deadline, f"never true: {expression}; {self.complaints}"
            time.sleep(0.02)

    def open(self, address: str, ready: str = VIEWER_READY) -> None:
        """Open an address in the tab as if it were new, and wait until the expression `ready` is true."""
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=address)
        self.wait_for(ready)

    def contrasts(self, *selectors: str) -> list[tuple[str, float]]:
        """The visible elements that selectors find, each with the contrast of its text to its background."""
        return [(name, ratio) for name, ratio in self.evaluate(f"{CONTRASTS}({json.dumps(selectors)})")]

    def texts(self, selector: str) -> list[str]:
        """The texts of the visible elements that a selector finds."""
        found = self.evaluate(
            f"[...document.querySelectorAll({json.dumps(selector)})].filter((e) => e.checkVisibility())"
            ".map((e) => e.textContent)"
        )
        return list(found)

    def click(self, selector: str) -> None:
        """Click in the middle of the first visible element that a selector finds."""
        box = self.evaluate(
            f"(() => {{ const found = [...document.querySelectorAll({json.dumps(selector)})]"
            ".find((e) => e.checkVisibility()); found.scrollIntoView({block: 'center'});"
            "const box = found.getBoundingClientRect();"
            "return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def press(self, key: str, times: int = 1) -> None:
        """Press a key: a character or a name such as `ArrowDown`."""
        code = KEY_CODES.get(key, ord(key[0].upper()))
        for _ in range(times):
            typed = {"text": "\r" if key == "Enter" else key} if len(key) == 1 or key == "Enter" else {}
            self.call("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **typed)
            self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def write(self, text: str) -> None:
        """Type into the field that has the focus."""
        self.call("Input.insertText", text=text)

    def choose(self, selector: str, option: str) -> None:
        """Choose the option of a menu whose text begins with `option`."""
        self.evaluate(
            f"(() => {{ const menu = document.querySelector({json.dumps(selector)});"
            f"const found = [...menu.options].find((o) => o.text.startsWith({json.dumps(option)}));"
            "if (!found) throw new Error('options: ' + [...menu.options].map((o) => o.text));"
            "menu.value = found.value; menu.dispatchEvent(new Event('change', {bubbles: true})); })()"
        )

    def look(self, *, width: int = 1360, height: int = 850, dark: bool = False) -> None:
        """Set the window's size in pixels and the colour scheme that the reader prefers."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self, path: Path) -> None:
        """What the tab shows, as a PNG file."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


@contextmanager
def chromium(profile: Path) -> Iterator[Page]:
    """A tab of a Chromium of its own; the test is skipped where none is installed."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no Chromium is installed: install it to have the episode viewer opened and clicked")
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium refuses its sandbox to root
    browser = subprocess.Popen(
        [
            program, "--headless", "--remote-debugging-port=0", f"--user-data-dir={profile}", *sandbox,
            "--no-first-run", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
            "--disable-component-update", "--disable-sync", "about:blank",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        with connect(_address(profile, browser), max_size=None) as connection:
            yield Page(connection)
    finally:
        browser.terminate()
        browser.wait(timeout=TIMEOUT_SECONDS)


def _address(profile: Path, browser: "subprocess.Popen[bytes]") -> str:
    """Where the browser listens: it writes its port and path into its profile."""
    note = profile / "DevToolsActivePort"
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not (note.is_file() and note.read_text().count("\n")):
        assert browser.poll() is None, f"Chromium ended with status {browser.returncode}"
        assert time.monotonic() < deadline, "Chromium does not start"
        time.sleep(0.05)
    port, path = note.read_text().splitlines()
    return f"ws://127.0.0.1:{port}{path}"

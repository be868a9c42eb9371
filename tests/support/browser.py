"""A real Chromium, driven over its DevTools protocol: things are found as a person finds them, by role and name."""

import base64
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

from tests.support.gateway import TOKEN
from tests.support.toril import TorilProcess

PATIENCE_S = 40.0
PROGRAMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
"""The one without windows takes two thirds of the CPU of the others."""


def chromium() -> str:
    """The path of Chromium; skips the test where there is none, which CI does not allow."""
    found = next((path for name in PROGRAMS if (path := shutil.which(name))), None)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("CI needs Chromium: apt-get install chromium-headless-shell")
        pytest.skip("Chromium is not installed: apt-get install chromium-headless-shell")
    return found


@contextmanager
def browser() -> Iterator["Browser"]:
    """A separate Chromium, without a window, for the length of a block."""
    with tempfile.TemporaryDirectory(prefix="toril-chromium-", ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [
                chromium(), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                "--no-first-run", "--disable-extensions", "--disable-background-networking",
                "--disable-component-update", "--hide-scrollbars",
                "--renderer-process-limit=1", "--disable-features=SpareRendererForSitePerProcess",
                "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Debian's command is a script: ending that alone would leave the browser
        )  # fmt: skip
        try:
            address = _address(Path(profile) / "DevToolsActivePort")
            with connect(address, max_size=None, open_timeout=PATIENCE_S) as socket:
                yield Browser(socket, process.pid)
        finally:
            _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a browser with all of its processes, which are a group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    process.wait(PATIENCE_S)
    deadline = time.monotonic() + PATIENCE_S
    with contextlib.suppress(ProcessLookupError):
        while True:
            os.killpg(process.pid, 0 if time.monotonic() < deadline else signal.SIGKILL)
            time.sleep(0.01)


def _address(file: Path) -> str:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError):
            port, path = file.read_text().split("\n")[:2]
            return f"ws://127.0.0.1:{port}{path}"
        time.sleep(0.02)
    raise AssertionError("Chromium has not said where it listens")


class Browser:
    """One connection to Chromium, and the tabs in it; `pid` is of what was started."""

    def __init__(self, socket: ClientConnection, pid: int) -> None:
        self.pid = pid
        self._socket = socket
        self._number = 0
        self._targets: list[str] = []
        self.tabs: dict[str, Tab] = {}

    def call(self, method: str, session: str | None = None, /, **params: Any) -> dict[str, Any]:
        """Send one command and return its result; what else arrives meanwhile goes to its tab."""
        self._number += 1
        mine = self._number
        message: dict[str, Any] = {"id": mine, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        self._socket.send(json.dumps(message))
        while True:
            got = json.loads(self._socket.recv(PATIENCE_S))
            if got.get("id") == mine:
                if "error" in got:
                    raise BrowserRefused(f"{method}: {got['error']['message']}")
                result: dict[str, Any] = got["result"]
                return result
            tab = self.tabs.get(got.get("sessionId", ""))
            if tab is not None:
                tab.hear(got["method"], got["params"])

    def tab(self, *, width: int = 1440, height: int = 900, dark: bool = False) -> "Tab":
        """A new tab; `close_tabs` closes it."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = self.tabs[session] = Tab(self, session)
        self._targets.append(target)
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            tab.call(f"{domain}.enable")
        tab.resize(width, height, dark=dark)
        return tab

    def close_tabs(self) -> None:
        """Close all tabs, and forget what their pages stored. A page that stays open asks toril for news once a second.

        Tabs in contexts of their own would have separate storage too, but a context costs Chromium half a second.
        """
        for tab in self.tabs.values():
            for origin in {"/".join(url.split("/")[:3]) for url in tab.requested if url.startswith("http")}:
                tab.call("Storage.clearDataForOrigin", origin=origin, storageTypes="all")
        self.tabs.clear()
        while self._targets:
            self.call("Target.closeTarget", targetId=self._targets.pop())


class BrowserRefused(Exception):
    """Chromium answers a command with an error."""


class Tab:
    """One page, as a person has it.

    `complaints` are errors of its console, `requested` the URLs it has asked for, `documented` the paths in OpenAPI
    of the toril whose dashboard it shows.
    """

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session
        self.complaints: list[str] = []
        self.requested: list[str] = []
        self.documented = re.compile("")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send one command to this tab."""
        return self._browser.call(method, self._session, **params)

    def hear(self, method: str, params: dict[str, Any]) -> None:
        """Part of Browser."""
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert", "warning"):
            self.complaints.append(" ".join(str(arg.get("value", arg.get("description"))) for arg in params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.complaints.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        elif method == "Network.requestWillBeSent":
            self.requested.append(params["request"]["url"])

    def resize(self, width: int, height: int, *, dark: bool = False) -> None:
        """Give the page this many CSS pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        still = {"name": "prefers-reduced-motion", "value": "reduce"}
        self.call("Emulation.setEmulatedMedia", features=[theme, still])

    def turn(self, width: int, height: int, *, dark: bool = False) -> None:
        """Give a page that is shown another size and theme, and wait until it is laid out for them.

        The layout follows from CSS alone, so this shows what opening the page at that size would, for less CPU.
        """
        self.resize(width, height, dark=dark)
        wanted = f"(width: {width}px) and (prefers-color-scheme: {'dark' if dark else 'light'})"
        self.until(f"matchMedia({json.dumps(wanted)}).matches", f"the page in {wanted}")

    def open(self, url: str) -> None:
        """Go to an address, as if it had been typed."""
        self.call("Page.navigate", url=url)

    def run(self, expression: str) -> Any:
        """What JavaScript says in the page."""
        got = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in got:
            raise BrowserRefused(str(got["exceptionDetails"].get("exception", {}).get("description")))
        return got["result"].get("value")

    @property
    def text(self) -> str:
        """What can be read on the page."""
        return str(self.run("document.body ? document.body.innerText : ''")).replace("\u00a0", " ")

    @property
    def address(self) -> str:
        """Path, query and fragment of the page."""
        return str(self.run("location.pathname + location.search + location.hash"))

    def until(self, expression: str, what: str = "") -> Any:
        """Wait until JavaScript says something true."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            with contextlib.suppress(BrowserRefused):  # a page that is just being left
                got = self.run(expression)
                if got:
                    return got
            time.sleep(0.03)
        raise AssertionError(f"waited in vain for {what or expression}; the page says:\n{self.text}\n{self.complaints}")

    def forget(self, *words: str) -> None:
        """Drop the complaints that the test has caused on purpose."""
        self.complaints[:] = [one for one in self.complaints if not any(word in one for word in words)]

    def shows(self, text: str) -> None:
        """Wait until a text can be read on the page."""
        wanted = json.dumps(text)
        self.until(f"document.body?.innerText.replaceAll('\\u00a0', ' ').includes({wanted})", f"the text {text!r}")

    def hides(self, text: str) -> None:
        """Wait until a text can no longer be read on the page."""
        wanted = json.dumps(text)
        self.until(f"!document.body?.innerText.replaceAll('\\u00a0', ' ').includes({wanted})", f"no text {text!r}")

    def find(self, role: str, name: str | None = None) -> list[int]:
        """The things of a role (and an accessible name) that are there now, as numbers of Chromium's."""
        document = self.call("DOM.getDocument", depth=0)["root"]["nodeId"]
        asked = {"role": role} if name is None else {"role": role, "accessibleName": name}
        nodes = self.call("Accessibility.queryAXTree", nodeId=document, **asked)["nodes"]
        return [node["backendDOMNodeId"] for node in nodes if not node.get("ignored")]

    def the(self, role: str, name: str) -> int:
        """Wait for the one thing of this role and name."""
        deadline = time.monotonic() + PATIENCE_S
        found: list[int] = []
        while time.monotonic() < deadline:
            with contextlib.suppress(BrowserRefused):
                found = self.find(role, name)
                if found:
                    return found[0]
            time.sleep(0.03)
        raise AssertionError(f"no {role} is called {name!r}; the page says:\n{self.text}\n{self.complaints}")

    def click(self, role: str, name: str) -> None:
        """Click the middle of a thing with the mouse, once it stands still: what loads above it moves it down."""
        deadline = time.monotonic() + PATIENCE_S
        before: list[float] = []
        while True:
            node = self.the(role, name)
            try:
                self.call("DOM.scrollIntoViewIfNeeded", backendNodeId=node)
                quad = self.call("DOM.getContentQuads", backendNodeId=node)["quads"][0]
                if quad == before:
                    break
                before = quad
            except (BrowserRefused, IndexError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        x, y = sum(quad[::2]) / 4, sum(quad[1::2]) / 4
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, role: str, name: str, text: str) -> None:
        """Replace what stands in a field."""
        node = self.the(role, name)
        self.call("DOM.focus", backendNodeId=node)
        self.run("document.activeElement.select?.()")
        if text:
            self.call("Input.insertText", text=text)
        else:
            self.press("Delete")

    def choose(self, role: str, name: str, value: str) -> None:
        """Choose an entry of a list by its value."""
        node = self.the(role, name)
        element = self.call("DOM.resolveNode", backendNodeId=node)["object"]["objectId"]
        function = "function(v) { this.value = v; this.dispatchEvent(new Event('change', {bubbles: true})); }"
        self.call(
            "Runtime.callFunctionOn", objectId=element, functionDeclaration=function, arguments=[{"value": value}]
        )

    def press(self, key: str, *, ctrl: bool = False, shift: bool = False) -> None:
        """Press and let go one key."""
        codes = {"Enter": 13, "Escape": 27, "Tab": 9, "Delete": 46, "ArrowDown": 40, "ArrowUp": 38, " ": 32}
        letter = len(key) == 1
        more: dict[str, Any] = {"modifiers": (2 if ctrl else 0) | (8 if shift else 0)}
        if letter and not ctrl:
            more["text"] = key
        if key == "Enter":
            more["text"] = "\r"
        code = codes.get(key, ord(key.upper()) if letter else 0)
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **more)

    def picture(self, file: Path, *, whole: bool = False) -> None:
        """Write a screenshot as PNG."""
        got = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(got["data"]))


def open_page(tab: Tab, toril: TorilProcess, page: str = "", *, token: str = TOKEN, below: str = "") -> None:
    """Open a page of the dashboard with the link that logs in; without a token, with a link that does not.

    `below` is the path that toril's own API is below.
    """
    paths = toril.client.get(f"{toril.url}{below}/openapi.json").json()["paths"]
    own = "|".join(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path)) for path in paths)
    tab.documented = re.compile(rf"{below}(?:{own}|/dashboard/.*)|{own}")
    tab.open(f"{toril.url}{below}/dashboard/{page}" + (f"#token={token}" if token else ""))

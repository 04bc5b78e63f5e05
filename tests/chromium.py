"""Headless Chromium for tests: one process, driven through its DevTools protocol, with a bound on every wait.

A page here is a `Tab`; what it asks of the network and what it says in its console is kept. Nothing leaves the machine.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from pipeline.children import Child

PATH = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
#: To start and to show an empty page; a healthy one takes two seconds, ten on a busy machine.
START_S = 30.0
ANSWER_S = 60.0


class BrowserError(Exception):
    """It refused what it was asked."""


class BrowserLost(Exception):
    """It did not answer in time, or has died."""


@dataclass
class Tab:
    """One page.

    Attributes:
        console: what it complained of: messages, uncaught errors, blocked or failed loads.
        requests: URLs it asked for.
        loaded: loads (by the protocol's name) that are complete.
    """

    browser: Browser
    session: str
    target: str
    console: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    loaded: set[str] = field(default_factory=set)

    def open(self, page: Path) -> None:
        """Show a file; returns when it is loaded, with all it loads."""
        loader = self.call("Page.navigate", url=page.as_uri())["loaderId"]
        self.browser.until(lambda: loader in self.loaded)

    def evaluate(self, expression: str) -> Any:
        """Value of a JavaScript expression. The page's own ban of scripts does not apply."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise BrowserError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def screenshot(self, path: Path, whole: bool = False) -> None:
        """A PNG of what is to be seen, or of the whole page."""
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))

    def call(self, method: str, **params: object) -> dict[str, Any]:
        """One call of the protocol."""
        return self.browser.call(method, self.session, **params)


class Browser:
    """A running Chromium.

    Args:
        folder: for its profile.

    Raises:
        BrowserLost: it does not start within `START_S`.

    Attributes:
        answer_s: bound for anything it is asked.
    """

    def __init__(self, folder: Path) -> None:
        assert PATH is not None
        profile = folder / "profile"
        self._child = Child(
            [
                *(PATH, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"),
                *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
                *("--disable-dev-shm-usage", f"--user-data-dir={profile}", "--remote-debugging-port=0"),
                *("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "about:blank"),
            ]
        )
        self.answer_s = ANSWER_S
        self._loop = asyncio.new_event_loop()
        self._ids = itertools.count()
        self._tabs: dict[str, Tab] = {}
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._client: aiohttp.ClientSession | None = None
        try:
            port, path = self._endpoint(profile / "DevToolsActivePort")
            self._wait(self._connect(f"ws://127.0.0.1:{port}{path}"), START_S)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End it, whatever state it is in."""
        # First the process, so that nobody asks it to say goodbye.
        self._child.kill()
        if self._client is not None:
            with suppress(BrowserLost):
                self._wait(self._client.close(), 5.0)
        self._loop.close()

    @contextmanager
    def tab(self, width: int = 1280, height: int = 900, dark: bool = False, scale: float = 1.0) -> Iterator[Tab]:
        """An empty page of this size, in pixels of CSS; `scale` pixels of the screen each."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = self._tabs[session] = Tab(self, session, target)
        for domain in ("Page", "Runtime", "Log", "Network"):
            tab.call(f"{domain}.enable")
        tab.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=False
        )
        tab.call("Page.setLifecycleEventsEnabled", enabled=True)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        tab.call("Emulation.setEmulatedMedia", features=[scheme])
        yield tab
        # Only after a good end: a page that hangs would not let itself be closed either.
        self.call("Target.closeTarget", targetId=target)

    def call(self, method: str, session: str | None = None, **params: object) -> dict[str, Any]:
        """One call of the protocol, at most `answer_s`."""
        return self._wait(self._call(method, session, params), self.answer_s)

    def until(self, condition: Any) -> None:
        """Listen until the condition holds, at most `answer_s`."""
        self._wait(self._until(condition), self.answer_s)

    def _endpoint(self, file: Path) -> list[str]:
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            lines = file.read_text().splitlines() if file.exists() else []
            if len(lines) == 2:
                return lines
            if self._child.process.poll() is not None:
                raise BrowserLost(f"Chromium ended at once: {self._child.stderr[-2000:]}")
            time.sleep(0.05)
        raise BrowserLost(f"Chromium did not start within {START_S:g} s: {self._child.stderr[-2000:]}")

    async def _connect(self, url: str) -> None:
        self._client = aiohttp.ClientSession(trust_env=False)
        self._socket = await self._client.ws_connect(url, max_msg_size=0, autoping=True)

    def _wait(self, doing: Any, seconds: float) -> Any:
        try:
            return self._loop.run_until_complete(asyncio.wait_for(doing, seconds))
        except TimeoutError as error:
            raise BrowserLost(f"Chromium did not answer within {seconds:g} s") from error

    async def _call(self, method: str, session: str | None, params: Mapping[str, object]) -> dict[str, Any]:
        assert self._socket is not None
        number = next(self._ids)
        message = {"id": number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        await self._socket.send_json(message)
        while True:
            answer = await self._listen()
            if answer.get("id") == number:
                if "error" in answer:
                    raise BrowserError(f"{method}: {answer['error']}")
                return answer["result"]

    async def _until(self, condition: Any) -> None:
        while not condition():
            await self._listen()

    async def _listen(self) -> dict[str, Any]:
        assert self._socket is not None
        message = await self._socket.receive()
        if message.type is not aiohttp.WSMsgType.TEXT:
            raise BrowserLost(f"Chromium is gone ({message.type.name}): {self._child.stderr[-2000:]}")
        answer: dict[str, Any] = message.json()
        tab = self._tabs.get(answer.get("sessionId", ""))
        if tab is not None and "method" in answer:
            _note(tab, answer["method"], answer["params"])
        return answer


def _note(tab: Tab, event: str, params: Mapping[str, Any]) -> None:
    if event == "Page.lifecycleEvent" and params["name"] == "load":
        tab.loaded.add(params["loaderId"])
    elif event == "Network.requestWillBeSent":
        tab.requests.append(params["request"]["url"])
    elif event == "Runtime.consoleAPICalled":
        tab.console.append(" ".join(str(each.get("value", each.get("description"))) for each in params["args"]))
    elif event == "Runtime.exceptionThrown":
        tab.console.append(str(params["exceptionDetails"]))
    elif event == "Log.entryAdded":
        tab.console.append(params["entry"]["text"])

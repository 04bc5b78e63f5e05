"""The page in a real browser, headless: no error, no outside request, text stays text, fits a phone, light and dark.

Skipped where there is no Chromium (`make browser` installs it); test_page.py covers what can be told without one.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.report import build_report
from tests.pipeline.report import outputs
from tests.pipeline.report.pages import Page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine; `make browser` installs it")

#: Finds what sticks out sideways. Added to a copy of the page: the page itself allows no scripts. The copy stands in
#: a frame of the wanted width, since a headless window is never narrower than 500 px.
PROBE = """<script>
const wide = [...document.querySelectorAll("body *")].filter(e => !e.closest(".scroll") && !e.closest("svg")
  && (e.getBoundingClientRect().right > innerWidth + 1 || e.getBoundingClientRect().left < -1));
parent.document.body.dataset.probe = JSON.stringify({inner: innerWidth, scroll: document.documentElement.scrollWidth,
  wide: wide.map(e => e.tagName + "." + e.className), background: getComputedStyle(document.body).backgroundColor});
</script></body>"""
POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')


@dataclass
class Browser:
    """Headless Chromium whose every request to another machine ends at a local recorder."""

    profile: Path
    port: int
    requests: list[str]

    def open(
        self, page: Path, *options: str, width: int = 1280, height: int = 900, dark: bool = False
    ) -> tuple[str, str]:
        """Returns what the browser prints (the DOM, if asked for) and the lines it logs."""
        assert CHROMIUM is not None
        command = [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"),
            *(
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--disable-dev-shm-usage",
            ),
            *("--enable-logging=stderr", f"--user-data-dir={self.profile}", f"--window-size={width},{height}"),
            f"--host-resolver-rules=MAP * 127.0.0.1:{self.port}",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            *options,
            page.as_uri(),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)
        return done.stdout, done.stderr


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    requests: list[str] = []

    class Recorder(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(f"http://{self.headers.get('Host')}{self.path}")
            self.send_response(404)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Recorder)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Browser(tmp_path_factory.mktemp("profile"), server.server_port, requests)
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with everything on it: failures, warnings, long names, hostile text, two prompts."""
    folder = tmp_path_factory.mktemp("out")
    place = "s3://corpus/" + "a_long_folder_name_without_any_space_" * 4
    uris = [f"{place}/clip_without_any_space_{index:06d}.mp4" for index in range(200)]
    prompts = {"caption": "Describe this video.", "<b>rain</b>": "Is it <i>raining</i>?"}
    plan = outputs.manifest(200, prompts, samples=30, uris=uris)
    good, bad = np.arange(170), np.arange(170, 190)
    log = outputs.events(200, 170, 20, outcome="interrupted")
    answers = outputs.results(plan, good).slice(1)  # one answer is missing: a warning
    build_report(outputs.write(folder, plan, answers, outputs.failures(plan, bad), log))
    return folder / "report.html"


@pytest.fixture(scope="module")
def report_with_a_past(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with history, estimate, quality and cost without compression."""
    return Path(outputs.nights(tmp_path_factory.mktemp("nights"), count=9), "report.html")


def console(log: str) -> list[str]:
    return [line for line in log.splitlines() if "CONSOLE" in line]


def test_no_error_no_request_and_text_stays_text(browser: Browser, report: Path) -> None:
    browser.requests.clear()
    dom, log = browser.open(report, "--dump-dom")
    assert console(log) == []
    assert [request for request in browser.requests if "outside.test" in request] == []
    page = Page.of(dom)
    assert page.count("script") == 0
    assert re.sub(r"\s+", " ", outputs.HOSTILE) in page.text
    assert "<title>demo: 170 of 200 clips done" in dom


def test_a_page_with_a_past_is_as_quiet(browser: Browser, report_with_a_past: Path) -> None:
    browser.requests.clear()
    dom, log = browser.open(report_with_a_past, "--dump-dom")
    assert console(log) == []
    assert [request for request in browser.requests if "test" in request] == []
    assert "Compared with earlier runs" in Page.of(dom).text


def test_the_recorder_and_the_console_would_notice(browser: Browser, tmp_path: Path) -> None:
    control = tmp_path / "control.html"
    control.write_text('<img src="http://outside.test/x.png"><script>console.error("noticed")</script>')
    browser.requests.clear()
    _, log = browser.open(control, "--dump-dom")
    assert "noticed" in "".join(console(log))
    assert any(request.startswith("http://outside.test") for request in browser.requests)


@pytest.mark.parametrize(("width", "dark"), [(390, False), (390, True), (1280, False), (1280, True)])
@pytest.mark.parametrize("name", ["report", "report_with_a_past"])
def test_layout(
    browser: Browser, request: pytest.FixtureRequest, name: str, tmp_path: Path, width: int, dark: bool
) -> None:
    report: Path = request.getfixturevalue(name)
    copy = POLICY.sub("", report.read_text(encoding="utf-8")).replace("<details>", "<details open>")
    framed = html.escape(copy.replace("</body>", PROBE))
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<body style="margin: 0"><iframe width="{width}" height="800" style="border: 0" srcdoc="{framed}">'
    )
    dom, _ = browser.open(frame, "--dump-dom", dark=dark)
    body = next(attributes for tag, attributes in Page.of(dom).tags if tag == "body")
    found = json.loads(body["data-probe"])
    assert found["inner"] == width
    assert found["wide"] == []
    assert found["scroll"] <= width
    red = int(re.findall(r"\d+", found["background"])[0])
    assert red < 60 if dark else red > 200


def test_a_picture_of_the_page_is_not_empty(browser: Browser, report: Path, tmp_path: Path) -> None:
    picture = tmp_path / "page.png"
    browser.open(report, f"--screenshot={picture}", width=390, height=844)
    image = Image.open(picture).convert("L")
    assert image.size == (390, 844)
    shades = image.getcolors(256)
    assert shades is not None
    assert len(shades) > 30

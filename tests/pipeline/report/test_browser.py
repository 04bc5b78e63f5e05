"""The page in a real browser, headless: no error, no outside request, text stays text, fits a phone, light and dark.

Skipped where there is no Chromium (`make browser` installs it) or where it does not show even an empty page;
test_page.py covers what can be told without one. All tests share one process of it: some machines let it hang inside
the kernel, and fewer starts meet that less often. A page that hangs fails its test only if a fresh Chromium is well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.report import build_report
from pipeline.report.records import Metrics
from tests import chromium
from tests.chromium import Browser, BrowserError, BrowserLost, Tab
from tests.pipeline.report import outputs

pytestmark = pytest.mark.skipif(chromium.PATH is None, reason="no Chromium on this machine; `make browser` installs it")

#: What sticks out sideways, of a page with everything unfolded.
PROBE = """(() => {
document.querySelectorAll("details").forEach(e => e.open = true);
const wide = [...document.querySelectorAll("body *")].filter(e => !e.closest(".scroll") && !e.closest("svg")
  && (e.getBoundingClientRect().right > innerWidth + 1 || e.getBoundingClientRect().left < -1));
return {inner: innerWidth, scroll: document.documentElement.scrollWidth,
  wide: wide.map(e => e.tagName + "." + e.className), background: getComputedStyle(document.body).backgroundColor};
})()"""


class Shared:
    """One browser for all tests; replaced after a page made it hang, given up when the machine does."""

    def __init__(self, folders: pytest.TempPathFactory) -> None:
        self._folders = folders
        self._browser: Browser | None = None
        self._given_up = ""

    @contextmanager
    def tab(self, width: int = 1280, height: int = 900, dark: bool = False) -> Iterator[Tab]:
        if self._browser is None and not self._given_up:
            self._start()
        if self._browser is None:
            pytest.skip(self._given_up)
        try:
            with self._browser.tab(width, height, dark) as tab:
                yield tab
        except BrowserLost as error:
            self.close()
            self._start()
            if self._browser is None:
                pytest.skip(self._given_up)
            pytest.fail(f"this page stops the browser, and an empty one does not: {error}")

    def _start(self) -> None:
        folder = self._folders.mktemp("chromium")
        page = folder / "empty.html"
        page.write_text("<title>up</title>")
        try:
            self._browser = Browser(folder)
            with self._browser.tab() as tab:
                tab.open(page)
                assert tab.evaluate("document.title") == "up"
        except (BrowserLost, BrowserError) as error:
            self.close()
            self._given_up = f"Chromium does not work on this machine: {error}"

    def close(self) -> None:
        if self._browser is not None:
            self._browser.close()
        self._browser = None


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    shared = Shared(tmp_path_factory)
    yield shared
    shared.close()


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


def outside(tab: Tab) -> list[str]:
    return [url for url in tab.requests if not url.startswith(("file:", "data:"))]


def test_no_error_no_request_and_text_stays_text(browser: Shared, report: Path) -> None:
    with browser.tab() as tab:
        tab.open(report)
        assert tab.console == []
        assert outside(tab) == []
        assert tab.evaluate("document.scripts.length") == 0
        text = tab.evaluate("document.body.textContent")
        assert re.sub(r"\s+", " ", outputs.HOSTILE) in re.sub(r"\s+", " ", text)
        assert tab.evaluate("document.title").startswith("demo: 170 of 200 clips done")


def test_a_page_with_a_past_is_as_quiet(browser: Shared, report_with_a_past: Path) -> None:
    with browser.tab() as tab:
        tab.open(report_with_a_past)
        assert tab.console == []
        assert outside(tab) == []
        assert "Compared with earlier runs" in tab.evaluate("document.body.innerText")


def test_a_page_of_a_hundred_thousand_units(browser: Shared, hundred_thousand: tuple[Path, Metrics]) -> None:
    with browser.tab(390, 844) as tab:
        tab.open(hundred_thousand[0] / "report.html")
        assert tab.console == []
        assert outside(tab) == []
        assert "93,000 of 100,000 clips done" in tab.evaluate("document.body.innerText")
        assert tab.evaluate("document.querySelectorAll('*').length") < 5_000
        assert tab.evaluate(PROBE)["wide"] == []


def test_a_request_and_the_console_would_be_noticed(browser: Shared, tmp_path: Path) -> None:
    control = tmp_path / "control.html"
    control.write_text('<img src="http://outside.test/x.png"><script>console.error("noticed"); no.such</script>')
    with browser.tab() as tab:
        tab.open(control)
        assert outside(tab) == ["http://outside.test/x.png"]
        assert any("noticed" in line for line in tab.console)
        assert any("ReferenceError" in line for line in tab.console)


@pytest.mark.parametrize(("width", "dark"), [(390, False), (390, True), (1280, False), (1280, True)])
@pytest.mark.parametrize("name", ["report", "report_with_a_past"])
def test_layout(browser: Shared, request: pytest.FixtureRequest, name: str, width: int, dark: bool) -> None:
    report: Path = request.getfixturevalue(name)
    with browser.tab(width, 800, dark) as tab:
        tab.open(report)
        found = tab.evaluate(PROBE)
    assert found["inner"] == width
    assert found["wide"] == []
    assert found["scroll"] <= width
    red = int(re.findall(r"\d+", found["background"])[0])
    assert red < 60 if dark else red > 200


def test_a_picture_of_the_page_is_not_empty(browser: Shared, report: Path, tmp_path: Path) -> None:
    picture = tmp_path / "page.png"
    with browser.tab(390, 844) as tab:
        tab.open(report)
        tab.screenshot(picture)
    image = Image.open(picture).convert("L")
    assert image.size == (390, 844)
    shades = image.getcolors(256)
    assert shades is not None
    assert len(shades) > 30


def test_a_page_that_hangs_fails_its_test_alone(browser: Shared, report: Path, tmp_path: Path) -> None:
    page = tmp_path / "hangs.html"
    page.write_text("<script>for (;;) {}</script>")

    def open_in_a_hurry() -> None:
        with browser.tab() as tab:
            tab.browser.answer_s = 1.0
            tab.open(page)

    with pytest.raises(pytest.fail.Exception, match="this page stops the browser"):
        open_in_a_hurry()
    with browser.tab() as tab:
        tab.open(report)


def test_a_machine_whose_browser_hangs_skips(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chromium, "START_S", 0.0)
    shared = Shared(tmp_path_factory)
    for _ in range(2):
        with pytest.raises(pytest.skip.Exception, match="does not work on this machine"), shared.tab():
            pass

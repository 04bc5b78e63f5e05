"""The page without a browser: nothing foreign becomes markup, nothing is fetched, everything is said."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.report import build_report, charts, format
from pipeline.report.charts import Part
from pipeline.report.page import _throughput, _timeline
from pipeline.report.records import Moment
from pipeline.report.samples import choose, samples
from tests.pipeline.report import outputs
from tests.pipeline.report.pages import Page

PROMPT = {"caption": "Describe this video."}


def built(folder: str) -> Page:
    build_report(folder)
    return Page.of(Path(folder, "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    hostile = {"<b>id</b>": "<i>Describe</i> & list", "rain": "Is it raining?"}
    return built(outputs.demo(tmp_path_factory.mktemp("out"), prompts=hostile))


def test_the_markup_is_well_formed(page: Page) -> None:
    assert page.problems == []


def test_captions_messages_and_prompts_stay_text(page: Page) -> None:
    assert re.sub(r"\s+", " ", outputs.HOSTILE) in page.text
    assert outputs.HOSTILE_MESSAGE in page.text
    assert "<i>Describe</i> & list" in page.text
    assert page.count("script") == 0
    ours = {("b", None), ("i", "key"), ("img", None), ("bdi", None)}
    assert {(tag, (attrs.get("class") or "").split(" ")[0] or None) for tag, attrs in page.tags if tag in "bi"} <= ours


def test_nothing_is_fetched_and_nothing_runs(page: Page) -> None:
    for tag, attributes in page.tags:
        assert tag not in {"script", "link", "iframe", "object", "embed", "form", "base"}
        assert not [name for name in attributes if name.startswith("on") or name in {"srcset", "action"}]
        if "href" in attributes:
            assert tag == "a"
            assert re.match(r"#\w+$|https?://|file:///", attributes["href"])
        if "src" in attributes:
            assert re.fullmatch(r"data:image/jpeg;base64,[A-Za-z0-9+/=]+", attributes["src"])
        assert "url(" not in attributes.get("style", "")
    assert "url(" not in page.style
    assert "@import" not in page.style
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy


def test_the_page_says_what_matters(page: Page) -> None:
    for said in (
        "113 of 120 clips done, 7 failed.",
        "120 planned = 113 done 7 failed 0 pending",
        "Decode-bound",
        "Cost per video-hour",
        "Waiting for frames",
        "After merging",
        outputs.RUN_ID,
        "luvc-demo",
        "balanced",
        "torch 2.13.0",
        "9f31c0aa",
        "gpu_hour_usd: 2.5",
    ):
        assert said in page.text, said


@pytest.mark.parametrize(
    ("uri", "href"),
    [
        ("https://videos.test/a.mp4?b=1&c", "https://videos.test/a.mp4?b=1&c"),
        ("/data/a b#1.mp4", "file:///data/a%20b%231.mp4"),
        ("s3://corpus/a.mp4", ""),
        ("javascript:alert(1)", ""),
        ("JavaScript:alert(1)//https://", ""),
        ("data:text/html,x", ""),
        (" https://x", ""),
    ],
)
def test_only_what_a_browser_can_open_safely_is_a_link(uri: str, href: str) -> None:
    assert format.link(uri) == href


def test_failed_videos_are_linked_and_their_names_stay_text(tmp_path: Path) -> None:
    uris = ["/data/<b>.mp4", 'https://videos.test/"onclick=alert(1)', "javascript:alert(1)"]
    plan = outputs.manifest(3, PROMPT, uris=uris)
    log = outputs.events(3, 0, 3)
    page = built(outputs.write(tmp_path, plan, None, outputs.failures(plan, np.arange(3)), log))
    assert page.problems == []
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert sorted(links) == ["#failures", "file:///data/%3Cb%3E.mp4", 'https://videos.test/"onclick=alert(1)']
    assert all(uri in page.text for uri in uris)


def test_a_page_with_a_past(tmp_path: Path) -> None:
    page = built(outputs.nights(tmp_path, count=9))
    assert page.problems == []
    for said in (
        "Since the run before (2026-03-11 01:00 UTC): 22 % faster",
        "2 earlier runs in the curves only.",
        "This run without compression (measured on the quality slice)",
        "2.15 times as long; 95 % interval 2.15–2.15; measured on 20 clips, each answered alone both ways",
        "Expected before it began: 11 min 30 s and $0.61 for 120 clips",
        "It took 13 % less time and cost 73 % less.",
        "At list prices of g5.xlarge (A10G)",
        "20 clips of 22 chosen, picked by their ids, were also answered without compression",
        "2 clips of the quality slice could not be answered without compression: no room <b>without</b> compression.",
        "of tokens, in order (78 % to 94 %)",
        "agree-ment",
    ):
        assert said in page.text, said
    assert page.count("polyline") >= 3


def test_sparks_leave_gaps_and_end_in_a_dot() -> None:
    svg = charts.spark([1.0, None, 2.0, 4.0], ["a", "b", "<c>", "d"])
    assert svg.count('class="spark"') == 2
    assert 'd="M1000.00,8.00h0"' in svg
    assert "&lt;c&gt;" in svg
    assert "polyline" not in charts.spark([None, None], ["a", "b"])


def test_samples_carry_their_pictures(page: Page) -> None:
    assert page.count("img") >= 6


def test_other_states_are_well_formed_too(tmp_path: Path) -> None:
    plan = outputs.manifest(9, PROMPT)
    every = np.arange(9)
    cases = {
        "plan": outputs.write(tmp_path / "a", plan),
        "failed": outputs.write(tmp_path / "b", plan, None, outputs.failures(plan, every), outputs.events(9, 0, 9)),
        "no prices": outputs.write(
            tmp_path / "c", plan, outputs.results(plan, every), None, outputs.events(9, 9, 0), config={"name": "x"}
        ),
        "killed at once": outputs.write(tmp_path / "d", plan, log='{"t": "2026-'),
    }
    for name, folder in cases.items():
        assert built(folder).problems == [], name
    assert "No prices are set" in built(cases["no prices"]).text
    assert "not yet run" in built(cases["plan"]).text


def test_a_run_with_nothing_to_do_has_no_curves(page: Page) -> None:
    still = Moment("2026-01-01T00:00:00+00:00", 10.0, 0, 0, 0.0, 0, 0.0, {"encode": 0.0}, 0.0)
    busy = replace(still, units=3, units_per_s=0.3, busy={"encode": 0.5})
    for moments, shown in (([still] * 4, False), ([still, still, busy], True)):
        metrics: Any = SimpleNamespace(timeline=tuple(moments))
        assert bool(_throughput(metrics)) is bool(_timeline(metrics)) is shown


def test_a_broken_picture_is_left_out() -> None:
    plan = outputs.manifest(3, PROMPT)
    rows = outputs.results(plan, np.arange(3), pictures=False)
    fake = pa.array([b"<svg onload=alert(1)>", b"", outputs.jpeg(1)], pa.binary())
    rows = rows.set_column(rows.schema.names.index("thumbnail"), "thumbnail", fake)
    pictures = [sample.picture for sample in samples(rows, plan["unit_id"].to_pylist())]
    assert pictures[:2] == [None, None]
    assert pictures[2]


def test_samples_come_from_the_plan_and_are_topped_up() -> None:
    plan = outputs.manifest(100, PROMPT, samples=10)
    done = pa.chunked_array([plan["unit_id"].combine_chunks().slice(15, 60)])
    ids = choose(plan, done)
    assert ids[:6] == [f"u{index:08d}" for index in (20, 30, 40, 50, 60, 70)]
    assert len(ids) == 6
    assert len(choose(plan, done.slice(0, 3))) == 3
    assert choose(plan, pa.chunked_array([pa.array([], pa.string())])) == []


def test_bars_fill_their_width_and_escape_their_titles() -> None:
    svg = charts.bar([Part("ok", 3, "<three>"), Part("failed", 0, "none"), Part("pending", 1, "one")], 4)
    assert re.findall(r'width="([\d.]+%)" height', svg) == ["100%", "75.000%", "25.000%"]
    assert "&lt;three&gt;" in svg
    assert charts.bar([Part("ok", 0, "")], 0) == ""


def test_steps_are_as_wide_as_their_time() -> None:
    svg = charts.steps([1, 3], ["slow", "fast"], [30.0, 10.0]).svg
    assert "0.00,66.67 750.00,66.67 750.00,0.00 1000.00,0.00" in svg


@pytest.mark.parametrize("largest", [0.0, 0.03, 0.35, 1, 7, 99, 2048, 123_456])
def test_grid_lines_are_few_round_and_inside(largest: float) -> None:
    plot = charts.steps([largest], ["one"])
    assert 1 <= len(plot.ticks) <= 5
    assert all(0 <= share <= 1 for share, _ in plot.ticks)
    assert plot.top >= largest

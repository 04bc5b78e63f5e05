"""The sentences at the top of the page, the numbers in them, and what a run costs."""

from __future__ import annotations

import pytest

from pipeline.report import format, words
from pipeline.report.cost import Prices, Rented, cost, price
from pipeline.report.records import RunFacts, StageTime, Totals


def totals(done: int = 0, failed: int = 0, pending: int = 0, unplannable: int = 0) -> Totals:
    planned = done + failed + pending
    return Totals(planned, done, failed, pending, planned, done, planned * 60.0, done * 60.0, 0.0, unplannable)


def run(outcome: str = "done", units: int = 1, wall_s: float = 100.0) -> RunFacts:
    return RunFacts("r", "demo", outcome, None, None, wall_s, units, 0, units, None, None, None, {}, {}, {}, {})


def stages(encode: float, prefill: float, decode: float, starved: float | None, video: float) -> dict[str, StageTime]:
    def stage(name: str, busy: float, waited: float | None) -> StageTime:
        device = "cpu" if name == "video_decode" else "engine"
        # One pool holds the whole model: what it waits is noted with its first stage.
        own = None if name in ("prefill", "decode") else waited
        return StageTime(name, device, busy, None, None, None if waited is None else busy, own)

    waits = starved
    return {
        "video_decode": stage("video_decode", video, waits),
        "encode": stage("encode", encode, waits),
        "prefill": stage("prefill", prefill, waits),
        "decode": stage("decode", decode, waits),
    }


@pytest.mark.parametrize(
    ("counts", "facts", "sentence"),
    [
        (totals(done=3), run(units=3), "All 3 clips done (3\u202fmin of video)."),
        (totals(done=1), run(), "All 1 clip done (60\u202fs of video)."),
        (totals(done=3), run(units=0), "Nothing was left to do. All 3 clips done (3\u202fmin of video)."),
        (totals(done=113, failed=7), run("some_failed"), "113 of 120 clips done, 7 failed."),
        (totals(failed=8), run("some_failed"), "All 8 clips failed."),
        (
            totals(done=1, pending=2),
            run("interrupted"),
            "1 of 3 clips done, 2 still to do. The run was interrupted; start it again to continue.",
        ),
        (totals(done=1, pending=2), run("done"), "1 of 3 clips done, 2 still to do. Start it again to continue."),
        (
            totals(pending=4, unplannable=1),
            None,
            "Planned, not yet run: 4 clips, 4\u202fmin of video. 1 of them cannot",
        ),
    ],
)
def test_outcome(counts: Totals, facts: RunFacts | None, sentence: str) -> None:
    assert words.outcome(counts, facts).startswith(sentence)


def test_all_clip_reads_well_for_one() -> None:
    assert words.outcome(totals(failed=1), run("some_failed")) == "The only clip failed."


def test_a_starved_engine_is_decode_bound_and_says_how_many_cores() -> None:
    # 4 cores decoded all the time, and the engine waited half of it: as many cores again.
    sentence = words.bottleneck(stages(30, 15, 5, starved=50, video=400), run(wall_s=100), 1.0)
    assert sentence.startswith(
        "Decode-bound: the engine waited for frames 50\u202f% of its time; about 4 more CPU cores"
    )


def test_a_run_that_mostly_starts_says_so() -> None:
    sentence = words.bottleneck(stages(5, 3, 2, starved=10, video=40), run(wall_s=100), 1.0)
    assert sentence.startswith("Start-up-bound: the engine was at work or waiting for frames only 20\u202f%")


def test_an_engine_that_waits_while_decoders_idle_is_not_decode_bound() -> None:
    sentence = words.bottleneck(stages(5, 3, 2, starved=50, video=4), run(wall_s=100), 1.0)
    assert "decoders were mostly idle" in sentence


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ((60, 30, 10), "encoder takes 60"),
        ((20, 70, 10), "prefill takes 70"),
        ((10, 10, 80), "decoding takes 80"),
    ],
)
def test_a_busy_engine_names_its_largest_stage(times: tuple[float, float, float], expected: str) -> None:
    sentence = words.bottleneck(stages(*times, starved=5, video=100), run(), 1.0)
    assert sentence.startswith("Engine-bound")
    assert expected in sentence


def test_without_heartbeats_the_results_decide() -> None:
    assert "prefill takes 70" in words.bottleneck(stages(20, 70, 10, starved=None, video=0), run(), 1.0)


def test_nothing_done_nothing_named() -> None:
    assert "No clip is done" in words.bottleneck(stages(0, 0, 0, None, 0), run(), 0.0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (format.percent(0.1234), "12\u202f%"),
        (format.percent(0.034), "3.4\u202f%"),
        (format.percent(0.9991), "99.9\u202f%"),
        (format.percent(0.0001), "<0.1\u202f%"),
        (format.percent(1.0), "100\u202f%"),
        (format.short(1_234_567), "1.23\u202fM"),
        (format.short(12_345), "12.3\u202fk"),
        (format.short(1234), "1,234"),
        (format.duration(0.0341), "0.034\u202fs"),
        (format.duration(1e-5), "<1\u202fms"),
        (format.duration(0), "0\u202fs"),
        (format.duration(245), "4\u202fmin 05\u202fs"),
        (format.duration(59.97), "60.0\u202fs"),
        (format.duration(3599.6), "1\u202fh 00\u202fmin"),
        (format.duration(11_100), "3\u202fh 05\u202fmin"),
        (format.duration(200_000), "2\u202fd 07\u202fh"),
        (format.usd(0.0421), "$0.042"),
        (format.usd(12345.6), "$12,346"),
        (format.usd(None), "–"),
        (format.span(None, None), ""),
        (format.span(65, 3723), "1:05–1:02:03"),
        (format.moment("2026-03-04T05:06:07+00:00"), "2026-03-04 05:06 UTC"),
    ],
)
def test_numbers_as_people_read_them(text: str, expected: str) -> None:
    assert text == expected


def test_no_prices_no_cost() -> None:
    assert price(Rented(3600, 1, 8), Prices()) is None
    assert cost([(Rented(3600, 1, 8), Prices())], 3600, 100).usd is None


def test_a_missing_price_counts_as_zero_if_the_other_is_set() -> None:
    assert price(Rented(3600, 2, 8), Prices(gpu_hour_usd=3.0)) == 6.0


def test_unknown_gpus_make_the_cost_unknown_not_small() -> None:
    assert price(Rented(3600, None, 8), Prices(gpu_hour_usd=3.0, cpu_hour_usd=1.0)) is None
    assert price(Rented(3600, None, 8), Prices(cpu_hour_usd=1.0)) == 8.0


def test_one_run_without_prices_makes_the_sum_unknown() -> None:
    bills = [(Rented(3600, 1, 8), Prices(1.0)), (Rented(3600, 1, 8), Prices())]
    assert cost(bills, 3600, 100).usd is None


def test_nothing_made_has_no_unit_price() -> None:
    found = cost([(Rented(3600, 1, 0), Prices(2.0))], 0.0, 0)
    assert (found.usd, found.per_video_hour_usd, found.per_1000_captions_usd) == (2.0, None, None)


def test_an_engine_that_only_waited_is_told_from_one_that_was_not_measured() -> None:
    sentence = words.bottleneck(stages(0, 0, 0, starved=10, video=40), run(wall_s=100), 1.0)
    assert sentence.startswith("Start-up-bound")

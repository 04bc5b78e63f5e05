"""Cutting and sampling are pure: properties over all lengths, and the cases people get wrong."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import SpanUnreadable
from pipeline.plan.clips import Clips, cut
from pipeline.plan.sampling import Sampling, sample_times

seconds = st.floats(0.04, 10_000, allow_nan=False).map(lambda value: round(value, 3))


@settings(deadline=None)
@given(duration_s=seconds, window_s=seconds, overlap=st.floats(0, 0.9), min_s=st.floats(0, 5))
def test_windows_cover_the_video_in_order(duration_s: float, window_s: float, overlap: float, min_s: float) -> None:
    window_s = max(window_s, duration_s / 200)
    stride_s = window_s * (1 - overlap)
    spans = cut(duration_s, Clips(mode="windows", window_s=window_s, stride_s=stride_s, min_s=min_s))
    assert spans[0].from_s == 0
    assert all(0 < span.length_s <= window_s + 1e-6 for span in spans)
    assert all(after.from_s - before.from_s == pytest.approx(stride_s) for before, after in pairwise(spans))
    assert all(before.to_s < after.to_s for before, after in pairwise(spans))
    # Only a rest shorter than min_s (or what lies between windows) may be missing.
    assert duration_s - spans[-1].to_s <= max(min_s, stride_s - window_s) + 1e-6
    assert spans[-1].to_s <= duration_s


def test_whole() -> None:
    assert cut(12.5, Clips()) == [(None, None, 0.0, 12.5)]
    assert cut(12.5, Clips(), 2.0, 4.0) == [(2.0, 4.0, 2.0, 4.0)]
    assert cut(12.5, Clips(), start_s=3.0) == [(3.0, None, 3.0, 12.5)]


def test_windows() -> None:
    windows = Clips(mode="windows", window_s=5)
    assert [(span.start_s, span.end_s) for span in cut(12.5, windows)] == [(0, 5), (5, 10), (10, 12.5)]
    assert [span.end_s for span in cut(10.5, windows)] == [5, 10]
    assert [span.end_s for span in cut(0.5, windows)] == [0.5]
    assert [span.start_s for span in cut(60, Clips(mode="windows", window_s=30, stride_s=15))] == [0, 15, 30]
    assert [span.start_s for span in cut(100, windows, 20, 33)] == [20, 25, 30]


@pytest.mark.parametrize(("start_s", "end_s"), [(10.0, None), (12.0, 14.0), (0.0, 10.6), (9.0, 50.0)])
def test_spans_outside_the_video(start_s: float, end_s: float | None) -> None:
    with pytest.raises(SpanUnreadable, match=r"10\.00 s long"):
        cut(10.0, Clips(), start_s, end_s)


def test_an_end_that_was_rounded_up_is_no_mistake() -> None:
    assert cut(9.96, Clips(), 0.0, 10.0)[0].to_s == 9.96


@settings(deadline=None)
@given(from_s=st.floats(0, 1000), length_s=seconds, frames=st.integers(1, 200))
def test_count_gives_centres_of_equal_segments(from_s: float, length_s: float, frames: int) -> None:
    times = sample_times(from_s, from_s + length_s, Sampling(frames=frames))
    assert len(times) == frames
    assert list(times) == sorted(times)
    step = length_s / frames
    assert times[0] - from_s == pytest.approx(step / 2, abs=1e-5)
    assert from_s + length_s - times[-1] == pytest.approx(step / 2, abs=1e-5)


@settings(deadline=None)
@given(length_s=seconds, fps=st.floats(0.01, 60), cap=st.integers(1, 500))
def test_fps_with_a_cap(length_s: float, fps: float, cap: int) -> None:
    times = sample_times(0, length_s, Sampling(mode="fps", fps=fps, max_frames=cap))
    assert 1 <= len(times) <= cap
    assert len(times) == min(cap, max(1, round(length_s * fps)))
    assert all(0 <= time <= length_s for time in times)


def test_no_more_frames_than_there_are() -> None:
    assert len(sample_times(0, 0.16, Sampling(frames=8), fps=25)) == 4
    assert sample_times(0, 0.04, Sampling(frames=8), fps=25) == (0.02,)
    assert len(sample_times(0, 1, Sampling(mode="fps", fps=60), fps=24)) == 24


def test_key_frames() -> None:
    keys = [0.02, 2.02, 4.02, 6.02, 8.02]
    sampling = Sampling(mode="key_frames", max_frames=3)
    assert sample_times(0, 5, sampling, 25, keys) == (0.02, 2.02, 4.02)
    assert sample_times(0, 10, sampling, 25, keys) == (0.02, 4.02, 8.02)
    assert sample_times(2.5, 3.9, sampling, 25, keys) == (3.2,)
    assert sample_times(0, 6, sampling, 25, ()) == (1.0, 3.0, 5.0)

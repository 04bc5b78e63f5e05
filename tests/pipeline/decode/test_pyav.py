"""Frames against an independent reference: the picture itself says which frame it is and which way is up."""

from __future__ import annotations

import io
import tracemalloc
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from pipeline import media
from pipeline.decode.protocol import DecodedClip, DecodeSettings
from pipeline.decode.pyav import decode
from pipeline.decode.reader import FrameReader
from pipeline.errors import (
    CorruptVideo,
    NotAVideo,
    NoVideoStream,
    SourceMissing,
    SpanUnreadable,
    StorageError,
    Truncated,
)
from pipeline.media import open_video
from pipeline.plan.probe import ProbeTask, probe
from tests.videos import (
    EXAMPLES,
    corner_frame,
    corners,
    damage,
    numbered_frame,
    read_number,
    truncate,
    write_audio,
    write_video,
)

STRICT = DecodeSettings()


def run(path: Path | str, times: list[float], size: tuple[int, int] = (64, 80), **columns: Any) -> DecodedClip:
    settings = columns.pop("settings", STRICT)
    options = columns.pop("options", None)
    unit = {
        "uri": str(path),
        "timestamps_s": times,
        "frame_height_px": size[0],
        "frame_width_px": size[1],
        "key_frames_only": False,
        **columns,
    }
    return decode(unit, settings, options)


def numbers(clip: DecodedClip) -> list[int]:
    return [read_number(frame) for frame in clip.frames]


CODECS = {
    "h264 with B-frames": ("mp4", {}),
    "h264 one key frame": ("mp4", {"gop": 1000}),
    "h264 10 bit": ("mp4", {"pix_fmt": "yuv420p10le"}),
    "h264 4:4:4": ("mkv", {"pix_fmt": "yuv444p"}),
    "hevc": ("mp4", {"codec": "libx265", "options": {"x265-params": "log-level=none:keyint=10"}}),
    "av1": ("mp4", {"codec": "libsvtav1", "options": {"preset": "12", "svtav1-params": "keyint=10"}, "b_frames": 0}),
    "vp9 webm": ("webm", {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}}),
    "mpeg4 avi": ("avi", {"codec": "mpeg4", "b_frames": 0}),
    "mpeg2 ts": ("ts", {"codec": "mpeg2video"}),
    "h264 ts": ("ts", {}),
    "raw h264": ("h264", {}),
    "mjpeg": ("mov", {"codec": "mjpeg", "pix_fmt": "yuvj420p", "gop": None}),
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("codecs")
    made = {}
    for name, (extension, options) in CODECS.items():
        path = folder / f"{name.replace(' ', '_').replace(':', '')}.{extension}"
        made[name] = write_video(path, 100, **options)
    return made


@pytest.mark.parametrize("name", CODECS)
def test_every_codec_gives_the_frame_on_screen(videos: dict[str, Path], name: str) -> None:
    wanted = [0, 1, 7, 25, 49, 50, 51, 98, 99]
    # Frame i is on screen from i/25 s to (i+1)/25 s.
    clip = run(videos[name], [(i + 0.5) / 25 for i in wanted])
    assert numbers(clip) == wanted
    assert clip.timestamps_s == pytest.approx([i / 25 for i in wanted], abs=1e-3)
    assert (clip.frames_expected, clip.frames_decoded, clip.frames_corrupt) == (9, 9, 0)
    assert clip.frames.shape == (9, 64, 80, 3)
    assert clip.frames.dtype == np.uint8


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("first", [3, 40, 77, 99])
def test_a_clip_in_the_middle_equals_reading_from_the_start(videos: dict[str, Path], name: str, first: int) -> None:
    times = [(i + 0.2) / 25 for i in range(first, 100, 12)]
    assert numbers(run(videos[name], times)) == list(range(first, 100, 12))


def test_long_jumps_without_an_index(tmp_path: Path) -> None:
    path = write_video(tmp_path / "long.ts", 900, fps=25, gop=25)
    assert numbers(run(path, [(i + 0.5) / 25 for i in (2, 400, 401, 880)])) == [2, 400, 401, 880]


def test_boundaries_belong_to_the_frame_that_begins_there(videos: dict[str, Path]) -> None:
    clip = run(videos["h264 with B-frames"], [0.0, 0.039, 0.04, 0.079, 0.08, 3.96, 3.999])
    assert numbers(clip) == [0, 0, 1, 1, 2, 99, 99]


def test_one_frame_may_answer_several_times(videos: dict[str, Path]) -> None:
    clip = run(videos["vp9 webm"], [0.401, 0.402, 0.403])
    assert numbers(clip) == [10, 10, 10]
    assert clip.frames_decoded == 3


def test_variable_frame_rate(tmp_path: Path) -> None:
    starts = [0.0, 0.1, 0.15, 0.9, 1.0, 1.01, 2.5, 2.6]
    path = write_video(tmp_path / "vfr.mkv", 8, times_s=starts)
    clip = run(path, [0.12, 0.5, 0.95, 1.005, 2.4, 2.55, 2.61])
    assert numbers(clip) == [1, 2, 3, 4, 5, 6, 7]
    assert clip.timestamps_s == pytest.approx([0.1, 0.15, 0.9, 1.0, 1.01, 2.5, 2.6], abs=2e-3)


def test_times_count_from_the_first_frame_of_a_late_stream(tmp_path: Path) -> None:
    path = write_video(tmp_path / "late.mkv", 50, times_s=[10 + i / 25 for i in range(50)])
    clip = run(path, [0.02, 1.02])
    assert numbers(clip) == [0, 25]
    assert clip.timestamps_s == pytest.approx([0.0, 1.0], abs=2e-3)


@pytest.mark.parametrize(("ccw", "clockwise"), [(0, 0), (90, 270), (180, 180), (-90, 90)])
def test_rotation_stands_upright(tmp_path: Path, ccw: int, clockwise: int) -> None:
    upright = corner_frame(96, 160) if ccw % 180 else corner_frame(160, 96)
    # A phone stores the picture lying down and a note how to turn it.
    stored = np.ascontiguousarray(np.rot90(upright, clockwise // 90))
    path = write_video(tmp_path / "turned.mp4", [stored] * 5, rotation_ccw=ccw)
    probed = probe(ProbeTask(str(path), None, {}))
    assert probed.rotation_deg == clockwise
    assert (probed.width_px, probed.height_px) == (upright.shape[1], upright.shape[0])
    clip = run(path, [0.1], size=(90, 60))
    assert clip.frames.shape == (1, 90, 60, 3)
    assert corners(clip.frames[0]) == "RGBW"


def test_pixels_that_are_not_square(tmp_path: Path) -> None:
    path = write_video(tmp_path / "anamorphic.mp4", [corner_frame(160, 96)] * 5, pixel_aspect=Fraction(2, 1))
    probed = probe(ProbeTask(str(path), None, {}))
    assert (probed.width_px, probed.height_px) == (320, 96)
    assert corners(run(path, [0.0], size=(48, 160)).frames[0]) == "RGBW"


@pytest.mark.parametrize("height", [96, 720])
def test_colours_are_those_of_the_source(tmp_path: Path, height: int) -> None:
    """A file without colour tags: BT.601 below HD, BT.709 above, as players do."""
    colour = np.array([200, 60, 90], np.uint8)
    rgb = np.broadcast_to(colour, (height, 128, 3)).astype(np.uint8)
    target = av.video.reformatter.Colorspace.ITU709 if height > 576 else av.video.reformatter.Colorspace.ITU601
    planes = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="yuv420p", dst_colorspace=target)
    path = tmp_path / "colour.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=5, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = 128, height, "yuv420p"
        for pts in range(3):
            frame = av.VideoFrame.from_ndarray(planes.to_ndarray(), format="yuv420p")
            frame.pts = pts
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert np.abs(run(path, [0.1]).frames.astype(int) - colour.astype(int)).max() <= 3


def test_resizing_is_bicubic_with_low_pass(tmp_path: Path) -> None:
    """Fine stripes become grey, not moiré: the resampler looks at all pixels, as PIL's bicubic does."""
    from PIL import Image

    stripes = np.zeros((240, 320, 3), np.uint8)
    stripes[:, ::2] = 255
    path = write_video(tmp_path / "stripes.mkv", [stripes] * 3, options={"qp": "0"}, pix_fmt="yuv444p")
    got = run(path, [0.0], size=(60, 80)).frames[0].astype(int)
    expected = np.asarray(Image.fromarray(stripes).resize((80, 60), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(got - expected)[4:-4, 4:-4].max() <= 6


def test_cover_art_is_not_the_video(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "song.mp4", cover=True)
    with pytest.raises(NoVideoStream, match="holds no video"):
        run(path, [0.0])


def test_key_frames_only(tmp_path: Path) -> None:
    path = write_video(tmp_path / "keys.mp4", 100, gop=20, options={"sc_threshold": "0"})
    probed = probe(ProbeTask(str(path), None, {}), key_frames=True)
    assert len(probed.key_frames_s) == 5
    clip = run(path, list(probed.key_frames_s), key_frames_only=True)
    assert numbers(clip) == [0, 20, 40, 60, 80]
    assert clip.frames_corrupt == 0
    # Any other time gives the key frame before it.
    assert numbers(run(path, [0.5, 1.9, 3.9], key_frames_only=True)) == [0, 40, 80]


def test_seeking_skips_what_nobody_asked_for(tmp_path: Path) -> None:
    path = write_video(tmp_path / "long.mp4", 1000, gop=25, options={"sc_threshold": "0"})
    with open_video(str(path)) as (container, stream):
        reader = FrameReader(container, stream)
        shown = [reader.frame_at(time_s) for time_s in (0.5, 30.02, 39.0)]
        assert [round(one.time_s * 25) for one in shown] == [12, 750, 975]
        assert reader.decoded < 40  # of 1,000


def test_real_clips_are_what_a_plain_loop_decodes() -> None:
    for name in ("bikes.mp4", "carphone_pristine.mp4"):
        path = EXAMPLES / name
        with av.open(str(path)) as container:
            reference = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
        times = [reference[i][0] + 0.01 for i in (0, 33, 100, len(reference) - 1)]
        height, width = reference[0][1].shape[:2]
        clip = run(path, times, size=(height, width))
        for frame, index in zip(clip.frames, (0, 33, 100, len(reference) - 1), strict=True):
            assert np.abs(frame.astype(int) - reference[index][1].astype(int)).mean() < 2


def test_a_clip_behind_the_end(videos: dict[str, Path]) -> None:
    with pytest.raises(SpanUnreadable, match="behind the end"):
        run(videos["h264 with B-frames"], [1.0, 9.0])


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(SourceMissing):
        run(tmp_path / "nothing.mp4", [0.0])
    text = tmp_path / "text.mp4"
    text.write_text("this is no video at all\n" * 50)
    with pytest.raises(NotAVideo):
        run(text, [0.0])


def test_a_playlist_cannot_make_ffmpeg_open_other_files(tmp_path: Path) -> None:
    other = write_video(tmp_path / "secret.ts", 10)
    for name, content in {
        "list.mp4": f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{other}\n#EXT-X-ENDLIST\n",
        "concat.mp4": f"ffconcat version 1.0\nfile {other.name}\n",
    }.items():
        (tmp_path / name).write_text(content)
        with pytest.raises(NotAVideo):
            run(tmp_path / name, [0.0])


def test_truncated_files(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mp4", 100)
    with pytest.raises(Truncated, match="no readable index"):
        run(truncate(whole, tmp_path / "no_index.mp4", 0.5), [0.0])
    early = write_video(tmp_path / "early.mp4", 100, container_options={"movflags": "faststart"})
    cut = truncate(early, tmp_path / "cut.mp4", 0.6)
    assert numbers(run(cut, [0.02, 0.5])) == [0, 12]
    with pytest.raises(Truncated):
        run(cut, [0.5, 3.9])
    stream = truncate(write_video(tmp_path / "whole.mkv", 100), tmp_path / "cut.mkv", 0.5)
    with pytest.raises(Truncated):
        run(stream, [0.1, 3.9])


def test_tolerant_repeats_the_nearest_good_frame_and_counts(tmp_path: Path) -> None:
    early = write_video(tmp_path / "early.mp4", 100, container_options={"movflags": "faststart"})
    cut = truncate(early, tmp_path / "cut.mp4", 0.8)
    times = [(i + 0.5) / 25 for i in (5, 20, 40, 98)]
    clip = run(cut, times, settings=DecodeSettings(policy="tolerant", tolerance=0.25))
    assert numbers(clip) == [5, 20, 40, 40]
    assert (clip.frames_expected, clip.frames_decoded, clip.frames_corrupt) == (4, 4, 1)
    assert clip.timestamps_s[3] == clip.timestamps_s[2]
    with pytest.raises(CorruptVideo, match="1 of 4 frames are bad"):
        run(cut, times, settings=DecodeSettings(policy="tolerant", tolerance=0.2))


def test_damage_is_never_passed_off_as_a_frame(tmp_path: Path) -> None:
    """Bytes overwritten in the middle: every frame is either right or counted; the next key frame heals."""
    pictures = [numbered_frame(i, 320, 192) for i in range(100)]
    noise = np.random.default_rng(1).integers(0, 60, (192, 320, 3), dtype=np.uint8)
    path = write_video(tmp_path / "good.mkv", [np.where(one > 0, one, noise) for one in pictures], gop=20)
    broken = damage(path, tmp_path / "broken.mkv", at=0.5, size_bytes=300)
    times = [(i + 0.5) / 25 for i in range(100)]
    with pytest.raises(CorruptVideo):
        run(broken, times)
    clip = run(broken, times, settings=DecodeSettings(policy="tolerant", tolerance=1.0))
    assert 0 < clip.frames_corrupt <= 40
    right = sum(number == index for index, number in enumerate(numbers(clip)))
    assert right >= 100 - clip.frames_corrupt
    for index, time_s in enumerate(clip.timestamps_s):
        assert read_number(clip.frames[index]) == round(time_s * 25)
    assert numbers(clip)[-5:] == [95, 96, 97, 98, 99]


@pytest.mark.parametrize("reads", [0, 1, 2, 10, 30])
def test_a_store_that_fails_is_not_a_corrupt_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reads: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 96, 160, 3), dtype=np.uint8)
    data = write_video(tmp_path / "a.mp4", noise, gop=None, options={"qp": "4"}).read_bytes()
    assert len(data) > 1024**2

    class Failing(io.BytesIO):
        left = reads

        def read(self, size: int | None = -1) -> bytes:
            if self.left == 0:
                raise ConnectionResetError("reset by peer")
            self.left -= 1
            return super().read(size)

    monkeypatch.setattr(media, "open_read", lambda url, options: Failing(data))
    with pytest.raises(StorageError) as caught:
        run("s3://bucket/a.mp4", [0.1, 2.3])
    assert caught.value.retryable
    assert "reset by peer" in caught.value.message


def test_memory_is_bounded_by_the_result(tmp_path: Path) -> None:
    path = write_video(tmp_path / "large.mp4", 60, size=(640, 384), options={"preset": "ultrafast"})
    tracemalloc.start()
    run(path, [i / 25 + 0.01 for i in range(60)], size=(28, 28))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 640 * 384 * 3 * 4

"""Headers of good, odd and broken files; one of them never stops the others."""

from __future__ import annotations

import struct
import threading
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from luvc.errors import LuvcError
from pipeline.errors import DecodeTimeout, EmptyFile, InputError, NotAVideo, NoVideoStream, SourceMissing, Truncated
from pipeline.media import displayed_size
from pipeline.plan.probe import Probe, ProbeTask, probe, probe_all
from tests.videos import EXAMPLES, truncate, write_audio, write_video


def run(path: Path | str, options: Any = None, **more: Any) -> Probe:
    return probe(ProbeTask(str(path), None, options or {}), **more)


def test_a_real_clip() -> None:
    probed = run(EXAMPLES / "carphone_pristine.mp4")
    # 176x144 with pixels of 128:117.
    assert (probed.width_px, probed.height_px) == (193, 144)
    assert probed.duration_s == pytest.approx(4.004)
    assert probed.fps == pytest.approx(30000 / 1001)
    assert (probed.codec, probed.rotation_deg) == ("h264", 0)
    assert probed.file.size_bytes == 588804


@pytest.mark.parametrize("extension", ["mp4", "mkv", "webm", "avi", "ts", "mov", "h264"])
def test_containers(tmp_path: Path, extension: str) -> None:
    codec = "libvpx-vp9" if extension == "webm" else "libx264"
    options = {"deadline": "realtime", "cpu-used": "8"} if extension == "webm" else {}
    probed = run(write_video(tmp_path / f"a.{extension}", 50, codec=codec, options=options))
    assert probed.duration_s == pytest.approx(2.0, abs=0.09)
    assert (probed.width_px, probed.height_px) == (160, 96)
    assert probed.fps == pytest.approx(25, rel=0.01)


def test_the_length_is_that_of_the_video_not_of_the_sound(tmp_path: Path) -> None:
    for extension in ("mp4", "mkv"):
        probed = run(write_video(tmp_path / f"a.{extension}", 25, audio_s=5.0))
        assert probed.duration_s == pytest.approx(1.0, abs=0.05)


def test_a_live_recording_without_a_length(tmp_path: Path) -> None:
    path = write_video(tmp_path / "live.mkv", 50, container_options={"live": "1"})
    assert run(path).duration_s == pytest.approx(2.0, abs=0.05)


def test_variable_rate_and_a_late_start(tmp_path: Path) -> None:
    path = write_video(tmp_path / "vfr.mkv", 4, times_s=[5.0, 5.5, 7.0, 7.1])
    assert 2.0 <= run(path).duration_s <= 2.7


def test_pixels_that_cannot_be_are_square() -> None:
    for odd in (Fraction(2**31, 1), Fraction(1, 2**31), Fraction(-1), Fraction(0), None):
        assert displayed_size(160, 96, odd, 0) == (160, 96)
    assert displayed_size(160, 96, Fraction(4, 3), 90) == (96, 213)


def test_key_frames_lie_inside_their_display_interval(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 60, gop=20, options={"sc_threshold": "0"})
    assert run(path, key_frames=True).key_frames_s == pytest.approx((0.02, 0.82, 1.62))
    assert run(path).key_frames_s == ()


def broken(folder: Path) -> dict[str, tuple[Path, type[LuvcError]]]:
    good = write_video(folder / "good.mp4", 50)
    text, empty = folder / "text.mp4", folder / "empty.mp4"
    text.write_text("<html>404 not found</html>" * 100)
    empty.write_bytes(b"")
    zip_file = folder / "zip.mp4"
    zip_file.write_bytes(b"PK\x03\x04" + bytes(1000))
    huge = folder / "huge.mp4"  # a box that claims to be 2^62 bytes long
    huge.write_bytes(struct.pack(">I4s4sI", 16, b"ftyp", b"isom", 0) + struct.pack(">I4sQ", 1, b"moov", 2**62))
    noise = folder / "noise.ts"
    noise.write_bytes((b"\x47" + bytes(range(187))) * 50)
    return {
        "empty": (empty, EmptyFile),
        "text": (text, NotAVideo),
        "zip": (zip_file, NotAVideo),
        "huge header": (huge, Truncated),
        "noise": (noise, InputError),
        "truncated": (truncate(good, folder / "cut.mp4", 0.5), Truncated),
        "header only": (truncate(good, folder / "tiny.mp4", 0.001), InputError),
        "audio only": (write_audio(folder / "sound.m4a"), NoVideoStream),
        "cover picture": (write_audio(folder / "cover.mp4", cover=True), NoVideoStream),
        "missing": (folder / "none.mp4", SourceMissing),
        "directory": (folder, SourceMissing),
    }


def test_broken_files_say_what_they_are(tmp_path: Path) -> None:
    for name, (path, kind) in broken(tmp_path).items():
        with pytest.raises(kind) as caught:
            run(path)
        assert str(path) in caught.value.message, name


def test_results_stand_in_the_order_of_the_tasks(tmp_path: Path) -> None:
    files = broken(tmp_path)
    good = write_video(tmp_path / "fine.mp4", 25)
    tasks = [ProbeTask(str(path), None, {}) for path, _ in files.values()] + [ProbeTask(str(good), None, {})] * 3
    results = probe_all(tasks, probe)
    assert [type(result) for result in results[-3:]] == [Probe] * 3
    for result, (_, kind) in zip(results, files.values(), strict=False):
        assert isinstance(result, kind)


def test_a_probe_that_hangs_is_left_behind(tmp_path: Path) -> None:
    released = threading.Event()
    returned: list[str] = []

    def hang_on_some(task: ProbeTask) -> Any:
        if task.url.startswith("hang"):
            released.wait(120)
            returned.append(task.url)
        if task.url == "bug":
            raise RuntimeError("unforeseen")
        return task.url

    urls = ["hang1", "a", "hang2", "bug", "hang3", "b", "c"]
    seen: list[tuple[int, int]] = []
    results = probe_all(
        [ProbeTask(url, None, {}) for url in urls],
        hang_on_some,
        threads=2,
        deadline_s=0.3,
        progress=lambda done, of: seen.append((done, of)),
    )
    assert returned == [], "nobody waits for them"
    released.set()
    assert [result for result in results if isinstance(result, str)] == ["a", "b", "c"]
    assert [type(results[index]) for index in (0, 2, 4)] == [DecodeTimeout] * 3
    assert "unforeseen" in str(results[3])
    assert seen[-1] == (7, 7)


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    from pipeline.errors import PermissionDenied

    path = write_video(tmp_path / "a.mp4", 5)
    original = builtins.open

    def refuse(name: Any, *rest: Any, **options: Any) -> Any:
        if str(name) == str(path):
            raise PermissionError(13, "Permission denied", str(name))
        return original(name, *rest, **options)

    monkeypatch.setattr(builtins, "open", refuse)
    with pytest.raises(PermissionDenied, match="no permission to read"):
        run(path)


def test_remote_files(tmp_path: Path, s3: dict[str, Any]) -> None:
    data = write_video(tmp_path / "a.mp4", 50, pixel_aspect=Fraction(4, 3)).read_bytes()
    s3["client"].put_object(Bucket=s3["bucket"], Key="a.mp4", Body=data)
    probed = run(f"{s3['url']}/a.mp4", s3["storage"])
    local = run(tmp_path / "a.mp4")
    assert (probed.duration_s, probed.width_px) == (local.duration_s, local.width_px) == (2.0, 213)
    assert len(probed.file.version) == 32  # an etag
    with pytest.raises(SourceMissing):
        run(f"{s3['url']}/none.mp4", s3["storage"])

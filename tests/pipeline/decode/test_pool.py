"""The worker process under every fault: each costs its own unit, and the next unit is decoded as if nothing was."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import children
from pipeline.decode import decode_unit
from pipeline.decode import pool as pools
from pipeline.decode.pool import WorkerPool
from pipeline.decode.protocol import DecodedClip, DecodeSettings
from pipeline.decode.pyav import decode
from pipeline.decode.worker import message_bytes
from pipeline.errors import (
    CorruptVideo,
    DecodeError,
    DecodeMemory,
    DecoderCrashed,
    DecoderNotStarted,
    DecodeTimeout,
    SourceMissing,
)
from pipeline.storage import write_atomic
from tests.processes import ends
from tests.videos import EXAMPLES, read_number, write_video

SETTINGS = DecodeSettings(deadline_s=30, memory_bytes=256 * 1024**2)


def unit(number: int = 1, **columns: Any) -> dict[str, Any]:
    return {
        "unit_id": f"id-{number}",
        "uri": f"video-{number}",
        "timestamps_s": [0.0, 1.0],
        "key_frames_only": False,
        "frame_height_px": 28,
        "frame_width_px": 42,
        **columns,
    }


@pytest.fixture
def pool() -> Any:
    pool = WorkerPool()
    yield pool
    pool.close()


def run(pool: WorkerPool, decoder: str, number: int = 1, settings: DecodeSettings = SETTINGS) -> DecodedClip:
    return pool.decode(unit(number), settings, {}, f"tests.pipeline.decode.faulty:{decoder}")


FAULTS = {
    "hang": (DecodeTimeout, "not decoded within 0.5 s", True),
    "segfault": (DecoderCrashed, "SIGSEGV", True),
    "leave": (DecoderCrashed, "exit code 7", True),
    "eat_memory": (DecodeMemory, "needs more than 256 MiB", False),
    "refuse": (CorruptVideo, "no good", False),
    "surprise": (DecodeError, "KeyError: 'what'", False),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_costs_its_own_unit_only(pool: WorkerPool, fault: str) -> None:
    kind, message, retryable = FAULTS[fault]
    settings = SETTINGS.model_copy(update={"deadline_s": 0.5}) if fault == "hang" else SETTINGS
    assert run(pool, "good", 3).frames.max() == 3
    with pytest.raises(kind, match=message) as caught:
        run(pool, fault, settings=settings)
    assert type(caught.value) is kind
    assert caught.value.retryable is retryable
    after = run(pool, "good", 4)
    assert (after.frames == 4).all()
    assert after.frames.shape == (2, 28, 42, 3)


def test_a_worker_is_kept_and_a_killed_one_is_gone(pool: WorkerPool) -> None:
    run(pool, "good")
    first = pool._idle[0].process
    run(pool, "good")
    assert pool._idle[0].process is first
    with pytest.raises(DecodeTimeout):
        run(pool, "hang", settings=SETTINGS.model_copy(update={"deadline_s": 0.3}))
    assert first.poll() is not None
    run(pool, "good")
    assert pool._idle[0].process.pid != first.pid
    last = pool._idle[0].process
    pool.close()
    assert last.poll() is not None


def test_what_a_decoder_prints_does_not_get_between_the_frames(pool: WorkerPool) -> None:
    assert (run(pool, "chatty", 9).frames == 9).all()


def test_an_answer_never_goes_to_another_unit(pool: WorkerPool) -> None:
    run(pool, "good")
    settings = {**SETTINGS.model_dump(), "deadline_s": 30.0}
    stray = {"unit": unit(1), "settings": settings, "options": {}, "decoder": "tests.pipeline.decode.faulty:good"}
    pool._idle[0]._send(message_bytes(stray), time.monotonic() + 5)
    with pytest.raises(DecoderCrashed):
        run(pool, "good", 2)
    assert (run(pool, "good", 2).frames == 2).all()


def test_threads_get_their_own_frames(pool: WorkerPool) -> None:
    with ThreadPoolExecutor(3) as threads:
        clips = list(threads.map(lambda number: run(pool, "good", number), range(60)))
    assert [int(clip.frames[0, 0, 0, 0]) for clip in clips] == list(range(60))
    assert len(pool._idle) <= 3


def test_a_worker_that_starts_too_slowly_is_no_fault_of_the_video(
    pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "_START_TIMEOUT_S", 0.001)
    with pytest.raises(DecoderNotStarted, match=r"within 0\.001 s") as caught:
        run(pool, "good")
    assert caught.value.retryable
    monkeypatch.undo()
    assert (run(pool, "good", 5).frames == 5).all()


def test_a_worker_that_dies_while_it_starts(pool: WorkerPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(DecoderNotStarted, match="exit code 1") as caught:
        run(pool, "good")
    assert caught.value.retryable


@pytest.mark.parametrize("step", [(subprocess, "Popen"), (pools.tempfile, "TemporaryFile")], ids=["process", "log"])
@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENOMEM, errno.EAGAIN])
def test_a_machine_without_room_for_a_worker(
    pool: WorkerPool, monkeypatch: pytest.MonkeyPatch, step: tuple[Any, str], code: int
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(*step, refuse)
    with pytest.raises(DecoderNotStarted, match=os.strerror(code)) as caught:
        run(pool, "good")
    assert caught.value.retryable
    assert caught.value.hint
    monkeypatch.undo()
    assert (run(pool, "good", 5).frames == 5).all()


def test_a_worker_that_died_while_idle_is_replaced(pool: WorkerPool) -> None:
    run(pool, "good")
    pool._idle[0].process.kill()
    pool._idle[0].process.wait(60)
    assert (run(pool, "good", 5).frames == 5).all()


def test_a_forked_child_does_not_use_its_parents_worker(pool: WorkerPool) -> None:
    run(pool, "good")
    pool._process = -1
    before = pool._idle[0].process
    assert (run(pool, "good", 6).frames == 6).all()
    assert pool._idle[0].process is not before
    before.kill()
    before.wait(60)


def test_the_worker_imports_neither_torch_nor_ray(pool: WorkerPool) -> None:
    with pytest.raises(CorruptVideo) as caught:
        run(pool, "environment")
    assert caught.value.message == ""


def test_real_video_through_the_worker_equals_decoding_here() -> None:
    row = unit(uri=str(EXAMPLES / "bikes.mp4"), timestamps_s=[0.5, 4.0, 9.0])
    clip, reference = decode_unit(row, SETTINGS), decode(row, SETTINGS)
    assert np.array_equal(clip.frames, reference.frames)
    assert clip.timestamps_s == reference.timestamps_s
    assert clip.seconds > 0


@pytest.mark.parametrize("store", ["memory", "s3"])
def test_remote_video(tmp_path: Path, store: str, request: pytest.FixtureRequest) -> None:
    url, options = f"memory://{tmp_path.name}/a.mp4", {}
    if store == "s3":
        server = request.getfixturevalue("s3")
        url, options = f"{server['url']}/a.mp4", server["storage"]
    write_atomic(url, write_video(tmp_path / "a.mp4", 100).read_bytes(), options)
    row = unit(uri=url, timestamps_s=[0.5, 3.9], frame_height_px=64, frame_width_px=80)
    assert [read_number(frame) for frame in decode_unit(row, DecodeSettings(), options).frames] == [12, 97]
    with pytest.raises(SourceMissing):
        decode_unit({**row, "uri": url + ".none"}, DecodeSettings(), options)


def test_a_large_picture_within_a_small_memory_is_an_error_not_a_crash(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 2)
    row = unit(uri=str(path), timestamps_s=[0.0] * 64, frame_height_px=2000, frame_width_px=2000)
    with pytest.raises(DecodeMemory):
        decode_unit(row, SETTINGS)


def test_the_worker_ends_when_its_parent_is_killed() -> None:
    code = (
        "import os, sys, signal\n"
        "from pipeline.decode.pool import WorkerPool\n"
        "from tests.pipeline.decode.test_pool import run\n"
        "pool = WorkerPool(); run(pool, 'good'); print(pool._idle[0].process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = str(Path(__file__).parents[3])
    done = children.run([sys.executable, "-c", code], cwd=root, env={**os.environ, "PYTHONPATH": root})
    assert ends(int(done.stdout)), "the worker outlived its parent"

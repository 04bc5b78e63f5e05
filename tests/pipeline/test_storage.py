"""Storage on the local disk, in memory and on a real S3 server: whole files or none, retries, clear errors."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
import s3fs

from luvc.errors import ConfigError
from pipeline import storage, stores
from pipeline.errors import OutputError, PermissionDenied, SourceMissing, StorageError
from pipeline.requests import requests
from pipeline.storage import (
    check_writable,
    is_transient,
    join,
    list_files,
    open_read,
    read_bytes,
    read_error,
    retry,
    stat,
    write_atomic,
)


@pytest.fixture(params=["file", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, dict[str, Any]]:
    """A folder on each kind of store, and how to reach it."""
    if request.param == "file":
        return str(tmp_path / "root"), {}
    if request.param == "memory":
        return f"memory://root-{tmp_path.name}", {}
    server = request.getfixturevalue("s3")
    return f"{server['url']}/root", server["storage"]


def test_write_list_stat_read(place: tuple[str, dict[str, Any]]) -> None:
    root, options = place
    for name in ("b.mp4", "a.mp4", "sub/c.mp4", ".hidden/d.mp4", "sub/.e.mp4.tmp"):
        write_atomic(join(root, name), name.encode(), options)
    found = list_files(root, options)
    assert [one.url for one in found] == [join(root, name) for name in ("a.mp4", "b.mp4", "sub/c.mp4")]
    assert [one.size_bytes for one in found] == [5, 5, 9]
    assert [one.url for one in list_files(root, options, recursive=False)] == [join(root, "a.mp4"), join(root, "b.mp4")]
    assert [one.url for one in list_files(join(root, "*/c.*"), options)] == [join(root, "sub/c.mp4")]
    assert [one.url for one in list_files(join(root, "**/*.mp4"), options)][-1] == join(root, "sub/c.mp4")
    assert stat(join(root, "a.mp4"), options) == found[0]
    assert read_bytes(join(root, "sub/c.mp4"), options) == b"sub/c.mp4"
    assert list_files(join(root, "nothing"), options) == []


def test_a_changed_file_has_another_version(place: tuple[str, dict[str, Any]]) -> None:
    root, options = place
    url = join(root, "a.bin")
    write_atomic(url, b"one", options)
    before = stat(url, options)
    assert stat(url, options).version == before.version
    write_atomic(url, b"two!", options)
    assert stat(url, options).version != before.version


def test_listing_sees_what_others_wrote(place: tuple[str, dict[str, Any]]) -> None:
    root, options = place
    write_atomic(join(root, "a"), b"1", options)
    assert len(list_files(root, options)) == 1
    write_atomic(join(root, "b"), b"1", options)
    assert len(list_files(root, options)) == 2


def test_reading_in_pieces(place: tuple[str, dict[str, Any]]) -> None:
    root, options = place
    data = os.urandom(300_000)
    write_atomic(join(root, "big"), data, options)
    with open_read(join(root, "big"), options, block_bytes=65536) as file:
        for start in (290_000, 0, 65_530, 150_000):
            file.seek(start)
            assert file.read(20_000) == data[start : start + 20_000]


def test_what_is_not_there(place: tuple[str, dict[str, Any]]) -> None:
    root, options = place
    write_atomic(join(root, "sub/a"), b"1", options)
    for call in (stat, read_bytes, open_read):
        with pytest.raises(SourceMissing, match="no such file"):
            call(join(root, "none.mp4"), options)
    with pytest.raises(SourceMissing, match="directory"):
        stat(join(root, "sub"), options)


def test_check_writable_leaves_nothing_behind(place: tuple[str, dict[str, Any]]) -> None:
    root, options = place
    check_writable(root, options)
    fs, path = fsspec.core.url_to_fs(root, **options)
    assert not fs.exists(path) or fs.find(path) == []


def test_check_writable_says_why_not(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match=r"cannot be written.*NotADirectory"):
        check_writable(str(tmp_path / "file" / "out"))
    assert sorted(os.listdir(tmp_path)) == ["file"]


def test_check_writable_on_a_bucket_that_does_not_exist(s3: dict[str, Any]) -> None:
    with pytest.raises(OutputError, match="no-such-bucket-here"):
        check_writable("s3://no-such-bucket-here/out", s3["storage"])


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    target = tmp_path / "part.parquet"
    write_atomic(str(target), b"old")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if step == "write":
        monkeypatch.setattr(Path, "open", full)
    else:
        monkeypatch.setattr(os, step, full)
    with pytest.raises(OutputError, match="disk is full"):
        write_atomic(str(target), b"new")
    monkeypatch.undo()
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["part.parquet"]


def test_a_reader_never_sees_half_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "part.parquet"
    seen = []

    def replace(source: Path, destination: Path, original: Callable[..., None] = os.replace) -> None:
        seen.append((target.exists(), Path(source).name.startswith("."), len(Path(source).read_bytes())))
        assert list_files(str(tmp_path)) == []
        original(source, destination)

    monkeypatch.setattr(os, "replace", replace)
    write_atomic(str(target), b"x" * 1000)
    assert seen == [(False, True, 1000)]


class _Response(Exception):
    def __init__(self, status: int) -> None:
        self.response = {"ResponseMetadata": {"HTTPStatusCode": status}}


class ReadTimeoutError(Exception):
    """Named as botocore's."""


def _wrapped(cause: BaseException) -> OSError:
    error = OSError("wrapped")
    error.__cause__ = cause
    return error


TRANSIENT = [
    ConnectionResetError("reset"),
    TimeoutError("late"),
    OSError(errno.EBUSY, "SlowDown"),
    _Response(503),
    ReadTimeoutError(),
    _wrapped(_Response(500)),
]
FINAL = [FileNotFoundError("x"), PermissionError("x"), OSError(errno.ENOSPC, "full"), _Response(404), ValueError("x")]


@pytest.mark.parametrize("error", TRANSIENT, ids=repr)
def test_what_passes_by_itself_is_tried_again_with_growing_waits(error: Exception) -> None:
    waits: list[float] = []
    outcomes = [error, error, None]

    def call() -> str:
        outcome = outcomes.pop(0)
        if outcome:
            raise outcome
        return "done"

    assert is_transient(error)
    assert retry(call, sleep=waits.append) == "done"
    assert waits == [0.5, 1.0]


@pytest.mark.parametrize("error", FINAL, ids=repr)
def test_what_does_not_pass_is_not_tried_again(error: Exception) -> None:
    calls = []

    def call() -> None:
        calls.append(1)
        raise error

    with pytest.raises(type(error)):
        retry(call, sleep=lambda _: pytest.fail("waited"))
    assert len(calls) == 1


def test_giving_up_after_some_tries() -> None:
    waits: list[float] = []

    def call() -> None:
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        retry(call, sleep=waits.append)
    assert waits == [0.5, 1.0, 2.0]


@pytest.mark.parametrize(
    ("method", "ask"),
    [
        ("pipe_file", lambda folder: write_atomic(f"{folder}/a", b"data")),
        ("cat_file", lambda folder: read_bytes(f"{folder}/a")),
        ("info", lambda folder: storage.stat(f"{folder}/a")),
        ("open", lambda folder: storage.open_read(f"{folder}/a").read()),
        ("find", lambda folder: list_files(folder)),
    ],
)
def test_a_store_that_stumbles(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, method: str, ask: Callable[[str], Any]
) -> None:
    """Throttled and late once each, then well; and away for good."""
    folder = f"memory://stumbles-{tmp_path.name}"
    write_atomic(f"{folder}/a", b"data")
    kind = type(storage.filesystem(folder)[0])
    original, failures = getattr(kind, method), []

    def stumbling(self: Any, *args: Any, **options: Any) -> Any:
        if failures:
            raise failures.pop()
        return original(self, *args, **options)

    monkeypatch.setattr(stores.time, "sleep", lambda _: None)
    monkeypatch.setattr(kind, method, stumbling)
    well = ask(folder)
    failures[:] = [OSError(errno.EBUSY, "SlowDown"), TimeoutError()]
    assert ask(folder) == well
    failures[:] = [TimeoutError()] * 10
    with pytest.raises(StorageError) as caught:
        ask(folder)
    assert caught.value.retryable


def test_errors_of_reading() -> None:
    assert isinstance(read_error("u", PermissionError()), PermissionDenied)
    assert isinstance(read_error("u", FileNotFoundError()), SourceMissing)
    other = read_error("u", OSError("odd"))
    assert isinstance(other, StorageError)
    assert other.retryable
    assert "u: cannot be read: OSError: odd" in other.message


def test_an_unknown_kind_of_store() -> None:
    with pytest.raises(ConfigError, match="nosuch"):
        stat("nosuch://bucket/a")


def test_a_store_whose_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any, **__: Any) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(ConfigError, match="Install s3fs") as caught:
        list_files("s3://bucket")
    assert "pip install" in caught.value.hint


def test_requests_are_counted_as_the_store_sees_them(s3, monkeypatch, tmp_path):
    """Against a list of the calls that really went to S3."""
    seen = []
    call = s3fs.S3FileSystem._call_s3

    async def spy(self, method, *args, **kwargs):
        seen.append(method if isinstance(method, str) else method.__name__)
        return await call(self, method, *args, **kwargs)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", spy)
    before = requests()
    url = f"{s3['url']}/folder/a.bin"
    storage.write_atomic(url, b"x" * 3_000_000, s3["storage"])
    storage.list_files(f"{s3['url']}/folder", s3["storage"])
    storage.stat(url, s3["storage"])
    storage.read_bytes(url, s3["storage"])
    with storage.open_read(url, s3["storage"]) as file:
        file.seek(2_500_000)
        file.read(10)
        file.seek(0)
        file.read(10)
        file.read(10)
    made = requests().since(before)
    listed = [name for name in seen if name.startswith("list") or name == "_iterdir"]
    assert made.writes == seen.count("put_object") + 1
    assert made.reads == seen.count("get_object") + seen.count("head_object") == 6
    assert len(listed) <= 1

    storage.write_atomic(str(tmp_path / "b.bin"), b"x")
    storage.read_bytes(str(tmp_path / "b.bin"))
    assert requests().since(before) == made

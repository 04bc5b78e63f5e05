"""Files on any store that fsspec knows: list, stat, read, and publish whole or not at all.

Local paths are plain (`/data/a.mp4`), everything else is a URL (`s3://bucket/a.mp4`). Every call that touches a
store is tried again on errors that pass by themselves. Knows nothing of videos or of the output's layout.
"""

from __future__ import annotations

import errno
import os
import posixpath
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from luvc.errors import ConfigError, LuvcError
from pipeline.errors import OutputError, PermissionDenied, SourceMissing, StorageError
from pipeline.requests import CountedBlocks, count

T = TypeVar("T")
Options = Mapping[str, Any]

#: Reads of video files: blocks of this size, the most recently used of them kept.
BLOCK_BYTES = 1024**2
_BLOCKS_KEPT = 16
#: Names that an object store returns in one answer.
LISTED_AT_ONCE = 1000
#: Files deleted at the same time.
REMOVERS = 16

_TRANSIENT_ERRNO = {
    errno.EBUSY,
    errno.EAGAIN,
    errno.ECONNRESET,
    errno.ECONNABORTED,
    errno.ECONNREFUSED,
    errno.EPIPE,
    errno.ETIMEDOUT,
    errno.ENETUNREACH,
    errno.EHOSTUNREACH,
}
_TRANSIENT_STATUS = {408, 429, 500, 502, 503, 504}
# Errors of HTTP clients that are no subclass of OSError; by name, so that no client has to be installed.
_TRANSIENT_NAMES = {
    "ClientConnectionError",
    "ClientPayloadError",
    "ConnectionClosedError",
    "ConnectTimeoutError",
    "EndpointConnectionError",
    "FSTimeoutError",
    "IncompleteReadError",
    "ReadTimeoutError",
    "ResponseStreamingError",
    "ServerDisconnectedError",
}


@dataclass(frozen=True, slots=True)
class FileInfo:
    """A file as its store describes it.

    Attributes:
        url: local path or URL.
        size_bytes: its size.
        version: changes when the content does: the store's etag, else size and modification time.
    """

    url: str
    size_bytes: int
    version: str


def filesystem(url: str, options: Options | None = None) -> tuple[Any, str]:
    """The fsspec file system of a URL and the path in it.

    Raises:
        ConfigError: no such kind of store, or its package is not installed.
    """
    try:
        # A listing kept from before would hide what other processes wrote.
        return fsspec.core.url_to_fs(url, **{"use_listings_cache": False, **(options or {})})
    except ImportError as error:
        raise ConfigError(f"{url}: {error}", "for S3: pip install 's3fs'") from error
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{url}: {error}", "check the URL and its storage options") from error


def is_local(url: str) -> bool:
    """Whether a URL names a file of this machine."""
    return "://" not in url or url.startswith("file://")


def join(folder: str, *parts: str) -> str:
    """A path below a folder or URL; a part that is absolute or a URL by itself replaces what is before it."""
    for part in parts:
        folder = part if "://" in part else posixpath.join(folder, part)
    return folder


def list_files(url: str, options: Options | None = None, recursive: bool = True) -> list[FileInfo]:
    """Files of a directory or glob, sorted by name; hidden files and folders left out.

    Empty when nothing matches or the directory does not exist.

    Raises:
        PermissionDenied, StorageError: see `read_error`.
    """
    fs, path = filesystem(url, options)

    root = "" if is_glob(path) else path.rstrip("/")
    seen = 0

    def found() -> list[FileInfo]:
        nonlocal seen
        fs.invalidate_cache()
        if is_glob(path) and not fs.exists(path):
            listed = fs.glob(path, detail=True).items()
        elif isinstance(fs, LocalFileSystem) and Path(path).is_dir():
            listed = _walk(fs, path, recursive)
        else:
            listed = fs.find(path, maxdepth=None if recursive else 1, detail=True).items()
        files = []
        for seen, (name, entry) in enumerate(listed, start=1):  # noqa: B007 - counted for the price of the listing
            if entry["type"] == "file" and not _is_hidden(name.removeprefix(root)):
                files.append(_info(fs, name, entry))
        return files

    try:
        files = retry(found)
    except FileNotFoundError:
        return []
    except Exception as error:
        raise read_error(url, error) from error
    _counted(fs, writes=max(1, -(-seen // LISTED_AT_ONCE)))
    return sorted(files, key=lambda file: file.url)


def stat(url: str, options: Options | None = None) -> FileInfo:
    """Describe one file.

    Raises:
        SourceMissing, PermissionDenied, StorageError: see `read_error`.
    """
    fs, path = filesystem(url, options)
    try:
        entry = retry(lambda: fs.info(path))
    except Exception as error:
        raise read_error(url, error) from error
    _counted(fs, reads=1)
    if entry["type"] != "file":
        raise SourceMissing(f"{url}: is a directory, not a file")
    return _info(fs, path, entry)


def open_read(url: str, options: Options | None = None, block_bytes: int = BLOCK_BYTES) -> IO[bytes]:
    """A seekable file for reading; remote ones through a cache of blocks, since demuxers jump to and fro.

    Raises:
        SourceMissing, PermissionDenied, StorageError: see `read_error`.
    """
    fs, path = filesystem(url, options)
    cache: dict[str, Any] = {}
    if not isinstance(fs, LocalFileSystem):
        cache = {
            "block_size": block_bytes,
            "cache_type": CountedBlocks.name,
            "cache_options": {"maxblocks": _BLOCKS_KEPT},
        }
    try:
        opened: IO[bytes] = retry(lambda: fs.open(path, "rb", **cache))
    except Exception as error:
        raise read_error(url, error) from error
    _counted(fs, reads=1)
    return opened


def read_bytes(url: str, options: Options | None = None) -> bytes:
    """A whole file. Raises as `stat` does."""
    fs, path = filesystem(url, options)
    try:
        data = bytes(retry(lambda: fs.cat_file(path)))
    except Exception as error:
        raise read_error(url, error) from error
    _counted(fs, reads=2)  # fsspec asks for the size first
    return data


def write_atomic(url: str, data: bytes, options: Options | None = None) -> None:
    """Publish a file: readers see the old content or the new one, never a part of it.

    A local file is written aside, synced and renamed; an object store gets a single put.

    Raises:
        OutputError: it must not or cannot be written.
        StorageError: the store did not take it, even after several tries.
    """
    fs, path = filesystem(url, options)
    try:
        if isinstance(fs, LocalFileSystem):
            _write_local(Path(path), data)
        else:
            retry(lambda: fs.pipe_file(path, data))
            _counted(fs, writes=1)
    except Exception as error:
        raise write_error(url, error) from error


def remove(urls: Iterable[str], options: Options | None = None) -> None:
    """Delete files, some at a time; one that is gone already is as good.

    Raises:
        OutputError, StorageError: see `write_atomic`; others may be deleted.
    """

    def one(url: str) -> None:
        fs, path = filesystem(url, options)
        try:
            with suppress(FileNotFoundError):
                retry(lambda: fs.rm_file(path))
        except Exception as error:
            raise write_error(url, error, "deleted") from error

    with ThreadPoolExecutor(REMOVERS) as pool:
        list(pool.map(one, urls))


def check_writable(url: str, options: Options | None = None) -> None:
    """Try to write into a folder, leaving nothing behind.

    Raises:
        OutputError: it cannot be written; says why.
    """
    probe = join(url, f".luvc-writable-{secrets.token_hex(4)}")
    fs, path = filesystem(probe, options)
    made = [folder for folder in Path(path).parents if not folder.exists()] if is_local(url) else []
    try:
        write_atomic(probe, b"", options)
        fs.rm_file(path)
    except Exception as error:
        raise OutputError(
            f"output {url} cannot be written: {_reason(error)}", "check the path, its permissions and output.storage"
        ) from error
    finally:
        with suppress(OSError):  # not empty any more: another process writes here too
            for folder in made:
                folder.rmdir()


def retry(
    call: Callable[[], T],
    attempts: int = 4,
    first_wait_s: float = 0.5,
    sleep: Callable[[float], None] | None = None,
) -> T:
    """`call()`, tried again with doubling waits after errors that pass by themselves."""
    for attempt in range(attempts):
        try:
            return call()
        except Exception as error:
            if attempt == attempts - 1 or not is_transient(error):
                raise
            (sleep or time.sleep)(first_wait_s * 2**attempt)
    raise AssertionError("unreachable")


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed a moment later: timeouts, resets, overload."""
    for one in _chain(error):
        if isinstance(one, (ConnectionError, TimeoutError)) or type(one).__name__ in _TRANSIENT_NAMES:
            return True
        if isinstance(one, OSError) and one.errno in _TRANSIENT_ERRNO:
            return True
        response = getattr(one, "response", None)
        if isinstance(response, Mapping):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        else:
            status = getattr(one, "status", None)
        if status in _TRANSIENT_STATUS:
            return True
    return False


def read_error(url: str, error: BaseException) -> LuvcError:
    """The error of our tree for a failed read of `url`."""
    if isinstance(error, LuvcError):
        return error
    if isinstance(error, FileNotFoundError):
        return SourceMissing(f"{url}: no such file", "check the path; the file may have been moved since it was listed")
    if isinstance(error, PermissionError):
        return PermissionDenied(f"{url}: no permission to read", "check the file's mode or the input's credentials")
    return StorageError(f"{url}: cannot be read: {_reason(error)}", "try again; check the input's storage options")


def write_error(url: str, error: BaseException, done: str = "written") -> LuvcError:
    """The error of our tree for a failed write (or what else was to be `done`) of `url`."""
    if is_transient(error):
        return StorageError(f"{url}: cannot be {done}: {_reason(error)}", "the store did not answer; try again")
    hint = "the disk is full" if getattr(error, "errno", None) == errno.ENOSPC else "check the path and permissions"
    return OutputError(f"{url}: cannot be {done}: {_reason(error)}", hint)


def is_glob(path: str) -> bool:
    """Whether a path holds wildcards."""
    return any(character in path for character in "*?[")


def _walk(fs: LocalFileSystem, folder: str, recursive: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Entries below a local folder one by one, as `find` describes them: all at once are a kilobyte a file."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):  # removed meanwhile
                described = fs.info(entry)
                if described["type"] != "directory":
                    yield described["name"], described
                elif recursive:
                    yield from _walk(fs, described["name"], recursive)


def _counted(fs: Any, writes: int = 0, reads: int = 0) -> None:
    if not isinstance(fs, LocalFileSystem):
        count(writes, reads)


def _info(fs: Any, path: str, entry: Mapping[str, Any]) -> FileInfo:
    size = int(entry.get("size") or 0)
    etag = entry.get("ETag") or entry.get("etag") or entry.get("md5Hash")
    if etag:
        version = str(etag).strip('"')
    else:
        changed = entry.get("mtime") or entry.get("LastModified") or entry.get("created") or ""
        changed = changed.timestamp() if isinstance(changed, datetime) else changed
        version = f"{size}-{changed}"
    return FileInfo(_url_of(fs, path), size, version)


def _url_of(fs: Any, path: str) -> str:
    if isinstance(fs, LocalFileSystem):
        return path
    protocol = fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0]
    return f"{protocol}://{path.lstrip('/')}"


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))


def _write_local(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with aside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        with suppress(OSError):
            aside.unlink()
        raise
    # The new name must survive a power cut too, not only the content.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"

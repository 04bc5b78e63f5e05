"""Files on any store that fsspec knows: list, stat, read, and publish whole or not at all.

Local paths are plain (`/data/a.mp4`), everything else is a URL (`s3://bucket/a.mp4`). Every call that touches a
store is tried again on errors that pass by themselves. Knows nothing of videos or of the output's layout.
"""

from __future__ import annotations

import os
import posixpath
import secrets
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from fsspec.implementations.local import LocalFileSystem

from pipeline.errors import OutputError, SourceMissing
from pipeline.listing import is_glob, list_files
from pipeline.requests import CountedBlocks
from pipeline.stores import (
    FileInfo,
    Options,
    counted,
    describe,
    filesystem,
    is_transient,
    read_error,
    reason_of,
    retry,
    write_error,
)

__all__ = [
    "BLOCK_BYTES",
    "FileInfo",
    "Options",
    "check_writable",
    "filesystem",
    "is_glob",
    "is_local",
    "is_transient",
    "join",
    "list_files",
    "open_read",
    "read_bytes",
    "read_error",
    "remove",
    "retry",
    "stat",
    "write_atomic",
    "write_error",
]

#: Reads of video files: blocks of this size, the most recently used of them kept.
BLOCK_BYTES = 1024**2
_BLOCKS_KEPT = 16
#: Files deleted at the same time.
REMOVERS = 16


def is_local(url: str) -> bool:
    """Whether a URL names a file of this machine."""
    return "://" not in url or url.startswith("file://")


def join(folder: str, *parts: str) -> str:
    """A path below a folder or URL; a part that is absolute or a URL by itself replaces what is before it."""
    for part in parts:
        folder = part if "://" in part else posixpath.join(folder, part)
    return folder


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
    counted(fs, reads=1)
    if entry["type"] != "file":
        raise SourceMissing(f"{url}: is a directory, not a file")
    return describe(fs, path, entry)


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
    counted(fs, reads=1)
    return opened


def read_bytes(url: str, options: Options | None = None) -> bytes:
    """A whole file. Raises as `stat` does."""
    fs, path = filesystem(url, options)
    try:
        data = bytes(retry(lambda: fs.cat_file(path)))
    except Exception as error:
        raise read_error(url, error) from error
    counted(fs, reads=2)  # fsspec asks for the size first
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
            counted(fs, writes=1)
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
            f"output {url} cannot be written: {reason_of(error)}", "check the path, its permissions and output.storage"
        ) from error
    finally:
        with suppress(OSError):  # not empty any more: another process writes here too
            for folder in made:
                folder.rmdir()


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

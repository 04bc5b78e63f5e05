"""What every call to a store goes through: its file system, further tries, how it describes a file, our errors.

Below `pipeline.storage` and `pipeline.listing`, which callers use.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from luvc.errors import ConfigError, LuvcError
from pipeline.errors import OutputError, PermissionDenied, SourceMissing, StorageError
from pipeline.requests import count

T = TypeVar("T")
Options = Mapping[str, Any]

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
    errno.ESTALE,  # a network file system was changed under an open handle; the next call looks the path up anew
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
    return StorageError(f"{url}: cannot be read: {reason_of(error)}", "try again; check the input's storage options")


def write_error(url: str, error: BaseException, done: str = "written") -> LuvcError:
    """The error of our tree for a failed write (or what else was to be `done`) of `url`."""
    if is_transient(error):
        return StorageError(f"{url}: cannot be {done}: {reason_of(error)}", "the store did not answer; try again")
    hint = "the disk is full" if getattr(error, "errno", None) == errno.ENOSPC else "check the path and permissions"
    return OutputError(f"{url}: cannot be {done}: {reason_of(error)}", hint)


def describe(fs: Any, path: str, entry: Mapping[str, Any]) -> FileInfo:
    """A file from what its file system says of it."""
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


def counted(fs: Any, writes: int = 0, reads: int = 0) -> None:
    """Note requests to a store; the local disk is free of charge."""
    if not isinstance(fs, LocalFileSystem):
        count(writes, reads)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def reason_of(error: BaseException) -> str:
    """An error with its kind, on one line of a message."""
    return f"{type(error).__name__}: {error}"

"""Lists folders and globs of any store. An error is never an empty list: a ledger read as empty doubles every row.

On the local disk links to files are files, described by what they lead to: a folder may hold nothing else (a snapshot
of the Hugging Face hub, a mount of Kubernetes). Links to folders are followed where a glob names their level, not by a
search below a folder or by `**`, which could go round in circles.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import glob_translate

from pipeline.stores import FileInfo, Options, counted, describe, filesystem, read_error, retry

#: Names that an object store returns in one answer.
LISTED_AT_ONCE = 1000

#: At the top of a disk, for its repairs; closed to all but root.
_REPAIRED = "lost+found"

Entries = Iterator[tuple[str, dict[str, Any]]]


def list_files(
    url: str, options: Options | None = None, recursive: bool = True, glob: bool | None = None
) -> list[FileInfo]:
    """Files of a directory or glob, sorted by name; hidden files and folders left out.

    Empty when nothing matches or the directory does not exist. What is hidden is told below the directory, or below
    the part of a glob before its first wildcard. Links that lead nowhere are left out.

    Args:
        url: what to list.
        options: for fsspec.
        recursive: whether subdirectories are searched too; a glob says so itself.
        glob: what `is_glob` answered for the url; None: it is asked.

    Raises:
        PermissionDenied, StorageError: see `read_error`; also for one folder below that cannot be read.
    """
    fs, path = filesystem(url, options)
    by_glob = is_glob(url, options) if glob is None else glob
    root = _fixed_part(fs, path) if by_glob else path.rstrip("/")
    seen = 0

    def found() -> list[FileInfo]:
        nonlocal seen
        fs.invalidate_cache()
        if isinstance(fs, LocalFileSystem):
            listed: Any = _matching(fs, path, root) if by_glob else _below(fs, path, recursive)
        elif by_glob:
            listed = fs.glob(path, detail=True).items()
        else:
            listed = fs.find(path, maxdepth=None if recursive else 1, detail=True).items()
        files = []
        for seen, (name, entry) in enumerate(listed, start=1):  # noqa: B007 - counted for the price of the listing
            if entry["type"] == "file" and not _is_hidden(name.removeprefix(root)):
                files.append(describe(fs, name, entry))
        return files

    try:
        files = retry(found)
    except FileNotFoundError:
        return []
    except Exception as error:
        # Which folder of many it was, the operating system says.
        raise read_error(getattr(error, "filename", None) or url, error) from error
    counted(fs, writes=max(1, -(-seen // LISTED_AT_ONCE)))
    return sorted(files, key=lambda file: file.url)


def is_glob(url: str, options: Options | None = None) -> bool:
    """Whether a path is to be matched: it holds wildcards, and nothing is called just so ("clips [2024]").

    Raises:
        PermissionDenied, StorageError: see `read_error`; only paths with wildcards are looked for.
    """
    if not _has_wildcards(url):
        return False
    fs, path = filesystem(url, options)

    def exists() -> bool:
        fs.invalidate_cache()
        try:
            fs.info(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    try:
        there = retry(exists)
    except Exception as error:
        raise read_error(url, error) from error
    counted(fs, reads=1)
    return not there


def _has_wildcards(path: str) -> bool:
    return any(character in path for character in "*?[")


def _fixed_part(fs: Any, pattern: str) -> str:
    """The folder that a glob starts from: what stands before its first component with a wildcard.

    On the local disk a folder that is called just so is none ("clips [2024]/*.mp4").
    """
    parts = pattern.split("/")
    fixed = 0
    while fixed < len(parts) - 1:
        called_so = isinstance(fs, LocalFileSystem) and os.path.isdir("/".join(parts[: fixed + 1]))
        if _has_wildcards(parts[fixed]) and not called_so:
            break
        fixed += 1
    return "/".join(parts[:fixed])


def _below(fs: LocalFileSystem, path: str, recursive: bool) -> Entries:
    """Files below a local folder; of a file, itself."""
    try:
        mode = os.stat(path).st_mode
    except NotADirectoryError:  # a file in the place of a folder on the way to it
        return
    if stat.S_ISDIR(mode):
        yield from _walk(fs, path, lambda _, linked: recursive and not linked)
    else:
        yield path, fs.info(path)


def _matching(fs: LocalFileSystem, pattern: str, root: str) -> Entries:
    """Files that match a local glob; only folders on the way to a match are opened."""
    parts = pattern.removeprefix(root + "/").split("/")
    # For each level below the root what a path down to it matches.
    levels = [re.compile(glob_translate("/".join(parts[: level + 1]))).match for level in range(len(parts))]

    def enter(folder: str, linked: bool) -> bool:
        below = folder.removeprefix(root + "/")
        level = below.count("/")
        if "**" in parts[: level + 1]:
            return not linked
        return level < len(parts) - 1 and bool(levels[level](below))  # so many levels have an end, links or not

    for name, entry in _walk(fs, root or "/", enter):
        if levels[-1](name.removeprefix(root + "/")):
            yield name, entry


def _walk(fs: LocalFileSystem, folder: str, enter: Callable[[str, bool], bool]) -> Entries:
    """Entries below a local folder one by one, as `find` describes them: all at once are a kilobyte a file."""
    # No such folder (any more) is no entry; anything else is an error.
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            # What is hidden may well be closed to us (trash, snapshots of the disk), and is nobody's concern.
            described = None if entry.name.startswith(".") or entry.name == _REPAIRED else _described(fs, entry)
            if described is None:
                continue
            if described["type"] != "directory":
                yield described["name"], described
            elif enter(described["name"], described["islink"]):
                yield from _walk(fs, described["name"], enter)


def _described(fs: LocalFileSystem, entry: os.DirEntry[str]) -> dict[str, Any] | None:
    """What an entry is, for a link what it leads to; None if it leads nowhere, or is gone."""
    try:
        # Of an entry fsspec tells what the link itself is, of a path what it leads to.
        described: dict[str, Any] = fs.info(entry.path if entry.is_symlink() else entry)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            return None
        raise
    return described


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))

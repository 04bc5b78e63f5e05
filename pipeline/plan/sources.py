"""Lists what to plan: files of a directory or glob, one file, or the rows of an input manifest.

Opens no video. Order is deterministic: sorted names, or the order of a manifest's rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from pydantic import Field

from luvc.errors import ConfigError, LuvcError
from pipeline.errors import NameNotUtf8, SourceMissing, StorageError
from pipeline.plan.item import Item
from pipeline.plan.text import is_writable, writable
from pipeline.section import Section, StorageOptions, Url
from pipeline.storage import FileInfo, is_glob, list_files, stat

T = TypeVar("T")

#: What counts as a video in a directory. A glob or a manifest names its files itself.
VIDEO_EXTENSIONS = frozenset(
    (".mp4", ".m4v", ".mov", ".3gp", ".3g2", ".f4v", ".mkv", ".webm", ".avi", ".flv", ".wmv", ".asf", ".mpg", ".mpeg")
) | {".vob", ".ts", ".mts", ".m2ts", ".mxf", ".ogv", ".ogg"}


class InputSource(Section):
    """One entry of `inputs`.

    Attributes:
        path: a directory, a glob, one file, or a manifest (.jsonl .csv .parquet); any fsspec URL.
        recursive: whether a directory's subdirectories are searched too.
        storage: options for fsspec; never written to any output.
    """

    path: Url
    recursive: bool = True
    storage: StorageOptions = Field(default_factory=dict)


def list_items(source: InputSource, key: str = "inputs.path") -> Iterator[Item]:
    """Items of one source.

    Args:
        source: where to look.
        key: full name of where the path was given, for messages.

    Raises:
        ConfigError: nothing there, no video among the files, or a bad row in a manifest.
    """
    # Reading a configuration imports this module, and should not wait for pyarrow.
    from pipeline.plan.item_files import MANIFEST_READERS, read_items

    path, options = source.path, source.storage
    glob = _asked(key, lambda: is_glob(path, options))
    if _extension(path) in MANIFEST_READERS and not glob:
        yield from read_items(path, options, key)
        return
    single = None if glob else _asked(key, lambda: _stat_or_none(path, source))
    if single is not None:
        yield _item(path, single, options)
        return
    try:
        files = list_files(path, options, source.recursive, glob)
    except StorageError:
        raise  # the store's trouble is not the configuration's: trying again helps
    except Exception as error:
        raise ConfigError(f"{key}: {path} cannot be listed: {type(error).__name__}: {error}") from error
    if not files:
        raise ConfigError(f"{key}: {path}: no such file, folder or match", "check the path; nothing was planned")
    videos = files if glob else [file for file in files if _extension(file.url) in VIDEO_EXTENSIONS]
    if not videos:
        raise ConfigError(
            f"{key}: {path} holds {len(files)} files, none with a video's extension",
            f"name them by a glob such as {path.rstrip('/')}/* if they are videos",
        )
    for file in videos:
        yield _item(file.url, file, options)


def _item(uri: str, file: FileInfo, options: dict[str, Any]) -> Item:
    """A listed file; one whose name no file of ours can hold is planned as a failure, under a name that shows it."""
    if is_writable(uri):
        return Item(uri, file, storage=options)
    shown = writable(uri)
    error = NameNotUtf8(f"{shown}: the name is not UTF-8", "rename it, for example with convmv -f latin1 -t utf8")
    return Item(shown, file, storage=options, error=error)


def _stat_or_none(path: str, source: InputSource) -> FileInfo | None:
    """The file at `path`; None if it is a folder or nothing."""
    try:
        return stat(path, source.storage)
    except SourceMissing:
        return None


def _asked(key: str, ask: Callable[[], T]) -> T:
    """An answer of the store about a path of the configuration; without one the path is named by its key."""
    try:
        return ask()
    except LuvcError as error:
        raise ConfigError(f"{key}: {error.message}", error.hint) from error


def _extension(path: str) -> str:
    name = path.rsplit("/", 1)[-1]
    return "." + name.rsplit(".", 1)[-1].lower() if "." in name else ""


def storage_of(inputs: Sequence[InputSource], uri: str) -> dict[str, Any]:
    """The storage options for a video: those of the input it most likely came from.

    An input manifest may name videos anywhere on its store, so without a common path the protocol decides.
    """
    same = [source for source in inputs if _protocol(source.path) == _protocol(uri)]
    return dict(max(same, key=lambda source: _shared(source.path, uri)).storage) if same else {}


def _shared(one: str, other: str) -> int:
    """Leading path components that two URLs share."""
    pairs = enumerate(zip(one.split("/"), other.split("/"), strict=False))
    return next((index for index, (left, right) in pairs if left != right), min(one.count("/"), other.count("/")) + 1)


def _protocol(url: str) -> str:
    return url.split("://", 1)[0] if "://" in url else "file"

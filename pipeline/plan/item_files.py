"""Input manifests: lists of videos in .jsonl, .csv or .parquet, with spans, prompts and ids of their own.

A bad row is an error that names file, line and column: planning around it would drop work silently.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from luvc.errors import ConfigError, LuvcError
from pipeline.plan.item import Item
from pipeline.plan.prompts import Prompt, normalise_prompts
from pipeline.plan.text import is_writable
from pipeline.storage import Options, join, read_bytes

URI_COLUMNS = ("uri", "path", "url", "video")
_MISNAMED = {"start": "start_s", "end": "end_s", "start_time": "start_s", "end_time": "end_s"}

Rows = Iterator[tuple[str, Mapping[str, Any]]]


def read_items(url: str, options: Options, key: str) -> Iterator[Item]:
    """Items of an input manifest, in its order.

    Columns: `uri` (or path, url, video); optional `start_s`, `end_s`, `prompt`, `prompt_id`, `id`. Others are ignored.
    A relative uri starts at the manifest's folder.

    Raises:
        ConfigError: the file cannot be read, has no row, or a bad one; names line and column.
    """
    try:
        data = read_bytes(url, options)
    except LuvcError as error:
        raise ConfigError(f"{key}: {error.message}", error.hint) from error
    folder = url.rsplit("/", 1)[0]
    empty = True
    for place, row in MANIFEST_READERS["." + url.rsplit(".", 1)[-1].lower()](data, url):
        empty = False
        yield _item(row, f"{url} {place}", folder, dict(options))
    if empty:
        raise ConfigError(f"{key}: {url} has no rows", "nothing was planned")


def _item(row: Mapping[str, Any], place: str, folder: str, options: dict[str, Any]) -> Item:
    for wrong, right in _MISNAMED.items():
        if row.get(wrong) not in (None, "") and right not in row:
            raise ConfigError(f"{place}: unknown column {wrong!r}", f"name it {right!r}, in seconds")
    uri = next((row[name] for name in URI_COLUMNS if row.get(name)), None)
    if not isinstance(uri, str) or not uri.strip():
        raise ConfigError(f"{place}: no uri", "one of the columns " + ", ".join(URI_COLUMNS) + " must name the video")
    uri = join(folder, uri.strip()).removeprefix("file://")
    _check_text(uri, "the uri", place)
    start_s, end_s = _seconds(row, "start_s", place), _seconds(row, "end_s", place)
    if end_s is not None and end_s <= (start_s or 0.0):
        raise ConfigError(f"{place}, column 'end_s': {end_s:g} is not after start_s ({start_s or 0.0:g})")
    item_id = None if row.get("id") in (None, "") else str(row["id"])
    _check_text(item_id or "", "column 'id'", place)
    return Item(
        uri=uri,
        item_id=item_id,
        start_s=start_s,
        end_s=end_s,
        prompts=_prompts(row, place),
        storage=options,
    )


def _check_text(text: str, name: str, place: str) -> None:
    """JSON can escape half a character (`\\ud83d`), which no other file can hold."""
    if not is_writable(text):
        raise ConfigError(
            f"{place}, {name}: {text!r} cannot be written as UTF-8", "correct the text, or rename the file"
        )


def _seconds(row: Mapping[str, Any], column: str, place: str) -> float | None:
    value = row.get(column)
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if isinstance(value, bool) or not math.isfinite(seconds) or seconds < 0:
        raise ConfigError(f"{place}, column {column!r}: {value!r} is not a number of seconds", "for example 12.5")
    return seconds


def _prompts(row: Mapping[str, Any], place: str) -> tuple[Prompt, ...] | None:
    value = row.get("prompt")
    if value is None or value == "":
        return None
    try:
        prompts = normalise_prompts(value)
    except ValueError as error:
        raise ConfigError(f"{place}, column 'prompt': {error}") from None
    prompt_id = row.get("prompt_id")
    if len(prompts) == 1 and prompt_id not in (None, ""):
        _check_text(str(prompt_id), "column 'prompt_id'", place)
        return (Prompt(str(prompt_id), prompts[0].text),)
    return prompts


def _read_jsonl(data: bytes, url: str) -> Rows:
    # Not splitlines: a JSON text may hold other characters that end a line for Python, such as U+2028.
    for number, line in enumerate(_text(data, url).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{url} line {number}: not JSON: {error}") from None
        if not isinstance(row, dict):
            raise ConfigError(f"{url} line {number}: expected an object, got {type(row).__name__}")
        yield f"line {number}", row


def _read_csv(data: bytes, url: str) -> Rows:
    reader = csv.DictReader(io.StringIO(_text(data, url), newline=""), strict=True)
    try:
        columns = set(reader.fieldnames or ())
    except csv.Error as error:
        raise ConfigError(f"{url} line 1: not CSV: {error}", "is a quote left open in the header?") from None
    if not set(URI_COLUMNS) & columns:
        raise ConfigError(f"{url} line 1: no uri", "the header must have one of " + ", ".join(URI_COLUMNS))
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            # The reader counts a line when its row is whole: this one begins behind the last.
            raise ConfigError(f"{url} line {reader.line_num + 1}: not CSV: {error}") from None
        if None in row:
            raise ConfigError(f"{url} line {reader.line_num}: more fields than the header", "quote texts with commas")
        yield f"line {reader.line_num}", row


def _read_parquet(data: bytes, url: str) -> Rows:
    try:
        table = pq.read_table(pa.BufferReader(data))
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(f"{url}: not Parquet: {error}") from error
    wanted = [name for name in table.column_names if name in _COLUMNS]
    number = 0
    for batch in table.select(wanted).to_batches(max_chunksize=8192):
        for row in batch.to_pylist():
            number += 1
            yield f"row {number}", row


def _text(data: bytes, url: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{url}: not UTF-8 text: {error}") from None


_COLUMNS = {*URI_COLUMNS, *_MISNAMED, "start_s", "end_s", "prompt", "prompt_id", "id"}

MANIFEST_READERS: dict[str, Callable[[bytes, str], Rows]] = {
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}

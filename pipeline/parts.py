"""Part files: how rows become one, which of them count, and how all of a folder are read as one table.

`luvc compact` joins small files. The file it writes names in its footer those it replaces: from the moment it is there
they do not count, whether they are deleted yet or not. So one whole write is the whole change, on a disk and in an
object store alike, and whoever reads through `read_live` counts each row once at any moment.

Knows pyarrow and the keys of the footer; nothing of Ray, of stores, or of what the columns mean.
"""

from __future__ import annotations

import io
import json
import posixpath
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from pipeline.errors import SourceMissing, StorageError

#: Keys of the footer. RUNS: what is known of the runs that wrote the rows, a JSON list. REPLACES: names of files in the
#: same folder that this one stands for, a JSON list. ARROW_BYTES: size of the rows in memory.
RUNS = b"luvc.runs"
REPLACES = b"luvc.replaces"
ARROW_BYTES = b"luvc.arrow_bytes"

#: Rows are sorted by those of these columns that they have.
ORDER = ("uri", "start_s", "unit_id", "prompt_id", "run_id", "interval_start", "stage")
#: A reader of one folder's videos reads few groups of a large file.
ROW_GROUP_ROWS = 16_384
#: No file is made of more rows than this, however well they compress: sorting holds them twice.
MOST_ARROW_BYTES = 512 * 1024**2

#: Part files are small and a listing may have thousands, so the wait is round trips.
READERS = 16
#: Listings until a folder stands still: each begins by reading what a compaction has just written.
LISTINGS = 100

_COMPACTED = "-compact-"
_PARQUET = ds.ParquetFileFormat()

Open = Callable[[str], IO[bytes]]


def is_part(path: str) -> bool:
    """Whether a file below a folder of parts is data: names that begin with `.` or `_` are not."""
    name = posixpath.basename(path)
    return name.endswith(".parquet") and name[0] not in "._"


def compacted_name(first_run: str, digest: str) -> str:
    """Name of a file made of others; sorts where the first of them stood."""
    return f"part-{first_run}{_COMPACTED}{digest}.parquet"


def is_compacted(path: str) -> bool:
    """Whether a file was made of others, by its name."""
    return _COMPACTED in posixpath.basename(path)


def encode(
    table: pa.Table, facts: Mapping[str, Mapping[str, Any]] | None = None, replaces: Sequence[str] | None = None
) -> bytes:
    """A part file: rows sorted, zstd, facts in its footer.

    Args:
        table: rows with a column `run_id`.
        facts: what is known of runs (see `run_facts`), by run id; those of runs without rows here are left out.
        replaces: names of the files this one stands for.
    """
    keys = [(name, "ascending") for name in ORDER if name in table.column_names]
    rows = table.sort_by(keys).replace_schema_metadata(table.schema.metadata)
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, rows.schema, compression="zstd") as writer:
        writer.write_table(rows, row_group_size=ROW_GROUP_ROWS)
        footer = {RUNS: json.dumps(_runs(table, facts or {}), ensure_ascii=False)}
        if replaces is not None:
            footer |= {REPLACES: json.dumps(list(replaces)), ARROW_BYTES: str(table.nbytes)}
        writer.add_key_value_metadata(footer)
    return buffer.getvalue()


def run_facts(
    name: str | None, model: str | None, config_hash: str | None, versions: Mapping[str, Any]
) -> dict[str, Any]:
    """What a footer says of a run, beside its id and its counts."""
    return {"name": name, "model": model, "config_hash": config_hash, "versions": dict(versions)}


def _runs(table: pa.Table, facts: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each run with rows in a file: its facts, how many rows, and of how many units where rows belong to units."""
    counted: list[tuple[Any, str]] = [([], "count_all")]
    if "unit_id" in table.column_names:
        counted.append(("unit_id", "count_distinct"))
    groups = table.group_by("run_id").aggregate(counted).sort_by("run_id").to_pylist()
    return [
        {"run_id": group["run_id"], **facts.get(group["run_id"], {}), "rows": group["count_all"]}
        | ({"units": group["unit_id_count_distinct"]} if "unit_id_count_distinct" in group else {})
        for group in groups
    ]


def facts_of(footer: Mapping[bytes, bytes] | None) -> dict[str, dict[str, Any]]:
    """Facts of runs from a footer, by run id, as `encode` takes them; empty for files that have none."""
    return {
        run["run_id"]: {key: value for key, value in run.items() if key not in ("run_id", "rows", "units")}
        for run in json.loads((footer or {}).get(RUNS, b"[]"))
    }


def replaced_by(footer: Mapping[bytes, bytes] | None) -> frozenset[str]:
    """Names of the files that a file with this footer stands for."""
    return frozenset(json.loads((footer or {}).get(REPLACES, b"[]")))


class Batch:
    """Rows on their way into one file, and whether they fill it.

    What counts is the size of the file, not of the rows in memory, which is some seven times as large
    (`benchmarks/part_sizes.py`). How many times is measured on the rows, and again when they have become many more:
    rows that are alike compress better the more they are. A file that was written says it for the next.

    Args:
        max_bytes: of the file.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._tables: list[pa.Table] = []
        self._arrow_bytes = 0
        self._file_share = 1.0
        self._measured_bytes = 0

    def __bool__(self) -> bool:
        return bool(self._tables)

    def add(self, table: pa.Table) -> None:
        self._tables.append(table)
        self._arrow_bytes += table.nbytes

    @property
    def table(self) -> pa.Table:
        """What was collected."""
        return pa.concat_tables(self._tables, promote_options="default")

    @property
    def full(self) -> bool:
        """Whether the rows fill a file."""
        if self._arrow_bytes >= MOST_ARROW_BYTES:
            return True
        if not self._fills():
            return False
        if self._arrow_bytes > 1.25 * self._measured_bytes:
            self._measured(len(encode(self.table)))
        return self._fills()

    def written(self, file_bytes: int) -> None:
        """The rows are in a file of this size; begin with the next."""
        self._measured(file_bytes)
        self._tables, self._arrow_bytes = [], 0

    def _fills(self) -> bool:
        return self._arrow_bytes * self._file_share >= self._max_bytes

    def _measured(self, file_bytes: int) -> None:
        self._file_share = file_bytes / max(1, self._arrow_bytes)
        self._measured_bytes = self._arrow_bytes


@dataclass(frozen=True)
class _Piece:
    table: pa.Table
    replaces: frozenset[str]


def read_live(
    list_parts: Callable[[], Sequence[str]],
    open_file: Open,
    schema: pa.Schema,
    columns: Iterable[str],
    where: ds.Expression | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> pa.Table:
    """Rows of all part files of a folder that count, each once, while others may add files and compact.

    A listing takes a while, so it may lack a file that was deleted and the one that replaces it. Hence a second listing
    after reading: when it shows no compacted file that the first one lacked, the first one was complete (a new file is
    there before an old one goes). Otherwise what is new is read, too. What was read stays read: files never change.

    Args:
        list_parts: paths or URLs of the part files there are.
        open_file: opens one of them; FileNotFoundError or SourceMissing if it is gone.
        schema: of the columns; those that a file lacks are null.
        columns: which to read.
        where: only rows for which this holds.

    Raises:
        StorageError: files keep changing.
    """
    names = list(columns)
    empty = pa.schema([schema.field(name) for name in names]).empty_table()

    def read(path: str) -> _Piece | None:
        try:
            with open_file(path) as file:
                fragment = _PARQUET.make_fragment(file)
                table = fragment.to_table(schema=schema, columns=names, filter=where)
                return _Piece(table, replaced_by(fragment.metadata.metadata))
        except (FileNotFoundError, SourceMissing):
            return None

    have: dict[str, _Piece] = {}
    listed = sorted(list_parts())
    for attempt in range(LISTINGS):
        missing = [path for path in listed if path not in have]
        with ThreadPoolExecutor(min(READERS, max(1, len(missing)))) as pool:
            found = zip(missing, pool.map(read, missing), strict=True)
            have |= {path: piece for path, piece in found if piece is not None}
        again = sorted(list_parts())
        complete = set(listed).issuperset(path for path in again if is_compacted(path))
        if complete and all(path in have for path in listed):
            return pa.concat_tables([empty, *_live({path: have[path] for path in listed})])
        if again == listed:  # a file is listed and cannot be opened: the listing may be behind
            sleep(0.1 * attempt)
        listed = again
    raise StorageError("part files keep changing while they are read", "try again when `luvc compact` has ended")


def _live(pieces: Mapping[str, _Piece]) -> list[pa.Table]:
    replaced = {
        posixpath.join(posixpath.dirname(path), name) for path, piece in pieces.items() for name in piece.replaces
    }
    return [piece.table for path, piece in pieces.items() if path not in replaced]

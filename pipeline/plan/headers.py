"""What headers say, kept from one plan to the next: the header of a file that has not changed is not read again.

Kept are facts of files (`pipeline.schemas.PROBES`), not rows of the manifest: another prompt, model, compression or way
of cutting needs no file either, and rows are always made by the planner, so that they are those of a plan from nothing.
Files that could not be probed are not kept: the next plan looks again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from luvc.errors import LuvcError
from pipeline.errors import SourceMissing
from pipeline.plan.item import Item
from pipeline.plan.probe import PROBE_VERSION, Probe, ProbeTask, probe, probe_all
from pipeline.schemas import PROBES
from pipeline.storage import FileInfo, Options, join, open_read, stat, write_atomic

PROBES_PATH = "probes/probes.parquet"
_VERSION_KEY = b"luvc.probe_version"
#: Local headers are bound by the CPU, remote ones by waiting.
LOCAL_THREADS = min(8, (os.cpu_count() or 2) * 2)
REMOTE_THREADS = 32
_PROBED = ("duration_s", "width_px", "height_px", "rotation_deg", "fps", "codec")


class Headers:
    """Answers for files by what is known, by their headers where it is not.

    Args:
        known: `[PROBES]` of the plan before, or None.
        key_frames: whether times of key frames are needed.

    Attributes:
        read: headers read so far.
        kept: files whose facts were taken over.
    """

    def __init__(self, known: pa.Table | None = None, key_frames: bool = False) -> None:
        self._known = _Facts(PROBES.empty_table() if known is None else known)
        self._key_frames = key_frames
        self._seen: list[_Facts] = []
        self._errors: dict[str, LuvcError] = {}
        self.read = 0
        self.kept = 0

    def look(
        self, items: Sequence[Item], progress: Callable[[int, int], None] | None = None
    ) -> dict[str, Probe | LuvcError]:
        """Facts of the items' files, or why there are none; each file once, however many clips of it are asked for.

        Args:
            items: to look at; so many that threads have work, so few that their facts fit into memory as objects.
            progress: called now and then with (files looked at, files to look at).
        """
        asked = {item.uri: ProbeTask(item.uri, item.file, item.storage) for item in items}
        found: dict[str, Probe | LuvcError] = {uri: self._errors[uri] for uri in asked if uri in self._errors}
        uris = list(asked)
        for seen in self._seen:
            found |= {uri: probed for uri, (_, probed) in self._facts(seen, uris).items()}
        new = [task for uri, task in asked.items() if uri not in found]
        before = {
            uri: fact
            for uri, fact in self._facts(self._known, [task.url for task in new]).items()
            if not self._key_frames or self._known.table["key_frames_s"][fact[0]].is_valid
        }
        kept: list[int] = []
        fresh: dict[str, Probe] = {}
        for task, probed in self._probe(new, before, progress):
            found[task.url] = probed
            if isinstance(probed, LuvcError):
                self._errors[task.url] = probed
            elif task.url in before and probed is before[task.url][1]:
                kept.append(before[task.url][0])
            else:
                fresh[task.url] = probed
        taken = self._known.table.take(pa.array(kept, pa.int64()))
        self._seen.append(_Facts(pa.concat_tables([taken, _table(fresh, self._key_frames)])))
        self.kept += len(kept)
        self.read += len(new) - len(kept)
        return found

    def table(self, with_unseen: bool = False) -> pa.Table:
        """`[PROBES]` of all files looked at; `with_unseen`: and of those known before."""
        seen = self._all_seen()
        if not with_unseen:
            return seen
        known = self._known.table
        again = pc.is_in(known["uri"], value_set=seen["uri"].combine_chunks())
        return pa.concat_tables([seen, known.filter(pc.invert(again))])

    def _all_seen(self) -> pa.Table:
        return pa.concat_tables([PROBES.empty_table(), *(seen.table for seen in self._seen)])

    def _facts(self, facts: _Facts, uris: Sequence[str]) -> dict[str, tuple[int, Probe]]:
        """By uri: row of the table, and what it says."""
        rows = facts.rows(uris)
        said = facts.table.take(pa.array(rows.values(), pa.int64())).to_pylist()
        return {uri: (row, _probe(one, self._key_frames)) for (uri, row), one in zip(rows.items(), said, strict=True)}

    def _probe(
        self,
        tasks: list[ProbeTask],
        before: Mapping[str, tuple[int, Probe]],
        progress: Callable[[int, int], None] | None,
    ) -> list[tuple[ProbeTask, Probe | LuvcError]]:
        def unchanged(task: ProbeTask, file: FileInfo | None) -> Probe | None:
            known = before.get(task.url)
            return known[1] if known and file and known[1].file.version == file.version else None

        def look(task: ProbeTask) -> Probe:
            file = task.file or stat(task.url, task.options)
            return unchanged(task, file) or probe(replace(task, file=file), self._key_frames)

        # A listing tells which files are as they were; only what it leaves open is worth a thread.
        answered = [(task, unchanged(task, task.file)) for task in tasks]
        open_tasks = [task for task, probed in answered if probed is None]
        threads = REMOTE_THREADS if any("://" in task.url for task in open_tasks) else LOCAL_THREADS
        settled = len(tasks) - len(open_tasks)
        told = progress and (lambda done, _: progress(settled + done, len(tasks)))
        probed = iter(probe_all(open_tasks, look, threads, progress=told))
        return [(task, known or next(probed)) for task, known in answered]


class _Facts:
    """A table of `PROBES`, and where in it a uri stands.

    Hashes are sorted once. Arrow's own lookup hashes the whole table again for each window of files, a quarter of the
    time of a plan of a million. Of two uris with one hash only the first is found; the header of the other is read.
    """

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        batches = table.select(["uri"]).to_batches(max_chunksize=10_000)
        hashes = np.concatenate([np.empty(0, np.int64), *(_hashes(one["uri"].to_pylist()) for one in batches)])
        self._order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._order]

    def rows(self, uris: Sequence[str]) -> dict[str, int]:
        """Of those that are in the table."""
        wanted = _hashes(uris)
        at = np.searchsorted(self._hashes, wanted)
        there = np.flatnonzero(at < len(self._hashes))
        there = there[self._hashes[at[there]] == wanted[there]]
        rows = self._order[at[there]]
        found = self.table["uri"].take(pa.array(rows)).to_pylist()
        named = zip(found, there.tolist(), rows.tolist(), strict=True)
        return {uri: row for uri, index, row in named if uri == uris[index]}


def _hashes(texts: Sequence[str]) -> np.ndarray:
    return np.fromiter(map(hash, texts), np.int64, len(texts))


def _probe(row: Mapping[str, Any], key_frames: bool) -> Probe:
    return Probe(
        FileInfo(row["uri"], row["size_bytes"], row["etag"]),
        row["duration_s"],
        row["width_px"],
        row["height_px"],
        row["rotation_deg"],
        row["fps"],
        row["codec"],
        tuple(row["key_frames_s"] or ()) if key_frames else (),
    )


def _table(probes: Mapping[str, Probe], key_frames: bool) -> pa.Table:
    rows = [
        {
            **{name: getattr(one, name) for name in _PROBED},
            "uri": uri,
            "etag": one.file.version,
            "size_bytes": one.file.size_bytes,
            "key_frames_s": one.key_frames_s if key_frames else None,
        }
        for uri, one in probes.items()
    ]
    return pa.Table.from_pylist(rows, schema=PROBES)


def write_probes(table: pa.Table, output_url: str, options: Options | None = None) -> None:
    """Publish the facts of files below an output folder."""
    metadata = {**(table.schema.metadata or {}), _VERSION_KEY: PROBE_VERSION.encode()}
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(metadata), sink, compression="zstd")
    write_atomic(join(output_url, PROBES_PATH), sink.getvalue().to_pybytes(), options)


def read_probes(output_url: str, options: Options | None = None) -> pa.Table | None:
    """What the last plan left; None if there was none, or if headers were read by other rules then."""
    try:
        with open_read(join(output_url, PROBES_PATH), options) as file:
            table = pq.read_table(file)
    except SourceMissing:
        return None
    if (table.schema.metadata or {}).get(_VERSION_KEY) != PROBE_VERSION.encode():
        return None
    return table.select(PROBES.names).cast(PROBES)

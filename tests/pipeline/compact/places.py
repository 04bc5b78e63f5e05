"""Outputs with many small files, and where they lie."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import schemas, storage
from pipeline.compact import KINDS
from pipeline.report import build_report
from pipeline.report.files import Output
from pipeline.run.folder import Folder
from pipeline.run.ledger import read_done
from tests.pipeline.report import outputs

UNITS, FAILED = 40, 6


@dataclass(frozen=True)
class Place:
    """An output folder on some store."""

    url: str
    options: dict[str, Any]

    def files(self, kind: str) -> list[str]:
        return Folder(self.url, self.options).parts(kind)

    def rows(self, kind: str) -> list[dict[str, Any]]:
        """What a reader of this project sees."""
        table = Output.at(self.url, self.options).table(kind, KINDS[kind], KINDS[kind].names)
        return sorted(table.to_pylist(), key=str)

    def plain_rows(self, kind: str) -> int:
        """What a reader sees that knows nothing of footers."""
        return sum(pq.read_metadata(self.open(url)).num_rows for url in self.files(kind))

    def open(self, url: str) -> io.BytesIO:
        return io.BytesIO(storage.read_bytes(url, self.options))

    def done(self) -> int:
        folder = Folder(self.url, self.options)
        return len(read_done(lambda: folder.parts("results"), folder.open))

    def versions(self) -> dict[str, str]:
        return {info.url: info.version for info in storage.list_files(self.url, self.options)}


def fill(folder: Path, part_rows: int, partitions: bool = False) -> Path:
    """A run's output with many small files, on request some of them in two partitions."""
    plan = outputs.manifest(UNITS, {"a": "What?", "b": "Why?"})
    rng = np.random.default_rng(1)
    order = rng.permutation(UNITS)
    answered, failed = outputs.results(plan, np.sort(order[FAILED:])), outputs.failures(plan, order[:FAILED])
    # Something that does not compress, so that sizes are those of rows and not of footers.
    noise = pa.array([rng.bytes(3000) for _ in range(len(answered))], pa.binary())
    answered = answered.set_column(
        answered.schema.names.index("thumbnail"), schemas.RESULTS.field("thumbnail"), noise
    ).cast(schemas.RESULTS)
    log = outputs.events(UNITS, UNITS - FAILED, FAILED, outcome="some_failed")
    path = outputs.write(folder, plan, answered, failed, log, part_rows=part_rows)
    build_report(path)
    for index, part in enumerate(sorted((folder / "results").iterdir()) if partitions else ()):
        if index % 3:
            day = folder / "results" / f"dt=2026-03-0{index % 3}"
            day.mkdir(exist_ok=True)
            part.rename(day / part.name)
    return folder

"""Writes docs/output.md from the schemas: `python -m pipeline.report.schema_docs > docs/output.md`.

Descriptions come from `pipeline.schemas` and from the dataclasses of `metrics.json`, so the page cannot drift.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
import types
import typing
from collections.abc import Iterator

import pyarrow as pa

from pipeline import schemas
from pipeline.report import records

HEAD = """\
# Output

<!-- Written by `python -m pipeline.report.schema_docs > docs/output.md`; a test keeps it up to date. -->

A run writes one folder, on a disk or in an object store:

```
OUT/
  manifest/manifest.parquet          what is to be done: one row a unit (a clip with its prompts)
  results/part-*.parquet             answers: one row a unit and prompt
  failures/part-*.parquet            what could not be done, and why: one row a unit and run
  quality/part-*.parquet             some answers of each run beside those without compression
  metrics/part-<run_id>.parquet      speed, tokens and cost over time, by stage
  runs/<run_id>/config.yaml          the configuration of the run, without storage options
  runs/<run_id>/events.jsonl         what happened, one JSON object a line
  runs/<run_id>/metrics.json         the figures of the report, for machines
  runs/<run_id>/report.html          the report, one file without any links to elsewhere
  report.html, metrics.json          those of the newest run
```

Rules that hold at any moment, even after a crash:

- A file appears whole or not at all. Names that begin with `.` or `_` are not data.
- All rows of a unit are in one file, and no (unit_id, prompt_id) is there twice (but see "Part files" for the moments
  of a compaction).
- A unit is *done* if it has results, *failed* if it has a failure and no results, and *pending* otherwise:
  `planned = done + failed + pending`.
- `quality/` decides nothing: a unit that could not be compared is done all the same. The comparison of a unit is on
  disk before its results are; after a crash a unit may have been compared twice, then the later row counts.
- Rows of units that are not in the manifest belong to earlier plans (another prompt, another setting). They stay,
  and reports do not count them. Join with the manifest to see the current plan only.

"""

PARTS = """\
## Part files

Parquet with zstd, rows sorted by uri, start and unit, in groups of 16,384 rows. A run closes a part after
`output.part_units` units, `output.part_bytes` bytes (of the file, not of the rows in memory) or 30 seconds, whichever
comes first, so that a crash costs little; `luvc compact OUT` joins small ones afterwards.

With `output.partition: date`, parts of results, failures and quality lie in folders `dt=YYYY-MM-DD`. The date is the
day the run began, in UTC, as its id says: a run over midnight has one partition, and a failed unit that is tried again
has its new rows in the later one. Files have no column `dt`; readers that know partitions make one of the folder's
name. Both layouts may stand in one output (a setting that was changed), and everything in this project reads both.

Beside the schema with its descriptions, the footer has these keys:

| key | holds |
|---|---|
| `luvc.schema`, `luvc.schema_version` | which of the tables below, and its version |
| `luvc.runs` | JSON list, one object a run that has rows here: run_id, name, model, config_hash, versions, rows, \
units (not in metrics) |
| `luvc.replaces` | of a compacted file: JSON list of the names of the files in its folder that it stands for |
| `luvc.arrow_bytes` | of a compacted file: size of its rows in memory |

**Compaction.** `luvc compact` writes `part-<run_id>-compact-<digest>.parquet`, then deletes the files named by its
`luvc.replaces`; each new file is one such step. Files that a whole file replaces do not count any more, and every
reader of this project leaves them out: a report beside a compaction, or after one that was killed, counts each row
once, and the next compaction deletes what is left. Other readers know nothing of this. Between the write and the last
delete of a step (a request to an object store each, 16 at a time) they see the rows of that step twice, and a reader
that listed the folder before may find a file gone. After a killed compaction that lasts until the next one. So compact
when nobody reads, or keep one row for each (unit_id, prompt_id), or in failures for each (unit_id, run_id). A run and
a compaction exclude each other by `run.lease.json`.

"""

READING = """\
## Reading it

Captions of the current plan, as a table, with pyarrow and pandas:

```python
import pyarrow.dataset as ds
import pyarrow.parquet as pq

plan = pq.read_table("OUT/manifest/manifest.parquet", columns=["unit_id"])
captions = ds.dataset("OUT/results", format="parquet").to_table(columns=["unit_id", "uri", "prompt_id", "text"])
frame = captions.join(plan, "unit_id", join_type="inner").to_pandas()
```

With pandas alone, a whole folder at once:

```python
import pandas as pd

frame = pd.read_parquet("OUT/results", columns=["uri", "start_s", "end_s", "text"])
```

With Polars; `hive_partitioning=False` leaves out the column `dt`, which not all files of a mixed layout have:

```python
import polars as pl

columns = ["uri", "start_s", "end_s", "text"]
frame = pl.read_parquet("OUT/results/**/*.parquet", columns=columns, hive_partitioning=False)
```

With Hugging Face `datasets`:

```python
import datasets

frame = datasets.load_dataset("parquet", data_files="OUT/results/**/*.parquet", split="train")
```

With Spark: `spark.read.parquet("OUT/results")`, and `spark.read.option("recursiveFileLookup", True)` before it where
both layouts are mixed, which Spark calls conflicting. Names and types are those that Spark reads (a test checks the
rules; Spark itself was not run).

With DuckDB, also straight from `s3://` after `INSTALL httpfs; LOAD httpfs;`:

```sql
-- failures by cause, the latest of each unit, without those that succeeded later
SELECT stage, error_class, count(*) AS units, any_value(message) AS example
FROM (SELECT *, row_number() OVER (PARTITION BY unit_id ORDER BY failed_at DESC) AS newest
      FROM 'OUT/failures/**/*.parquet')
WHERE newest = 1 AND unit_id NOT IN (SELECT unit_id FROM 'OUT/results/**/*.parquet')
GROUP BY ALL ORDER BY units DESC;

-- hours of video and dollars a night
SELECT run_id, sum(video_s) / 3600 AS video_hours, sum(cost_usd) AS usd
FROM 'OUT/metrics/*.parquet' WHERE stage = 'total' GROUP BY run_id ORDER BY run_id;
```

In results, columns of the unit (tokens, frames, `video_s`, the thumbnail) stand on each of its rows: take one row a
unit before adding them up. The seconds of the stages are shared out over the rows: their sum is right as it is.

"""

TABLES = (
    ("manifest", "`manifest/manifest.parquet`", "One row a unit. A new plan replaces it.", schemas.MANIFEST),
    ("results", "`results/part-*.parquet`", "One row a unit and prompt. Rows are only ever added.", schemas.RESULTS),
    (
        "failures",
        "`failures/part-*.parquet`",
        "One row a failed unit and run. A unit that later succeeds keeps its row here and counts as done.",
        schemas.FAILURES,
    ),
    (
        "quality",
        "`quality/part-*.parquet`",
        "One row a unit of the quality slice and prompt: the answer of the run, and that of the same weights to the "
        "same frames without compression. The seconds are those of the clip answered alone, a second time with "
        "compression and once without: comparable with each other, not with those in results, which come from full "
        "batches.",
        schemas.QUALITY,
    ),
    (
        "metrics",
        "`metrics/part-<run_id>.parquet`",
        "For each interval of a run one row with stage `total`, and one for each stage. "
        "Written anew with each report of the run; once compacted, in its place there.",
        schemas.METRICS,
    ),
)  # fmt: skip

METRICS_JSON = """\
## `metrics.json`

The figures of the report. Keys are stable within a `version`; a figure that is not known is null, never zero.
`done`, `failed` and so on count the current plan, whichever run did the work; `run`, `run_speed`, `run_cost`,
`estimate`, `uncompressed`, `rates` and `changes` are about one run and null before the first.

`rates` calibrate the estimates of later runs with the same name, model and compression. `quality` is about the units in
`sample` of the run's `run_started`; a run that went on for one that was killed has the sample of that one.

"""

EVENTS = """\
## `events.jsonl`

Every line has `t` (UTC, ISO 8601), `event` and `run_id`; counts of a heartbeat are cumulative. A killed run may end in
half a line, and has no `run_finished`.

| event | fields |
|---|---|
| `run_started` | name, planned, done, failed, pending, versions, machine, config_hash, estimate, \
sample: unit ids of the quality slice |
| `engine_ready` | worker, startup_s; attention, dtype, device where the engine tells |
| `heartbeat` | done, failed, left, videos_per_s, eta_s, engine_peak_bytes, stage: busy_s, starved_s, units; \
storage: writes, reads; quality: compared, failed, agreement, where there is a slice |
| `part_written` | path, rows, units, bytes |
| `unit_failed` | unit_id, stage, error_class |
| `run_finished` | outcome (done, some_failed, interrupted, aborted), done, failed, left, wall_s |
"""


def document() -> str:
    """The page."""
    version = (
        f"Schema version {schemas.SCHEMA_VERSION}; it stands in each file's metadata as `luvc.schema_version`.\n\n"
    )
    tables = "## Parquet files\n\n" + version + "\n".join(_table(*table) for table in TABLES)
    return HEAD + PARTS + READING + tables + "\n" + METRICS_JSON + _json_keys() + "\n" + EVENTS


def _table(name: str, path: str, explanation: str, schema: pa.Schema) -> str:
    rows = [f"### {name}: {path}", "", explanation, "", "| column | type | meaning |", "|---|---|---|"]
    for field in schema:
        required = "" if field.nullable else " Never null."
        rows.append(f"| `{field.name}` | {_type(field.type)} | {_description(field)}{required} |")
    return "\n".join(rows) + "\n"


def _description(field: pa.Field) -> str:
    return (field.metadata or {})[b"description"].decode()


def _type(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return f"list of {_type(kind.value_type)}"
    if pa.types.is_struct(kind):
        return "{" + ", ".join(f"{field.name}: {_type(field.type)}" for field in kind) + "}"
    return {"double": "float64", "timestamp[ms, tz=UTC]": "timestamp (ms, UTC)"}.get(str(kind), str(kind))


def _json_keys() -> str:
    hints = typing.get_type_hints(records.Metrics)
    rows = ["| key | holds |", "|---|---|"]
    for field in dataclasses.fields(records.Metrics):
        part = next(_dataclasses(hints[field.name]), None)
        listed = "List. " if typing.get_origin(hints[field.name]) is tuple else ""
        rows.append(f"| `{field.name}` | {listed}{_summary(part) if part else PLAIN_KEYS[field.name]} |")
    parts: dict[type, list[str]] = {}
    _collect(records.Metrics, "", parts)
    return "\n".join(rows) + "\n" + "".join(_part(part, paths) for part, paths in parts.items())


def _collect(part: type, prefix: str, found: dict[type, list[str]]) -> None:
    """Every dataclass below `part` with the keys it stands under."""
    for key, hint in typing.get_type_hints(part).items():
        for inner in _dataclasses(hint):
            path = f"{prefix}{key}" + ("[]" if typing.get_origin(hint) is tuple else "")
            found.setdefault(inner, []).append(path)
            _collect(inner, f"{path}.", found)


#: Keys of `metrics.json` whose value is no object.
PLAIN_KEYS = {
    "version": "Version of these keys.",
    "outcome": "How things stand, in a sentence.",
    "bottleneck": "What held the run back, in a sentence.",
    "changes": "What changed since the run before, in a sentence; null for the first run of a name.",
    "layer_tokens": "Mean visual tokens alive in each layer of the language model.",
    "finish_reasons": "Answers by finish reason.",
}


def _dataclasses(hint: object) -> Iterator[type]:
    """Dataclasses inside a type hint."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        yield hint
    for inner in typing.get_args(hint):
        yield from _dataclasses(inner)


def _part(part: type, paths: list[str]) -> str:
    explained = _attributes(part)
    hints = typing.get_type_hints(part)
    title = ", ".join(f"`{path}`" for path in paths)
    rows = [f"\n### {title}", "", _summary(part), "", "| key | type | meaning |", "|---|---|---|"]
    for field in dataclasses.fields(part):
        rows.append(f"| `{field.name}` | {_json_type(hints[field.name])} | {explained[field.name]} |")
    return "\n".join(rows) + "\n"


def _summary(part: type) -> str:
    """First paragraph of the docstring."""
    return _prose((inspect.getdoc(part) or "").split("\n\n")[0])


def _prose(text: str) -> str:
    """One line, in the words of JSON."""
    return " ".join(text.split()).replace("None", "null")


def _attributes(part: type) -> dict[str, str]:
    """The `Attributes:` of a docstring: `a, b: text` explains both."""
    _, _, text = (inspect.getdoc(part) or "").partition("Attributes:\n")
    found: dict[str, str] = {}
    for entry in re.split(r"\n(?=    \w)", "\n" + text):
        names, colon, meaning = entry.strip().partition(": ")
        if colon:
            for name in names.split(","):
                found[name.strip()] = _prose(meaning)
    return found


def _json_type(hint: object) -> str:
    simple = {str: "string", int: "integer", float: "number", types.NoneType: "null", typing.Any: "any"}
    if hint in simple:
        return simple[hint]
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        return f"list of {_json_type(inner[0])}"
    if origin is dict:
        return "object"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_json_type(item) for item in inner)
    return getattr(hint, "__name__", str(hint))


if __name__ == "__main__":
    sys.stdout.write(document())

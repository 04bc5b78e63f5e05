"""What others read our files with: pyarrow, pandas, DuckDB, Polars, datasets, and the rules of Spark's reader.

Each reads an output whose parts lie flat, one with a partition for each day, and one with both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import datasets
import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from pipeline import schemas
from pipeline.parts import encode
from tests.pipeline.report import outputs

ROWS, DAYS = 40, ("2026-03-04", "2026-03-05")
FLAT, DATED, MIXED = "flat", "dated", "mixed"
EVERY_SCHEMA = (schemas.MANIFEST, schemas.RESULTS, schemas.FAILURES, schemas.METRICS, schemas.QUALITY)


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of results by layout; each holds the same rows in four files as a run writes them."""
    plan = outputs.manifest(ROWS, {"caption": "Describe this video."})
    table = outputs.results(plan, np.arange(ROWS))
    made = {}
    for layout in (FLAT, DATED, MIXED):
        made[layout] = tmp_path_factory.mktemp(layout) / "results"
        for index in range(4):
            dated = layout == DATED or (layout == MIXED and index < 2)
            folder = made[layout] / f"dt={DAYS[index % 2]}" if dated else made[layout]
            folder.mkdir(parents=True, exist_ok=True)
            part = table.slice(index * ROWS // 4, ROWS // 4)
            (folder / f"part-{outputs.RUN_ID}-driver-{index:05d}.parquet").write_bytes(encode(part))
    return made


@pytest.fixture(params=[FLAT, DATED, MIXED])
def folder(request: pytest.FixtureRequest, layouts: dict[str, Path]) -> Path:
    return layouts[request.param]


def test_pyarrow(folder: Path):
    table = ds.dataset(folder).to_table()
    assert table.schema.equals(schemas.RESULTS)
    assert len(set(table["unit_id"].to_pylist())) == table.num_rows == ROWS


def test_pyarrow_with_partitions(layouts: dict[str, Path]):
    table = ds.dataset(layouts[DATED], partitioning="hive").to_table(filter=ds.field("dt") == DAYS[0])
    assert table.num_rows == ROWS // 2
    assert table.schema.names == [*schemas.RESULTS.names, "dt"]


def test_pandas(folder: Path):
    frame = pd.read_parquet(folder)
    assert frame["unit_id"].nunique() == len(frame) == ROWS
    assert [name for name in frame.columns if name != "dt"] == schemas.RESULTS.names
    assert str(frame["finished_at"].dtype) == "datetime64[ms, UTC]"
    assert len(frame["layer_tokens"][0]) == outputs.LAYERS


def test_duckdb(folder: Path):
    found = duckdb.sql(f"SELECT count(DISTINCT unit_id), count(*), sum(output_tokens) FROM '{folder}/**/*.parquet'")
    ((units, rows, tokens),) = found.fetchall()
    assert units == rows == ROWS
    assert tokens > 0


def test_duckdb_with_partitions(layouts: dict[str, Path]):
    sql = (
        f"SELECT dt, count(*) FROM read_parquet('{layouts[DATED]}/**/*.parquet', hive_partitioning = true) GROUP BY dt"
    )
    assert sorted((str(day), rows) for day, rows in duckdb.sql(sql).fetchall()) == [(day, ROWS // 2) for day in DAYS]


def test_polars(folder: Path):
    frame = pl.read_parquet(f"{folder}/**/*.parquet", hive_partitioning=False)
    assert frame["unit_id"].n_unique() == len(frame) == ROWS
    assert frame.columns == schemas.RESULTS.names
    assert frame.schema["finished_at"] == pl.Datetime("ms", "UTC")


def test_polars_with_partitions(layouts: dict[str, Path]):
    frame = pl.scan_parquet(layouts[DATED]).filter(pl.col("dt").cast(pl.String) == DAYS[0]).collect()
    assert len(frame) == ROWS // 2


def test_hugging_face_datasets(folder: Path, tmp_path: Path):
    found = datasets.load_dataset(
        "parquet", data_files=f"{folder}/**/*.parquet", split="train", cache_dir=str(tmp_path / "cache")
    )
    assert len(set(found["unit_id"])) == len(found) == ROWS
    assert set(found.column_names) - {"dt"} == set(schemas.RESULTS.names)
    assert found[0]["text"] in outputs.CAPTIONS


# -- Spark

#: What Spark 3 and 4 read from Parquet as they are: types by their Arrow names.
SPARK_TYPES = re.compile(r"bool|int(8|16|32|64)|float|double|string|binary|date32\[day\]|timestamp\[(ms|us), tz=UTC\]")


def spark_objections(schema: pa.Schema) -> Iterator[str]:
    """Why Spark's Parquet reader, or a table made from it, would not take a schema; nothing if it would.

    Unsigned integers and times in nanoseconds have no Spark type, a time without zone is read differently by version,
    a column of nulls has no type at all, names differ in more than upper and lower case (`spark.sql.caseSensitive` is
    off), and characters that Spark's writers refuse make a table that cannot be written again.
    """

    def of(field: pa.Field, path: str) -> Iterator[str]:
        if re.search(r"[ ,;{}()\n\t=]", field.name):
            yield f"{path}: a character that Spark refuses in names"
        kind = field.type
        if pa.types.is_list(kind):
            yield from of(kind.value_field, f"{path}[]")
        elif pa.types.is_struct(kind):
            yield from of_all(list(kind), f"{path}.")
        elif not SPARK_TYPES.fullmatch(str(kind)):
            yield f"{path}: {kind} has no type in Spark"

    def of_all(fields: list[pa.Field], prefix: str) -> Iterator[str]:
        names = [field.name.lower() for field in fields]
        for field in fields:
            if names.count(field.name.lower()) > 1:
                yield f"{prefix}{field.name}: there twice"
            yield from of(field, prefix + field.name)

    yield from of_all(list(schema), "")


@pytest.mark.parametrize("schema", EVERY_SCHEMA, ids=lambda schema: schema.metadata[b"luvc.schema"].decode())
def test_spark_takes_every_schema(schema: pa.Schema):
    assert list(spark_objections(schema)) == []
    assert "dt" not in schema.names, "the column that readers make of a partition's name"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("tokens", pa.uint32()),
        ("at", pa.timestamp("ns", tz="UTC")),
        ("at", pa.timestamp("ms")),
        ("nothing", pa.null()),
        ("wall time", pa.float64()),
        ("a", pa.list_(pa.uint8())),
        ("a", pa.struct([("b c", pa.string())])),
        ("a", pa.struct([("b", pa.string()), ("B", pa.string())])),
        ("half", pa.float16()),
        ("long", pa.time64("ns")),
    ],
)
def test_what_spark_would_not_take(name: str, kind: pa.DataType):
    assert len(list(spark_objections(pa.schema([(name, kind)])))) >= 1

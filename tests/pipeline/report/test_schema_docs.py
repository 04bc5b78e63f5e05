"""docs/output.md is what the schemas say, and its examples run."""

from __future__ import annotations

import re
from pathlib import Path

import datasets
import duckdb
import pytest

from pipeline import schemas
from pipeline.report import build_report, schema_docs
from tests.pipeline.report import outputs

PAGE = Path(__file__).parents[3] / "docs" / "output.md"


def test_the_page_is_up_to_date() -> None:
    command = "python -m pipeline.report.schema_docs > docs/output.md"
    assert PAGE.read_text(encoding="utf-8") == schema_docs.document(), f"run: {command}"


def test_every_column_and_key_is_explained() -> None:
    text = schema_docs.document()
    for schema in (schemas.MANIFEST, schemas.RESULTS, schemas.FAILURES, schemas.METRICS):
        for field in schema:
            assert re.search(rf"^\| `{field.name}` \| [^|]+ \| \S[^|]+\. ?[^|]*\|$", text, re.M), field.name
    assert not re.search(r"\|\s*\|$", text, re.M)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = outputs.demo(tmp_path_factory.mktemp("out"), prompts={"a": "Describe.", "b": "Is it raining?"})
    build_report(path)
    return path


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", schema_docs.READING, re.S))
def test_python_examples_run(code: str, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    names: dict = {}
    exec(code.replace("OUT/", f"{folder}/"), names)
    assert len(names["frame"]) == 113 * 2


def test_sql_examples_run(folder: str) -> None:
    (sql,) = re.findall(r"```sql\n(.*?)```", schema_docs.READING, re.S)
    statements = [part.replace("OUT/", f"{folder}/") for part in sql.split(";") if part.strip()]
    failures, nights = (duckdb.sql(statement).fetchall() for statement in statements)
    assert sum(row[2] for row in failures) == 7
    assert nights[0][1] == pytest.approx(113 * 30 / 3600)

"""What is planned: directories, globs, single files and input manifests; mistakes name line and column."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from luvc.errors import ConfigError
from pipeline.plan.item import Item
from pipeline.plan.sources import InputSource, list_items


def items(path: Path | str, **options: Any) -> list[Item]:
    return list(list_items(InputSource(path=str(path), **options), key="inputs.0.path"))


def mistake(path: Path | str) -> str:
    with pytest.raises(ConfigError) as caught:
        items(path)
    return str(caught.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.mp4", "a.MOV", "sub/c.webm", "notes.txt", ".hidden.mp4", "sub/.tmp/d.mp4"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path


def names(found: list[Item]) -> list[str]:
    return [item.uri.rsplit("/", 1)[-1] for item in found]


def test_a_directory_gives_its_videos_sorted(folder: Path) -> None:
    assert names(items(folder)) == ["a.MOV", "b.mp4", "c.webm"]
    assert names(items(folder, recursive=False)) == ["a.MOV", "b.mp4"]
    assert items(folder)[0].file is not None


def test_a_glob_takes_what_it_names(folder: Path) -> None:
    assert names(items(folder / "*.txt")) == ["notes.txt"]
    assert names(items(f"{folder}/**/*.webm")) == ["c.webm"]


def test_a_folder_with_a_wildcard_in_its_name_is_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "clips [2024]"
    folder.mkdir()
    for name in ("a.mp4", "b.txt"):
        (folder / name).write_bytes(b"x")
    (folder / "list.jsonl").write_text('{"uri": "a.mp4", "id": "one"}')
    assert names(items(folder)) == ["a.mp4"]
    assert names(items(folder / "*")) == ["a.mp4", "b.txt", "list.jsonl"]
    assert [(item.uri, item.item_id) for item in items(folder / "list.jsonl")] == [(f"{folder}/a.mp4", "one")]
    assert "no such file, folder or match" in mistake(tmp_path / "clips [2023]")


def test_the_same_on_a_store(s3: dict[str, Any]) -> None:
    for name in ("a.mp4", "b.txt"):
        s3["client"].put_object(Bucket=s3["bucket"], Key=f"clips [2024]/{name}", Body=b"x")
    assert names(items(f"{s3['url']}/clips [2024]", storage=s3["storage"])) == ["a.mp4"]
    assert names(items(f"{s3['url']}/clips*/*", storage=s3["storage"])) == ["a.mp4", "b.txt"]


def test_a_glob_below_a_hidden_folder(tmp_path: Path) -> None:
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "a.mp4").write_bytes(b"x")
    assert names(items(tmp_path / ".cache" / "*.mp4")) == ["a.mp4"]


def test_a_folder_of_links(folder: Path) -> None:
    (folder / "links").mkdir()
    (folder / "links" / "x.mp4").symlink_to("../b.mp4")
    found = items(folder / "links")
    assert names(found) == ["x.mp4"]
    assert found[0].file is not None
    assert found[0].file.size_bytes == 1


def test_a_subfolder_that_cannot_be_read_is_a_mistake(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scandir(path: Any, original: Any = os.scandir) -> Any:
        if str(path).endswith("/sub"):
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert f"{folder}/sub: no permission to read" in mistake(folder)


def test_a_name_that_is_not_utf8_is_an_item_that_says_so(folder: Path) -> None:
    (folder / os.fsdecode(b"caf\xe9.mp4")).write_bytes(b"x")
    odd = items(folder)[2]
    assert odd.uri == f"{folder}/caf\\xe9.mp4"
    assert type(odd.error).__name__ == "NameNotUtf8"
    assert [item.error for item in items(folder) if item is not odd].count(None) == 3
    single = items(folder / os.fsdecode(b"caf\xe9.mp4"))
    assert (single[0].uri, str(single[0].error)) == (odd.uri, str(odd.error))
    assert "rename it" in str(odd.error)


def test_a_single_file_of_any_name(folder: Path) -> None:
    (folder / "odd[1].bin").write_bytes(b"x")
    assert names(items(folder / "notes.txt")) == ["notes.txt"]
    assert names(items(folder / "odd[1].bin")) == ["odd[1].bin"]


def test_nothing_to_plan_is_a_mistake(folder: Path) -> None:
    assert "inputs.0.path" in mistake(folder / "none")
    assert "no such file, folder or match" in mistake(folder / "*.avi")
    (folder / "texts").mkdir()
    (folder / "texts" / "a.txt").write_text("x")
    assert "1 files, none with a video's extension" in mistake(folder / "texts")


ROWS = [
    {"uri": "a.mp4", "start_s": 1.5, "end_s": 3, "prompt": "What: is this, please?", "prompt_id": "q", "id": "first"},
    {"uri": "/abs/b.mp4"},
    {"uri": "s3://bucket/c.mp4", "start_s": None, "prompt": None, "id": 7},
]


def write(folder: Path, kind: str, rows: list[dict[str, Any]]) -> Path:
    path = folder / f"list.{kind}"
    if kind == "jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n", encoding="utf-8")
    elif kind == "csv":
        columns = list(dict.fromkeys(key for row in rows for key in row))
        lines = [",".join(columns)]
        for row in rows:
            cells = ["" if row.get(key) is None else str(row[key]) for key in columns]
            lines.append(",".join(f'"{cell}"' if "," in cell else cell for cell in cells))
        path.write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8")
    else:
        pq.write_table(pa.Table.from_pylist([{**row, "id": str(row.get("id"))} for row in rows]), path)
    return path


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_manifests(tmp_path: Path, kind: str) -> None:
    first, second, third = items(write(tmp_path, kind, ROWS))
    assert first.uri == f"{tmp_path}/a.mp4"
    assert (first.start_s, first.end_s, first.item_id) == (1.5, 3.0, "first")
    assert first.prompts == (("q", "What: is this, please?"),)
    assert (second.uri, second.start_s, second.prompts) == ("/abs/b.mp4", None, None)
    assert (third.uri, third.item_id) == ("s3://bucket/c.mp4", "7")


@pytest.mark.parametrize("column", ["path", "url", "video"])
def test_other_names_for_the_uri(tmp_path: Path, column: str) -> None:
    (tmp_path / "list.jsonl").write_text(json.dumps({column: "x.mp4", "caption": "ignored"}))
    assert names(items(tmp_path / "list.jsonl")) == ["x.mp4"]


def test_a_prompt_may_be_several(tmp_path: Path) -> None:
    (tmp_path / "list.jsonl").write_text(json.dumps({"uri": "x", "prompt": {"a": "A?", "b": "B?"}}))
    assert items(tmp_path / "list.jsonl")[0].prompts == (("a", "A?"), ("b", "B?"))


def test_relative_uris_of_a_remote_manifest(s3: dict[str, Any]) -> None:
    s3["client"].put_object(Bucket=s3["bucket"], Key="lists/a.jsonl", Body=b'{"uri": "clips/x.mp4"}\n')
    found = items(f"{s3['url']}/lists/a.jsonl", storage=s3["storage"])
    assert found[0].uri == f"{s3['url']}/lists/clips/x.mp4"
    assert found[0].storage == s3["storage"]
    assert "testing" not in repr(found)


BAD = {
    ("jsonl", '{"uri": "a"}\n{"uri": \n'): "line 2: not JSON",
    ("jsonl", '"a.mp4"\n'): "line 1: expected an object",
    ("jsonl", '{"uri": "a"}\n{"start_s": 1}\n'): "line 2: no uri",
    ("jsonl", '{"uri": "a", "start_s": "soon"}\n'): "line 1, column 'start_s': 'soon' is not a number of seconds",
    ("jsonl", '{"uri": "a", "start_s": -1}\n'): "line 1, column 'start_s': -1",
    ("jsonl", '{"uri": "a", "start_s": 5, "end_s": 5}\n'): "line 1, column 'end_s': 5 is not after start_s",
    ("jsonl", '{"uri": "a", "end": 5}\n'): "unknown column 'end' (name it 'end_s', in seconds)",
    ("jsonl", '{"uri": "a", "prompt": 5}\n'): "line 1, column 'prompt'",
    ("jsonl", '{"uri": "a"}\n{"uri": "b\\ud83d.mp4"}\n'): "line 2, the uri: ",
    ("jsonl", '{"uri": "a", "id": "\\udce9"}\n'): "line 1, column 'id': '\\udce9' cannot be written as UTF-8",
    ("jsonl", '{"uri": "a", "prompt": "Who? \\ud83d"}\n'): "line 1, column 'prompt': prompt 'prompt' is 'Who? \\ud83d'",
    ("jsonl", '{"uri": "a", "prompt": {"\\ud83d": "Who?"}}\n'): "line 1, column 'prompt': prompt '\\ud83d'",
    ("jsonl", '{"uri": "a", "prompt": "Who?", "prompt_id": "\\ud83d"}\n'): "line 1, column 'prompt_id': '\\ud83d'",
    ("jsonl", '{"uri": "a", "start_s": 1' + "0" * 400 + "}\n"): "line 1, column 'start_s': 1000",
    ("jsonl", "[" * 100_000): "line 1: not JSON",
    ("jsonl", "\n"): "has no rows",
    ("csv", 'uri,"prompt\na.mp4,x\n'): "line 1: not CSV: unexpected end of data",
    ("csv", 'uri,prompt\na.mp4,x\nb.mp4,"x\n\n'): "line 3: not CSV: unexpected end of data",
    ("csv", "name,start_s\na,1\n"): "line 1: no uri",
    ("csv", "uri,start_s\na.mp4,x\n"): "line 2, column 'start_s': 'x'",
    ("csv", "uri,prompt\na.mp4,one, two\n"): "line 2: more fields than the header",
    ("csv", "uri\n"): "has no rows",
    ("parquet", "PAR1 but not really"): "not Parquet",
}


@pytest.mark.parametrize(("kind", "text"), BAD)
def test_bad_rows_name_line_and_column(tmp_path: Path, kind: str, text: str) -> None:
    path = tmp_path / f"bad.{kind}"
    path.write_text(text)
    message = mistake(path)
    assert BAD[kind, text] in message
    assert str(path) in message


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_only_line_ends_end_a_line(tmp_path: Path, end: str) -> None:
    """Whoever writes JSON as it is, not escaped, leaves characters in it that end a line for Python."""
    texts = ["one\u2028two", "one\u2029two", "one\x85two", "\U0001f600"]
    rows = [json.dumps({"uri": "a.mp4", "prompt": text}, ensure_ascii=False) for text in texts]
    (tmp_path / "list.jsonl").write_bytes(end.join([*rows, ""]).encode())
    assert [item.prompts and item.prompts[0].text for item in items(tmp_path / "list.jsonl")] == texts


def test_a_manifest_that_is_not_there(tmp_path: Path) -> None:
    assert "no such file" in mistake(tmp_path / "none.jsonl")

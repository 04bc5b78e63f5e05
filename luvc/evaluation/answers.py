"""The table of answers: one row per question and setting, kept in one file that a stopped study goes on with.

Parquet, or JSON lines where pyarrow is not installed: the file's ending decides. Written aside and renamed, so the
file is whole at any moment. Rows are plain dictionaries; COLUMNS says what is in them.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from luvc.errors import ConfigError

Row = dict[str, Any]

#: Column -> (Arrow type, what it is).
COLUMNS: dict[str, tuple[str, str]] = {
    "question_id": ("string", "id of the question"),
    "video": ("string", "its video, as the question file names it"),
    "kind": ("string", "kind of question"),
    "group": ("string", "part of the benchmark"),
    "setting": ("string", "name of the compression"),
    "compression": ("string", "the compression as JSON"),
    "prompt": ("string", "what was asked"),
    "answer": ("string", "the right choice; empty for free text"),
    "references": ("list", "texts that a free answer is compared to"),
    "text": ("string", "what the model said"),
    "choice": ("string", "the choice that text is; null if it is none"),
    "correct": ("bool", "choice is the answer; null for free text"),
    "right_probability": ("float", "of the right choice's first token, as the answer's; null where that tells nothing"),
    "finish_reason": ("string", "stop, length or error"),
    "error": ("string", "why there is no answer; empty if there is one"),
    "token_ids": ("ints", "generated tokens"),
    "prompt_tokens": ("int", "text tokens of the prompt"),
    "visual_tokens": ("int", "visual tokens of the video without compression"),
    "merged_tokens": ("int", "visual tokens that came out of the encoder, after merging and before pruning"),
    "mean_layer_tokens": ("float", "visual tokens in the mean of the language model's layers"),
    "encode_s": ("float", "seconds of this question in the encoder: its part of the video's, whoever shared it"),
    "prefill_s": ("float", "the same in the prefill"),
    "decode_s": ("float", "the same in decoding"),
    "block": ("int", "videos that were answered together by each setting in turn"),
    "block_wall_s": ("float", "seconds this setting took for the block, encoder included; frames were decoded before"),
}  # fmt: skip


class Answers:
    """All rows of a study and the file they are kept in.

    Args:
        path: ends in .parquet or .jsonl.
        identity: what must be the same to go on with the file: model, question file, frames, limits.
        every_s: seconds between two writings; the file is written whole each time.

    Raises:
        ConfigError: the file belongs to another study, is of no known ending, or pyarrow is missing.
    """

    def __init__(self, path: Path, identity: dict[str, Any], every_s: float = 20.0) -> None:
        if path.suffix not in (".parquet", ".jsonl"):
            raise ConfigError(f"answers: {path} should end in .parquet or .jsonl")
        self.path, self.identity, self._every_s = path, identity, every_s
        self.rows: list[Row] = []
        self._written_s = time.monotonic()
        if path.is_file():
            found, self.rows = _read(path)
            differing = sorted(key for key in found.keys() | identity.keys() if found.get(key) != identity.get(key))
            if differing:
                raise ConfigError(
                    f"{path} holds answers of another study: {', '.join(differing)} differ",
                    "name another output folder, or remove the file",
                )
        elif path.suffix == ".parquet":
            _arrow()

    def done(self, setting: str) -> set[str]:
        """Ids of the questions that this setting has answered."""
        return {row["question_id"] for row in self.rows if row["setting"] == setting}

    def compressions(self) -> dict[str, str]:
        """The compression of each setting, as JSON."""
        return {row["setting"]: row["compression"] for row in self.rows}

    def add(self, rows: Sequence[Row]) -> None:
        """Append rows; the file is written when its time has come, so call `write` in the end."""
        for row in rows:
            if row.keys() != COLUMNS.keys():
                raise ValueError(f"columns differ: {sorted(row.keys() ^ COLUMNS.keys())}")
        self.rows.extend(rows)
        if time.monotonic() - self._written_s >= self._every_s:
            self.write()

    def write(self, empty: bool = False) -> None:
        """Write the file: all rows so far; without any only if `empty` says so."""
        if not self.rows and not empty:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        aside = self.path.with_name(self.path.name + ".part")
        _write(aside, self.path.suffix, self.identity, self.rows)
        os.replace(aside, self.path)
        self._written_s = time.monotonic()


def _arrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError(
            "answers: pyarrow is not installed", "install it, or write answers to a .jsonl file"
        ) from error
    return pyarrow


def _write(path: Path, suffix: str, identity: dict[str, Any], rows: Sequence[Row]) -> None:
    if suffix == ".jsonl":
        lines = [json.dumps(part, ensure_ascii=False) + "\n" for part in ({"study": identity}, *rows)]
        path.write_text("".join(lines), encoding="utf-8")
        return
    pa = _arrow()
    types = {
        "string": pa.string(), "bool": pa.bool_(), "int": pa.int64(), "float": pa.float64(),
        "ints": pa.list_(pa.int32()), "list": pa.list_(pa.string()),
    }  # fmt: skip
    fields = [pa.field(name, types[kind], metadata={"description": text}) for name, (kind, text) in COLUMNS.items()]
    schema = pa.schema(fields, metadata={"luvc.study": json.dumps(identity, sort_keys=True)})
    pa.parquet.write_table(pa.Table.from_pylist(list(rows), schema), path, compression="zstd")


def _read(path: Path) -> tuple[dict[str, Any], list[Row]]:
    empty = dict.fromkeys(COLUMNS)  # a column may be younger than the file
    try:
        if path.suffix == ".jsonl":
            head, *rows = (json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line)
            return head["study"], [empty | row for row in rows]
        table = _arrow().parquet.read_table(path)
        return json.loads(table.schema.metadata[b"luvc.study"]), [empty | row for row in table.to_pylist()]
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"{path}: not a table of answers: {error}", "remove it, or name another folder") from error


def read_answers(path: Path) -> tuple[dict[str, Any], list[Row]]:
    """What the study was, and its rows.

    Raises:
        ConfigError: the file is not there or is something else.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such file")
    return _read(path)


def part_path(path: Path, part: tuple[int, int]) -> Path:
    """Where process k of n keeps its answers: `answers.parquet` itself if there is one process."""
    return path if part[1] == 1 else path.with_name(f"{path.stem}.{part[0]}-of-{part[1]}{path.suffix}")


def read_all_parts(path: Path) -> tuple[dict[str, Any], list[Row]]:
    """What the study was, and its rows, from the file and those of its parts.

    Raises:
        ConfigError: no file is there, a part of several is missing, or two are of different studies or answer the same
            question.
    """
    parts = sorted(path.parent.glob(f"{path.stem}.*-of-*{path.suffix}"))
    for count in {int(one.stem.rpartition("-of-")[2]) for one in parts}:
        for number in range(1, count + 1):
            wanted = part_path(path, (number, count))
            if not wanted.is_file():
                raise ConfigError(
                    f"{wanted}: no such file, but other parts are there", f"--part {number}/{count} first"
                )
    paths = [one for one in (path, *parts) if one.is_file()]
    identity, rows = read_answers(paths[0] if paths else path)
    for other in paths[1:]:
        found, more = read_answers(other)
        if found != identity:
            raise ConfigError(f"{other} and {paths[0]} hold answers of different studies")
        rows += more
    if len({(row["question_id"], row["setting"]) for row in rows}) < len(rows):
        names = ", ".join(one.name for one in paths)
        raise ConfigError(f"{path.parent}: {names} answer the same questions", "remove those that do not belong here")
    return identity, rows

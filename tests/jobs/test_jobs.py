"""The entry points for `ray job submit`: what they hand to the command line."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from pipeline import cli
from pipeline.config import load_config
from pipeline.plan.sources import list_items

ROOT = Path(__file__).parents[2]


def call(monkeypatch, name: str, *arguments: str) -> list[str]:
    """Arguments of the command line that the job makes."""
    made: list[str] = []

    def main(argv: list[str]) -> int:
        made.extend(argv)
        return 3

    monkeypatch.setattr(cli, "main", main)
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "jobs" / f"{name}.py"), run_name="__main__")
    assert end.value.code == 3
    return made


def test_caption_and_report(monkeypatch):
    assert call(monkeypatch, "caption", "c.yaml", "--set", "a=1") == ["run", "c.yaml", "--set", "a=1"]
    assert call(monkeypatch, "report", "c.yaml") == ["report", "c.yaml"]


@pytest.mark.parametrize(
    ("arguments", "made"),
    [
        (
            ["c.yaml", "s3://b/q.jsonl", "--set", "a=1"],
            ["c.yaml", "--set", "inputs.0.path=s3://b/q.jsonl", "--set", "a=1"],
        ),
        (["c.yaml", "--retry-failed"], ["c.yaml", "--retry-failed"]),
        (["c.yaml"], ["c.yaml"]),
        ([], []),
    ],
)
def test_a_list_of_questions_becomes_the_input(monkeypatch, arguments, made):
    assert call(monkeypatch, "answer", *arguments) == ["run", *made]


def test_the_example_questions_are_read(monkeypatch):
    monkeypatch.chdir(ROOT)
    config = load_config("configs/answer.yaml")
    items = list(list_items(config.inputs[0]))
    assert [item.item_id for item in items] == ["q1", "q2", "q3", "q4"]
    assert all(Path(item.uri).exists() for item in items)
    assert [len(item.prompts or config.prompts) for item in items] == [1, 2, 1, 1]

"""`luvc evaluate` from end to end: a random tiny checkpoint, real video files, every file it writes."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import cli
from tests.luvc import tiny
from tests.pipeline.run.videos import video


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny.model().save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def questions(tmp_path):
    rows = []
    for index in range(3):
        name = f"{index}.mp4"
        video(tmp_path / name)
        choices = ["left", "right"]
        rows.append({"id": f"{index}a", "video": name, "prompt": "Which way?", "choices": choices, "answer": "left"})
        rows.append({"id": f"{index}b", "video": name, "prompt": "Describe.", "answer": ["A bird.", "Birds."]})
    np.save(tmp_path / "frames.npy", np.zeros((4, 32, 32, 3), np.uint8))
    rows.append({"id": "array", "video": "frames.npy", "prompt": "Left?", "choices": ["yes", "no"], "answer": "no"})
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_an_evaluation_writes_answers_tables_and_curves(checkpoint, questions, tmp_path, capsys):
    out = tmp_path / "out"
    base = ["evaluate", str(questions), "--model", str(checkpoint), "--frames", "4", "--block", "2", "--out", str(out)]
    (tmp_path / "study.yaml").write_text("settings: [{name: late, merge: {keep: 0.5, first: 0.5, last: 0.9}}]\n")
    some = ["--settings", "paper", "resize@0.25", "--text-tokens", "5", "--no-similarity"]
    assert cli.main([*base, *some, "--limit", "2"]) == 0
    assert pq.read_table(out / "answers.parquet").num_rows == 3 * 3, "two videos: one with one question, one with two"

    everything = [*base, *some, "--config", str(tmp_path / "study.yaml"), "--results", str(tmp_path / "copy" / "e")]
    assert cli.main(everything) == 0
    table = pq.read_table(out / "answers.parquet")
    assert table.num_rows == 7 * 4
    assert table.group_by(["question_id", "setting"]).aggregate([]).num_rows == table.num_rows
    off = [row for row in table.to_pylist() if row["setting"] == "off"]
    assert {row["visual_tokens"] for row in off} == {64}, "four frames of sixteen tokens, from files and arrays"
    report = json.loads((out / "evaluate.json").read_text())
    assert report == json.loads((tmp_path / "copy" / "e.json").read_text())
    assert (out / "tables.md").read_text() == (tmp_path / "copy" / "e.md").read_text()
    assert (out / "curves.svg").read_text() == (tmp_path / "copy" / "e.svg").read_text()
    assert report["study"]["dtype"] in ("bfloat16", "float32")
    assert report["questions"] == 4
    assert report["presets"].keys() == {"paper"}
    assert report["rivals"].keys() == {"resize@0.25", "late"}
    assert report["rivals"]["resize@0.25"]["keep"] == 0.25
    assert report["uncompressed"]["text_similarity"] is None
    printed = capsys.readouterr().out
    assert "not measured" in printed
    assert (out / "tables.md").read_text() in printed
    for name in ("curves.svg", "settings.svg"):
        assert (out / name).read_text().endswith("</svg>\n")

    assert cli.main([*everything, "--report-only"]) == 0
    assert capsys.readouterr().out.strip() in printed

    trained = checkpoint / "generation_config.json"
    kept = trained.read_text()
    trained.write_text(kept + " ")
    assert cli.main(everything) == 2, "another training of the model"
    assert "weights" in capsys.readouterr().err
    assert cli.main([*everything, "--report-only"]) == 0
    trained.write_text(kept)


def test_two_processes_answer_what_one_does(checkpoint, questions, tmp_path, capsys):
    base = [
        "evaluate",
        str(questions),
        "--model",
        str(checkpoint),
        "--frames",
        "4",
        "--block",
        "1",
        "--text-tokens",
        "5",
    ]
    base += ["--no-similarity", "--settings", "paper", "--out"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert cli.main([*base, str(whole)]) == 0
    for part in ("1/2", "2/2"):
        assert cli.main([*base, str(parts), "--part", part]) == 0
        assert cli.main([*base, str(parts), "--part", part]) == 0, "nothing is left"
        assert not (parts / "evaluate.json").exists()
        if part == "1/2":  # half of the answers must not pass for all
            assert cli.main([*base, str(parts), "--report-only"]) == 2
            assert "--part 2/2 first" in capsys.readouterr().err
    assert sorted(path.name for path in parts.iterdir()) == ["answers.1-of-2.parquet", "answers.2-of-2.parquet"]
    assert cli.main([*base, str(parts), "--report-only"]) == 0
    said = ["question_id", "setting", "text", "block"]
    tables = [pa.concat_tables(map(pq.read_table, sorted(out.glob("*.parquet")))) for out in (whole, parts)]
    one, other = (sorted(table.select(said).to_pylist(), key=str) for table in tables)
    assert one == other
    reports = [json.loads((out / "evaluate.json").read_text()) for out in (whole, parts)]
    assert reports[0]["uncompressed"]["by_kind"] == reports[1]["uncompressed"]["by_kind"]
    assert reports[0]["presets"]["paper"]["accuracy"] == reports[1]["presets"]["paper"]["accuracy"]

    few = tmp_path / "few"  # one block, so that the second part has nothing to do
    for part in ("1/2", "2/2"):
        assert cli.main([*base, str(few), "--part", part, "--limit", "1"]) == 0
    assert cli.main([*base, str(few), "--report-only"]) == 0
    first = (parts / "answers.1-of-2.parquet").read_bytes()
    (parts / "answers.parquet").write_bytes(first)
    assert cli.main([*base, str(parts), "--report-only"]) == 2
    assert "answer the same questions" in capsys.readouterr().err
    (parts / "answers.parquet").unlink()
    assert cli.main([*base, str(parts), "--part", "2/2", "--frames", "2"]) == 2, "of another study"
    (parts / "answers.2-of-2.parquet").unlink()
    assert cli.main([*base, str(parts), "--part", "2/2", "--frames", "2"]) == 0
    assert cli.main([*base, str(parts), "--report-only"]) == 2
    assert "hold answers of different studies" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main([*base, str(parts), "--part", "3/2"])
    assert "K/N, as in 1/2 and 2/2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--settings", "balancd"], "did you mean 'balanced'"),
        (["--settings", "oim@2"], "compression.resize: 2.0"),
        (["--frames", "0"], "--frames: at least 1"),
        (["--config", "absent.yaml"], "cannot read absent.yaml"),
    ],
)
def test_bad_input_is_one_readable_line(checkpoint, questions, tmp_path, capsys, change, message):
    argv = ["evaluate", str(questions), "--model", str(checkpoint), "--out", str(tmp_path / "o"), *change]
    assert cli.main(argv) == 2
    assert message in capsys.readouterr().err


def test_a_missing_video_says_which(checkpoint, questions, tmp_path, capsys):
    (tmp_path / "1.mp4").unlink()
    (tmp_path / "2.mp4").unlink()
    argv = ["evaluate", str(questions), "--model", str(checkpoint), "--out", str(tmp_path / "o"), "--frames", "2"]
    assert cli.main([*argv, "--settings", "paper", "--no-similarity"]) == 2
    told = capsys.readouterr().err
    assert "question '1a': no video '1.mp4' (2 of 4 videos are missing)" in told
    assert not (tmp_path / "o").exists(), "before anything is asked"

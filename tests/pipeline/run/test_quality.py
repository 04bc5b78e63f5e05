"""The quality slice: real Ray, real small videos, a tiny model and its twin without compression."""

from __future__ import annotations

import io
import json
import signal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("torch")

import ray

from luvc.errors import ConfigError, OutOfMemory
from luvc.evaluation import similarity
from luvc.types import Request
from pipeline import report
from pipeline.config import RunConfig
from pipeline.decode import decode_unit
from pipeline.decode.protocol import DecodeSettings
from pipeline.run import meters
from pipeline.run.board import Board
from pipeline.run.engine_loop import EngineLoop
from pipeline.run.fake_engine import FakeEngine
from pipeline.run.job import run
from pipeline.run.outcome import outcomes, quality_table, request_of, result_rows
from pipeline.run.progress import Tally
from pipeline.run.quality import REFERENCE, Alone, Comparison, pick, rows
from pipeline.run.sink import PartWriter, Sink
from pipeline.run.telemetry import RunTelemetry
from pipeline.schemas import QUALITY
from tests.faults import test_killed
from tests.faults.test_killed import Driver, small_parts
from tests.luvc import tiny
from tests.pipeline.run.test_outcome import FACTS, NOW, completion, payload, unit

PROMPTS = {"a": "What?", "b": "Why?"}
TOKENS = 6


def quiet(text: str) -> None:
    """Stands for a person who does not read."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny.model().save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def settings(model: Path, quality: dict, **run: object) -> dict:
    return {
        "model": {"id": str(model), "dtype": "float32", "device": "cpu"},
        "generation": {"max_new_tokens": TOKENS},
        "compression": "paper",
        "quality": quality,
        "run": {"engine": "luvc", **run},
    }


def answers(bench) -> list[tuple]:
    names = ("unit_id", "prompt_id", "text", "output_tokens", "merged_tokens", "layer_tokens", "finish_reason")
    return sorted(tuple(map(str, (row[name] for name in names))) for row in bench.table("results").to_pylist())


def uncompressed(config: RunConfig, unit: dict) -> list[str]:
    """What an engine of its own says about the unit."""
    clip = decode_unit(unit, DecodeSettings())
    request = request_of(unit | {"used_timestamps_s": list(clip.timestamps_s)}, clip.frames, config.generation)
    (done,) = tiny.engine("off").generate([request])
    return [answer.text for answer in done.answers]


@pytest.mark.usefixtures("ray_address")
def test_a_slice_beside_the_same_results_and_a_threshold(bench, videos, checkpoint):
    ended = run(bench.config(videos, PROMPTS, **settings(checkpoint, {"units": 0})), say=quiet)
    assert (ended.outcome, ended.exit_code) == ("done", 0)
    without = answers(bench)
    assert not (bench.output / "quality").exists()
    for part in (bench.output / "results").iterdir():
        part.unlink()

    said: list[str] = []
    config = bench.config(videos, PROMPTS, **settings(checkpoint, {"units": 5, "min_agreement": 1.0}))
    ended = run(config, say=said.append)
    assert (ended.outcome, ended.done, ended.exit_code) == ("done", 8, 4)
    assert answers(bench) == without, "the slice disturbs nothing"

    rows = bench.table("quality").to_pylist()
    sample = sorted(bench.planned())[:5]
    assert sorted((row["unit_id"], row["prompt_id"]) for row in rows) == [(u, p) for u in sample for p in "ab"]
    texts = {(row["unit_id"], row["prompt_id"]): row["text"] for row in bench.table("results").to_pylist()}
    plan = {row["unit_id"]: row for row in bench.table("manifest").to_pylist()}
    for row in rows:
        prompts = [prompt["prompt_id"] for prompt in plan[row["unit_id"]]["prompts"]]
        assert row["reference_text"] == uncompressed(config, plan[row["unit_id"]])[prompts.index(row["prompt_id"])]
        assert row["text"] == texts[row["unit_id"], row["prompt_id"]]
        assert row["error_class"] is None
        assert (row["agreement"] == 1) == (row["text"] == row["reference_text"])
        assert row["merged_tokens"] < row["visual_tokens"]
        for name in ("encode_s", "prefill_s", "decode_s"):
            assert row[name] > 0
            assert row[f"reference_{name}"] > 0

    assert any("is below quality.min_agreement: 1 (5 clips, 95 % interval" in line for line in said), said
    assert any(line.startswith("    without compression: ") for line in said)
    metrics = json.loads((bench.output / "metrics.json").read_text())
    quality = metrics["quality"]
    assert (quality["sample"], quality["units"], quality["failed"], quality["answers"]) == (5, 5, 0, 10)
    assert quality["agreement"] == pytest.approx(sum(row["agreement"] for row in rows) / 10)
    assert quality["below"] == list(ended.below)
    assert metrics["outcome"].endswith("Quality is below the threshold.")
    assert (metrics["uncompressed"]["method"], metrics["uncompressed"]["slice_units"]) == ("slice", 5)
    assert metrics["rates"]["reference_s"] > 0
    beat = bench.events("heartbeat")[-1]
    assert beat["quality"] == {"compared": 5, "failed": 0, "agreement": round(quality["agreement"], 4)}
    assert beat["stage"]["reference"]["units"] == 5
    assert "reference" in bench.table("metrics")["stage"].to_pylist()

    # A scheduler that starts it again must not read success; whoever lowers the threshold is heard.
    again = run(config, say=said.append)
    assert (again.outcome, again.exit_code, again.below) == ("nothing_to_do", 4, ended.below)
    lower = bench.config(videos, PROMPTS, **settings(checkpoint, {"units": 5, "min_agreement": 0.0}))
    assert run(lower, say=quiet).exit_code == 0


@pytest.mark.usefixtures("ray_address")
def test_a_reference_that_fails_costs_no_unit(bench, videos, checkpoint):
    quality = {"units": 2, "min_agreement": 0.5}
    # A prompt always fits alone; a twin has to stay within the budget.
    ended = run(bench.config(videos, PROMPTS, **settings(checkpoint, quality, kv_bytes=1)), say=quiet)
    assert (ended.outcome, ended.done, ended.failed, ended.exit_code) == ("done", 8, 0, 4)
    assert "agreement could not be measured" in ended.below[0]
    rows = bench.table("quality").to_pylist()
    assert len(rows) == 4
    for row in rows:
        assert (row["error_class"], row["reference_text"], row["agreement"]) == ("OutOfMemory", None, None)
        assert "without compression" in row["message"]
    found = json.loads((bench.output / "metrics.json").read_text())["quality"]
    assert (found["units"], found["failed"], found["agreement"]) == (0, 2, None)
    assert bench.events("heartbeat")[-1]["quality"] == {"compared": 0, "failed": 2, "agreement": None}


def test_a_killed_run_goes_on_with_its_sample(bench, videos, checkpoint, ray_address, monkeypatch):
    monkeypatch.setattr(test_killed, "PATIENCE_S", 600.0)  # a model is loaded
    sections = settings(checkpoint, {"units": 4}) | {"output": small_parts(bench)}
    code, text = Driver(bench, ray_address, videos, PROMPTS, point="before-rename", **sections).wait()
    assert code == -signal.SIGKILL, text
    assert len(set(bench.done())) == 2
    first = report.newest_run(str(bench.output)).sample
    compared = set(bench.table("quality")["unit_id"].to_pylist())
    assert set(bench.done()) & set(first) <= compared, "a unit that counts as done has its comparison"

    code, text = Driver(bench, ray_address, videos, PROMPTS, **sections).wait()
    assert code == 0, text
    bench.assert_each_unit_once(prompts=2)
    runs = [event["sample"] for event in bench.events("run_started")]
    assert runs == [sorted(bench.planned())[:4]] * 2
    assert set(bench.table("quality")["unit_id"].to_pylist()) == set(first)
    quality = json.loads((bench.output / "metrics.json").read_text())["quality"]
    assert (quality["sample"], quality["units"], quality["answers"]) == (4, 4, 8)


@pytest.mark.usefixtures("ray_address")
def test_an_engine_that_died_or_breaks_at_a_reference_is_a_row(monkeypatch):
    monkeypatch.setattr(similarity, "sentence_similarity", lambda: lambda pairs: [0.25 for _ in pairs])
    board = ray.remote(Board).options(num_cpus=0).remote(2, 5)
    loop = EngineLoop(lambda: FakeEngine(slots=2))
    loop.start()
    comparison = Comparison(loop, board, FACTS)
    answered = completion("00", 1)

    def ask(prompt: str, unit_id: str = "00") -> dict:
        (row,) = comparison.rows(unit(unit_id, 1) | payload(1), Request(unit_id, [prompt]), answered)
        return row

    first = ask("Why?")
    assert (first["agreement"], first["similarity"], first.get("error_class")) == (0.0, 0.25, None)
    assert ask("[fake:error]")["error_class"] == "RequestError"
    # The worker of the last try is gone, and never said that it had survived this.
    ray.get(board.begin.remote(REFERENCE, "00", "worker-1"))
    gone = ask("Why?")
    assert gone["error_class"] == "WorkerDied"
    assert "reference_text" not in gone
    assert "died while answering this unit without compression" in gone["message"]
    assert gone["text"] == answered.answers[0].text
    loop.close()
    assert ask("Why?", "01")["error_class"] == "EngineUnavailable"
    assert ray.get(board.snapshot.remote()).in_flight == {}


def compared(unit_id: str, error: Exception | None = None) -> dict:
    done = completion(unit_id, 2)
    alone = error or Alone(done, done)
    return {
        "results": result_rows(unit(unit_id, 2) | payload(1), done, FACTS, NOW),
        "quality": rows(unit(unit_id, 2) | payload(1), done, alone, [0.5, None], FACTS, NOW),
    }


def test_comparisons_are_on_disk_before_the_results_of_their_units():
    files: dict[str, bytes] = {}

    def writer(folder: str) -> PartWriter:
        return PartWriter(folder, "run-driver", {}, files.__setitem__, 2, 1 << 30)

    parts: list = []
    sink = Sink(writer("results"), writer("failures"), parts.append, writer("quality"))
    plain = {key: value for key, value in compared("u2").items() if key == "results"}
    sink.add(outcomes([compared("u1")]))
    assert not files
    sink.add(outcomes([plain, compared("u3", OutOfMemory("no room")), compared("u4")]))
    assert [path.split("/")[0] for path in files] == ["quality", "results", "quality", "results"]
    assert [(part.path.split("/")[0], part.units) for part in parts] == [
        ("quality", 1), ("results", 2), ("quality", 2), ("results", 2),
    ]  # fmt: skip
    sink.flush()
    tables = [pq.read_table(io.BytesIO(data)) for path, data in files.items() if path.startswith("quality")]
    assert all(table.schema.equals(QUALITY, check_metadata=True) for table in tables)
    found = pa.concat_tables(tables).to_pylist()
    assert [(row["unit_id"], row["agreement"], row["similarity"]) for row in found[:2]] == [
        ("u1", 1.0, 0.5), ("u1", 1.0, None),
    ]  # fmt: skip
    failed = [row for row in found if row["unit_id"] == "u3"]
    assert [(row["error_class"], row["message"], row["encode_s"]) for row in failed] == [
        ("OutOfMemory", "no room", None)
    ] * 2


def test_counts_of_a_slice_for_heartbeats_and_prometheus():
    done = completion("u1", 2)
    table = quality_table(outcomes([compared("u1"), compared("u2"), compared("u3", OutOfMemory("no room"))]))
    tally = Tally(3, 0, 0)
    assert "quality" not in tally.heartbeat()
    tally.compared(table)
    beat = tally.heartbeat()
    assert beat["quality"] == {"compared": 2, "failed": 1, "agreement": 1.0}
    seconds = done.times.encode_s + done.times.prefill_s + done.times.decode_s
    assert beat["stage"]["reference"] == {"busy_s": pytest.approx(4 * seconds), "units": 3}
    told: list[tuple] = []
    telemetry = RunTelemetry(lambda meter, value, **tags: told.append((meter, value, *tags.values())), 3)
    telemetry.compared(table)
    telemetry.beat(beat)
    telemetry.judged(False)
    telemetry.judged(True)
    assert (meters.UNITS_COMPARED, 2, "compared") in told
    assert (meters.UNITS_COMPARED, 1, "failed") in told
    assert (meters.AGREEMENT, 1.0) in told
    assert told.count((meters.RUNS_BELOW_QUALITY, 1)) == 1


def test_the_sample_is_kept_topped_up_and_as_good_as_random():
    ids = [f"{index:02d}" for index in range(20)]

    def picked(work: list[str], count: int, begun: tuple[str, ...] = ()) -> tuple[str, ...]:
        return pick(pa.chunked_array([work], pa.string()), count, begun, pa.chunked_array([ids]))

    assert picked(ids[::-1], 3) == ("00", "01", "02")
    assert picked(ids[:2], 3) == ("00", "01")
    assert picked([], 3) == ()
    assert picked(ids[4:], 3, ("02", "09")) == ("02", "09", "04"), "done or not, it stays in the sample"
    assert picked(ids, 3, ("xx", "09")) == ("09", "00", "01"), "what is no longer planned does not"
    assert picked(ids, 1, ("02", "09")) == ("02",)


@pytest.mark.parametrize(
    ("sections", "units"),
    [
        ({"run": {"engine": "luvc"}, "compression": "paper"}, 20),
        ({"run": {"engine": "luvc"}, "compression": "paper", "quality": {"units": 7}}, 7),
        ({"run": {"engine": "luvc"}, "compression": "off", "quality": {"units": 7}}, 0),
        ({"run": {"engine": "vllm"}, "compression": "off"}, 0),
        ({"run": {"engine": "fake"}, "compression": "paper", "quality": {"units": 7}}, 0),
        ({"run": {"engine": "luvc", "topology": "split"}, "compression": "paper"}, 0),
    ],
)
def test_where_there_is_a_slice(bench, sections, units):
    assert bench.config("videos", **({"quality": {}} | sections)).slice_units == units


@pytest.mark.parametrize(
    ("sections", "key"),
    [
        ({"run": {"engine": "luvc", "topology": "split"}, "quality": {"units": 5}}, "no actor has both halves"),
        ({"run": {"engine": "luvc", "topology": "split"}, "quality": {"min_agreement": 0.5}}, "quality.units: 0"),
        ({"quality": {"units": 0, "min_similarity": 0.5}}, "there is a threshold"),
        ({"quality": {"min_agreement": 60}}, "quality.min_agreement"),
    ],
)
def test_impossible_slices_are_refused(bench, sections, key):
    with pytest.raises(ConfigError, match=key):
        bench.config("videos", **sections)

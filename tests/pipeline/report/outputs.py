"""Synthetic output folders: tables of the real schemas, event logs and pictures, small or large."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from PIL import Image

from pipeline import schemas
from pipeline.report import build_report

START = datetime(2026, 3, 4, 1, 0, tzinfo=UTC)
RUN_ID = "20260304T010000-ab12"
LAYERS = 12
HOSTILE = (
    '</p></style><script>document.title="owned"; console.error("owned")</script>'
    '<img src="http://outside.test/beacon.png" onerror="alert(1)"> & "quoted" \u202eabc {{ 7 * 7 }}'
)
CAPTIONS = [
    "A red kite turns slowly above a field of stubble while a tractor moves along the far hedge.",
    "A woman in a yellow raincoat crosses the street between two parked cars. It is raining.",
    "Waves break on a dark beach. Nobody is in sight, and the camera does not move.",
    HOSTILE,
    "Three cyclists ride past a stone wall; the last one looks back into the camera.",
    "A large rabbit comes out of its burrow, stretches, and looks at the sky.",
    "",
]
HOSTILE_MESSAGE = "moov atom not found in <b>broken</b><script>alert(2)</script>.mp4"


def jpeg(seed: int) -> bytes:
    """A picture with some structure, like a thumbnail."""
    y, x = np.mgrid[0:90, 0:160].astype(np.float32)
    hue = seed * 0.7
    planes = [127 + 100 * np.sin(x / 30 + hue + c) * np.cos(y / 25 - c + seed) for c in range(3)]
    buffer = io.BytesIO()
    Image.fromarray(np.stack(planes, -1).clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def unit_ids(count: int) -> pa.Array:
    return pa.array([f"u{index:08d}" for index in range(count)])


def conform(columns: dict, schema: pa.Schema, count: int) -> pa.Table:
    """A table of `schema` with nulls in every column that is not given."""
    arrays = []
    for field in schema:
        value = columns.get(field.name)
        if value is None:
            arrays.append(pa.nulls(count, field.type))
        else:
            arrays.append(value.cast(field.type) if isinstance(value, pa.Array) else pa.array(value, field.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def manifest(count: int, prompts: dict[str, str], samples: int = 8, uris: list[str] | None = None) -> pa.Table:
    listed = [{"prompt_id": key, "text": text} for key, text in prompts.items()]
    return conform(
        {
            "unit_id": unit_ids(count),
            "uri": uris or [f"s3://corpus/2026/03/clip-{index:06d}.mp4" for index in range(count)],
            "duration_s": np.full(count, 30.0),
            "prompts": pa.array([listed] * count, schemas.MANIFEST.field("prompts").type),
            "sample": np.arange(count) % max(1, count // max(1, samples)) == 0,
            "vision_flops": np.full(count, 4_000_000_000_000),
            "text_flops": np.full(count, 2_000_000_000_000),
            "full_vision_flops": np.full(count, 8_000_000_000_000),
            "full_text_flops": np.full(count, 10_000_000_000_000),
        },
        schemas.MANIFEST,
        count,
    )


def results(
    plan: pa.Table, units: np.ndarray, run_id: str = RUN_ID, wall_s: float = 600.0, pictures: bool = True
) -> pa.Table:
    """Rows for the units at these positions of the plan, one for each prompt."""
    prompts = plan["prompts"][0].as_py()
    count = len(units) * len(prompts)
    unit = np.repeat(units, len(prompts))
    rng = np.random.default_rng(0)
    tokens = rng.integers(8, 65, count)
    layer_tokens = np.concatenate([np.full(4, 512), np.full(4, 230), np.full(3, 104), [0]]).astype(np.int32)
    layers = pa.ListArray.from_arrays(
        pa.array(np.arange(count + 1, dtype=np.int32) * LAYERS), pa.array(np.tile(layer_tokens, count))
    )
    sample = plan["sample"].to_numpy()
    texts = [CAPTIONS[index % len(CAPTIONS)] for index in range(len(CAPTIONS))]
    finished = np.sort(rng.uniform(0.08 * wall_s, wall_s, len(units)))
    instants = [(START.timestamp() + at) * 1000 for at in np.repeat(finished, len(prompts))]
    share = 1 / len(prompts)
    return conform(
        {
            **{name: plan[name].combine_chunks().take(pa.array(unit)) for name in ("unit_id", "uri")},
            "prompt_id": pa.array([entry["prompt_id"] for entry in prompts] * len(units)),
            "prompt": pa.array([entry["text"] for entry in prompts] * len(units)),
            "text": pa.array(texts).take(pa.array(np.arange(count) % len(texts))),
            "finish_reason": pa.array(np.where(tokens >= 64, "length", "stop")),
            "model": pa.array(np.full(count, "luvc-demo")),
            "compression": pa.array(np.full(count, "balanced")),
            "frames_expected": np.full(count, 8, np.int32),
            "frames_decoded": np.full(count, 8, np.int32),
            "frames_corrupt": np.zeros(count, np.int32),
            "patches": np.full(count, 8192),
            "visual_tokens": np.full(count, 2048),
            "merged_tokens": np.full(count, 512),
            "layer_tokens": layers,
            "prompt_tokens": np.full(count, 22, np.int32),
            "output_tokens": tokens.astype(np.int32),
            "video_s": np.full(count, 30.0),
            "video_decode_s": np.full(count, 0.9 * share),
            "encode_s": np.full(count, 0.8 * share),
            "prefill_s": np.full(count, 0.5 * share),
            "decode_s": np.full(count, 0.3 * share),
            "thumbnail": [jpeg(int(index)) if pictures and sample[index] else None for index in unit],
            "run_id": pa.array(np.full(count, run_id)),
            "finished_at": pa.array(np.array(instants, "int64"), pa.timestamp("ms", tz="UTC")),
        },
        schemas.RESULTS,
        count,
    )


CAUSES = [
    ("probe", "NotAVideo", HOSTILE_MESSAGE, "check that the file plays; if it was copied, copy it again", False),
    ("video_decode", "Truncated", "the file ends at 12.4 s of 30.0 s", "tolerant decoding keeps the rest", False),
    ("video_decode", "StorageError", "s3://corpus: 503 after 5 attempts", "try again with --retry-failed", True),
    ("answer", "PromptTooLong", "8,412 tokens, but 8,192 positions", "sample fewer frames", False),
]


def failures(plan: pa.Table, units: np.ndarray, run_id: str = RUN_ID) -> pa.Table:
    count = len(units)
    kinds = [CAUSES[0 if index % 5 == 4 else index % len(CAUSES)] for index in range(count)]
    return conform(
        {
            **{name: plan[name].combine_chunks().take(pa.array(units, pa.int64())) for name in ("unit_id", "uri")},
            "stage": pa.array([kind[0] for kind in kinds], pa.string()),
            "error_class": pa.array([kind[1] for kind in kinds], pa.string()),
            "message": pa.array([kind[2] for kind in kinds], pa.string()),
            "hint": pa.array([kind[3] for kind in kinds], pa.string()),
            "attempts": np.ones(count, np.int32),
            "retryable": pa.array([kind[4] for kind in kinds], pa.bool_()),
            "video_s": np.full(count, 30.0),
            "run_id": pa.array(np.full(count, run_id), pa.string()),
            "failed_at": pa.array([START + timedelta(seconds=30 + 7 * (i % 60)) for i in range(count)]),
        },
        schemas.FAILURES,
        count,
    )


def quality(plan: pa.Table, units: np.ndarray, run_id: str = RUN_ID, failed: int = 0, alike: bool = True) -> pa.Table:
    """Rows of the quality slice for the units at these positions; the last `failed` could not be compared."""
    count = len(units)
    known = np.arange(count) < count - failed
    texts = [CAPTIONS[index % len(CAPTIONS)] for index in range(count)]
    references = [text if index % 3 else text[: len(text) // 2] for index, text in enumerate(texts)]
    agreement = np.where(np.arange(count) % 3, 1.0, 0.6)
    seconds = {"encode": (0.2, 0.3), "prefill": (0.1, 0.4), "decode": (0.1, 0.1)}
    times = {
        f"{kind}{stage}_s": pa.array(np.full(count, pair[index]), mask=~known)
        for stage, pair in seconds.items()
        for index, kind in enumerate(("", "reference_"))
    }
    return conform(
        {
            **{name: plan[name].combine_chunks().take(pa.array(units, pa.int64())) for name in ("unit_id", "uri")},
            "prompt_id": pa.array(["caption"] * count),
            "text": pa.array(texts),
            "reference_text": pa.array(references, mask=~known),
            "agreement": pa.array(agreement, mask=~known),
            "similarity": pa.array(0.5 + agreement / 2, mask=~known) if alike else None,
            **times,
            "error_class": pa.array(["OutOfMemory"] * count, mask=known),
            "message": pa.array(["no room <b>without</b> compression"] * count, mask=known),
            "run_id": pa.array([run_id] * count),
            "finished_at": pa.array([START] * count, pa.timestamp("ms", tz="UTC")),
        },
        schemas.QUALITY,
        count,
    )


def write_quality(folder: Path, table: pa.Table, run_id: str = RUN_ID) -> None:
    (folder / "quality").mkdir(exist_ok=True)
    pq.write_table(table, folder / "quality" / f"part-{run_id}-00000.parquet")


def events(
    planned: int,
    done: int,
    failed: int,
    wall_s: float = 600.0,
    outcome: str | None = "done",
    beat_s: float = 10.0,
    starved: float = 0.3,
    run_id: str = RUN_ID,
    start: datetime = START,
    estimate: dict | None = None,
    sample: list[str] | None = None,
) -> str:
    """Text of an event log; `outcome` None: the driver was killed. Four decode workers keep one engine waiting."""

    def line(after_s: float, event: str, **fields: object) -> str:
        at = (start + timedelta(seconds=after_s)).isoformat()
        return json.dumps({"t": at, "event": event, "run_id": run_id, **fields})

    machine = {"gpus": 1, "cpus": 16, "nodes": 1, "gpu": "NVIDIA H200"}
    versions = {"luvc": "0.1.0", "ray": "2.60.0", "torch": "2.13.0"}
    lines = [
        line(0, "run_started", name="demo", planned=planned, done=0, failed=0, pending=planned, versions=versions,
             machine=machine, config_hash="9f31c0aa", estimate=estimate, sample=sample or [])
    ]  # fmt: skip
    beats = int(wall_s // beat_s)
    for beat in range(1, beats + 1):
        part = beat / beats
        busy = wall_s * part
        lines.append(
            line(
                beat * beat_s, "heartbeat", done=int(done * part), failed=int(failed * part),
                left=planned - int(done * part) - int(failed * part), videos_per_s=done / wall_s, eta_s=0.0,
                stage={
                    "video_decode": {"busy_s": busy * 3.1, "units": int(done * part)},
                    "encode": {"busy_s": busy * (1 - starved) * 0.5, "starved_s": busy * starved},
                    "prefill": {"busy_s": busy * (1 - starved) * 0.3, "starved_s": 0.0},
                    "decode": {"busy_s": busy * (1 - starved) * 0.2, "starved_s": 0.0},
                    "sink": {"busy_s": busy * 0.01},
                },
            )
        )  # fmt: skip
    if outcome is None:
        return "\n".join(lines) + '\n{"t": "2026-03-04T01:0'
    left = planned - done - failed
    lines.append(line(wall_s, "run_finished", outcome=outcome, done=done, failed=failed, left=left, wall_s=wall_s))
    return "\n".join(lines) + "\n"


CONFIG = {
    "name": "demo",
    "inputs": [{"path": "s3://corpus/2026/03", "storage": {"key": "AKIA-NOT-FOR-REPORTS"}}],
    "model": {"id": "luvc-demo", "dtype": "auto"},
    "compression": "balanced",
    "run": {"engine": "luvc", "actors": 1},
    "output": {"path": "out/demo", "storage": {"secret": "HUSH-HUSH"}},
    "prices": {"gpu_hour_usd": 2.5, "cpu_hour_usd": 0.04},
}


def write(
    folder: Path,
    plan: pa.Table,
    answered: pa.Table | None = None,
    failed: pa.Table | None = None,
    log: str | None = None,
    config: dict | None = None,
    run_id: str = RUN_ID,
    part_rows: int = 50_000,
) -> str:
    """Lay out an output folder; returns its path."""
    (folder / "manifest").mkdir(parents=True, exist_ok=True)
    pq.write_table(plan, folder / "manifest" / "manifest.parquet")
    for name, table in (("results", answered), ("failures", failed)):
        if table is not None:
            (folder / name).mkdir(exist_ok=True)
            for index, first in enumerate(range(0, len(table), part_rows)):
                pq.write_table(table.slice(first, part_rows), folder / name / f"part-{run_id}-{index:05d}.parquet")
    if log is not None:
        run = folder / "runs" / run_id
        run.mkdir(parents=True, exist_ok=True)
        (run / "events.jsonl").write_text(log, encoding="utf-8")
        (run / "config.yaml").write_text(yaml.safe_dump(CONFIG if config is None else config), encoding="utf-8")
    return str(folder)


def demo(folder: Path, units: int = 120, failed: int = 7, pending: int = 0, prompts: dict | None = None) -> str:
    """A run as it usually looks: most done, some failed."""
    plan = manifest(units, prompts or {"caption": "Describe this video."})
    order = np.random.default_rng(1).permutation(units)
    bad, good = order[:failed], np.sort(order[failed : units - pending])
    outcome = "interrupted" if pending else "some_failed" if failed else "done"
    log = events(units, len(good), failed, outcome=outcome)
    return write(folder, plan, results(plan, good), failures(plan, bad), log)


def nights(folder: Path, count: int = 9, units: int = 120, quality_slice: bool = True) -> str:
    """Several nights of one output, each with its report; the last one has everything the page can show."""
    plan = manifest(units * count, {"caption": "Describe this video."}, samples=40)
    for index in range(count):
        run_id = f"202603{4 + index:02d}-010000-{index:04x}"
        first, failed = index * units, 7 if index == count - 1 else index % 4
        wall_s = 600.0 * (1 + 0.35 * ((index * 5) % 4) / 4)
        good = np.arange(first, first + units - failed)
        bad = np.arange(first + units - failed, first + units)
        start = START + timedelta(days=index)
        expected = {"based_on": "before", "based_on_units": units, "units": units, "wall_s": 690.0, "usd": 0.61,
                    "per_video_hour_usd": 0.6}  # fmt: skip
        compared = good[:22]
        sample = plan["unit_id"].take(pa.array(compared)).to_pylist() if quality_slice else None
        log = events(
            (index + 1) * units,
            len(good),
            failed,
            wall_s,
            "some_failed" if failed else "done",
            run_id=run_id,
            start=start,
            estimate=expected if index else None,
            sample=sample,
        )
        rows = results(plan, good, run_id, wall_s)
        moved = pc.add(rows["finished_at"], pa.scalar(timedelta(days=index)))
        rows = rows.set_column(rows.schema.names.index("finished_at"), "finished_at", moved).cast(schemas.RESULTS)
        config = CONFIG | {"prices": {"preset": "aws-g5", "gpu_hour_usd": 1.006, "cpu_hour_usd": 0.0}}
        write(folder, plan.slice(0, (index + 1) * units), rows, failures(plan, bad, run_id), log, config, run_id)
        if quality_slice:
            write_quality(folder, quality(plan, compared, run_id, failed=2 if index == count - 1 else 0), run_id)
        build_report(str(folder), run_id=run_id)
    return str(folder)

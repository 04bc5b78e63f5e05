"""How large rows of results are in memory and in a file, and what compaction makes of a night's small parts.

    python -m benchmarks.part_sizes [--rows 40000] [--parts 400]

Rows look like those of a captioning night: captions of 60 words of a skewed vocabulary, 64 timestamps, 12 layers, stage
times that do not repeat, no thumbnails.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.compact import compact
from pipeline.parts import encode
from pipeline.schemas import RESULTS

WORDS = 60
FRAMES = 64
LAYERS = [512] * 4 + [230] * 4 + [104] * 3 + [0]


def rows(count: int, run_id: str = "20260304-010000-ab12") -> pa.Table:
    """Rows of results `[count]`."""
    rng = np.random.default_rng(0)
    vocabulary = ["".join(rng.choice(list("etaoinshrdlu"), rng.integers(2, 10))) for _ in range(4000)]
    share = 1 / np.arange(1, len(vocabulary) + 1)
    drawn = rng.choice(len(vocabulary), (count, WORDS), p=share / share.sum())
    return pa.Table.from_pylist(
        [
            {
                "unit_id": rng.bytes(16).hex(),
                "uri": f"s3://corpus/2026/03/04/clip-{index:08d}.mp4",
                "prompt_id": "caption",
                "prompt": "Describe this video in detail.",
                "text": " ".join(vocabulary[word] for word in drawn[index]),
                "finish_reason": "stop",
                "model": "Qwen/Qwen2.5-VL-7B-Instruct",
                "compression": "balanced",
                "frames_expected": FRAMES,
                "frames_decoded": FRAMES,
                "timestamps_s": [float(second) for second in range(FRAMES)],
                "visual_tokens": 2048,
                "merged_tokens": 512,
                "layer_tokens": LAYERS,
                "output_tokens": WORDS,
                "video_s": 64.0,
                **{name: float(rng.random()) for name in ("video_decode_s", "encode_s", "prefill_s", "decode_s")},
                "run_id": run_id,
            }
            for index in range(count)
        ],
        schema=RESULTS,
    )


def main() -> None:
    """Print a table and a line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument("--parts", type=int, default=400)
    args = parser.parse_args()
    table = rows(args.rows)
    print(f"{'rows':>8} {'memory, bytes':>14} {'file, bytes':>12} {'times':>6} {'a row':>8}")
    for count in [size for size in (1, 16, 512, 8192) if size < args.rows] + [args.rows]:
        part = table.slice(0, count)
        size = len(encode(part))
        print(f"{count:8,} {part.nbytes:14,} {size:12,} {part.nbytes / size:6.1f} {size / count:8.0f}")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "results").mkdir()
        each = -(-args.rows // args.parts)
        for index in range(args.parts):
            data = encode(table.slice(index * each, each))
            (Path(folder) / "results" / f"part-20260304-010000-ab12-driver-{index:05d}.parquet").write_bytes(data)
        began = time.monotonic()
        (done,) = compact(folder)
        took = time.monotonic() - began
        left = sum(pq.read_metadata(path).num_rows for path in (Path(folder) / "results").iterdir())
        print(f"{done}; {took:.1f} s, {left:,} rows")


if __name__ == "__main__":
    main()

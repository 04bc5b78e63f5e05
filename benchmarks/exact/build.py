"""Write the benchmark: real video files and the questions about them.

    python -m benchmarks.exact.build --material MATERIAL --out DIR [--clips 760] [--style words]

Half of the clips show cut-outs that training sees (group `seen`), half show held-out ones (`held_out`); photographs,
fonts, sign texts and compositions are new in both. Writes `DIR/clips/*.mp4` and `DIR/questions.jsonl`. What exists
already is kept. `--arrays` writes frames (`.npy`) instead of files, for a machine without a video codec.
`--development` writes scenes of the training split that no training set contains: to see how far a run has come, and to
choose between runs, without looking at the test.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.exact.compose import compose
from benchmarks.exact.draw import Artist
from benchmarks.exact.material import Material
from benchmarks.exact.questions import lines
from benchmarks.exact.scene import ExactScene
from benchmarks.scenes.render import write_mp4

#: Seeds from here on are test seeds; training stays below.
TEST_SEED = 50_000_000
DEVELOPMENT_SEED = 40_000_000
GROUPS = {"seen": False, "held_out": True}
DEVELOPMENT = "development"
HEIGHT, FPS, SECONDS, FRAMES = 288, 10, 4, 8
#: One clip in so many is also described freely.
CAPTION_EVERY = 7


def test_scene(material: Material, number: int) -> tuple[str, ExactScene]:
    """Clip `number` of the test set: its group and scene. Twins follow each other, groups take turns in fours."""
    group = list(GROUPS)[number // 4 % len(GROUPS)]
    scene = compose(TEST_SEED + number, material.palette("test", GROUPS[group]))
    return group, scene


def development_scene(material: Material, number: int) -> tuple[str, ExactScene]:
    """Clip `number` of the development set: photographs, cut-outs and fonts of training in scenes of their own."""
    return DEVELOPMENT, compose(DEVELOPMENT_SEED + number, material.palette("train"))


def asked(scene: ExactScene, number: int) -> ExactScene:
    """The scene with the questions that are asked: captions only now and then."""
    if number % CAPTION_EVERY == 0:
        return scene
    return replace(scene, asks=tuple(ask for ask in scene.asks if ask.choices))


def main() -> None:
    """Write what is missing, and the question file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--material", type=Path, required=True, help="folder made by benchmarks.exact.material")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=760)
    parser.add_argument("--style", choices=["words", "letters"], default="words")
    parser.add_argument("--arrays", action="store_true", help="frames as .npy files instead of H.264")
    parser.add_argument("--development", action="store_true", help="new scenes of the training split, not the test")
    args = parser.parse_args()
    material = Material(args.material)
    scene_of = development_scene if args.development else test_scene
    artist, ending = Artist(material), "npy" if args.arrays else "mp4"
    (args.out / "clips").mkdir(parents=True, exist_ok=True)
    rows, started = [], time.perf_counter()
    for number in range(args.clips):
        group, scene = scene_of(material, number)
        file = args.out / "clips" / f"{scene.seed}.{ending}"
        if not file.is_file():
            aside = file.with_suffix(f".part.{ending}")
            if args.arrays:
                times = (np.arange(FRAMES) + 0.5) / FRAMES
                np.save(aside, artist.frames(scene, times, HEIGHT)[0])
            else:
                times = (np.arange(FPS * SECONDS) + 0.5) / (FPS * SECONDS)
                write_mp4(aside, artist.frames(scene, times, HEIGHT)[0], FPS, preset="veryfast")
            aside.rename(file)
        rows += lines(asked(scene, number), f"clips/{file.name}", group, args.style)
        if (number + 1) % 100 == 0:
            print(f"{number + 1} clips, {time.perf_counter() - started:.0f} s", flush=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (args.out / "questions.jsonl").write_text(text, encoding="utf-8")
    for group in dict.fromkeys(row["group"] for row in rows):
        print(group, dict(sorted(Counter(row["kind"] for row in rows if row["group"] == group).items())))
    print(f"{sum('choices' in row for row in rows)} questions with options, {len(rows)} in all")


if __name__ == "__main__":
    main()

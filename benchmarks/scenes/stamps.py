"""Find the cut-outs on disk and split them: which picture shows which name, and may training see it.

A cut-out is a picture with transparency around one object. Photographs (and some drawings) come from the
Tux Paint stamps folder, renderings and drawings from the folder that `rasterise` made. Opens no picture.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.scenes.rasterise import codepoints
from benchmarks.scenes.vocabulary import ObjectName, read_table

STAMP_STYLE = "stamp"
HELD_OUT_SHARE = 0.2
MIN_TO_HOLD_OUT = 4


@dataclass(frozen=True)
class Cutout:
    """One picture of one named object; `key` names it the same on every machine."""

    name: str
    style: str
    path: Path

    @property
    def key(self) -> str:
        """Style and file stem."""
        return f"{self.style}/{self.path.stem}"


def find_cutouts(
    stamps: Path | None, emoji: Path | None, names: Iterable[ObjectName] | None = None
) -> tuple[Cutout, ...]:
    """All cut-outs of the named objects, ordered by name, style and file, each file once."""
    by_stem = {path.stem: path for path in sorted(stamps.rglob("*.png"))} if stamps else {}
    styles = sorted(path for path in emoji.iterdir() if path.is_dir()) if emoji else []
    found: dict[Path, Cutout] = {}
    for entry in names if names is not None else read_table():
        for stem in entry.stamps:
            if stem in by_stem:
                found.setdefault(by_stem[stem], Cutout(entry.name, STAMP_STYLE, by_stem[stem]))
        for style in styles:
            for char in entry.emoji:
                path = style / f"{codepoints(char)}.png"
                if path.is_file():
                    found.setdefault(path, Cutout(entry.name, style.name, path))
    return tuple(sorted(found.values(), key=lambda cutout: (cutout.name, cutout.key)))


def split_cutouts(cutouts: Iterable[Cutout]) -> tuple[tuple[Cutout, ...], tuple[Cutout, ...]]:
    """`(train, held_out)`: disjoint, and the same wherever the files lie.

    A name with at least four cut-outs gives up a fifth of them, one at least, chosen by hash; every name stays
    in training, so a held-out cut-out is a new picture of a known thing.
    """
    by_name: dict[str, list[Cutout]] = {}
    for cutout in cutouts:
        by_name.setdefault(cutout.name, []).append(cutout)
    train: list[Cutout] = []
    held_out: list[Cutout] = []
    for name in sorted(by_name):
        group = sorted(by_name[name], key=lambda cutout: hashlib.sha256(cutout.key.encode()).hexdigest())
        count = max(1, int(len(group) * HELD_OUT_SHARE)) if len(group) >= MIN_TO_HOLD_OUT else 0
        held_out += group[:count]
        train += group[count:]
    return tuple(train), tuple(held_out)

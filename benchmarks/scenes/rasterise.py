"""Turn three emoji packages into square PNG cut-outs: `FOLDER/{fluent,noto,openmoji}/<codepoints>.png`.

Needed once, before training or composing. Fluent (MIT) ships pictures; Noto (Apache-2.0) and OpenMoji
(CC-BY-SA-4.0) ship SVG, drawn here by a headless Chromium, many on one page. Only names of the vocabulary are made.

    python -m benchmarks.scenes.rasterise --packages DIR --out DIR
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Container
from pathlib import Path

from PIL import Image

from benchmarks.scenes.vocabulary import read_table

SIDE = 224
COLUMNS, ROWS = 16, 8
VARIATION_SELECTOR = "-fe0f"


def codepoints(emoji: str) -> str:
    """The usual file name of an emoji: its code points in lower-case hex, joined by dashes."""
    return "-".join(f"{ord(char):x}" for char in emoji)


def spelling(emoji: str, known: Container[str]) -> str | None:
    """How a source spells this emoji: packages disagree on the variation selector. None if it lacks it."""
    full = codepoints(emoji)
    return next(
        (c for c in (full, full.replace(VARIATION_SELECTOR, ""), full + VARIATION_SELECTOR) if c in known), None
    )


def openmoji_svgs(package: Path, emoji: list[str]) -> dict[str, str]:
    """SVG text of each emoji found in the `openmoji` package, by code points."""
    files = {path.stem.lower(): path for path in (package / "color" / "svg").glob("*.svg")}
    found = {codepoints(e): spelling(e, files) for e in emoji}
    return {key: files[name].read_text() for key, name in found.items() if name}


def noto_svgs(package: Path, emoji: list[str]) -> dict[str, str]:
    """SVG text of each emoji found in the `@iconify-json/noto` package, by code points."""
    names = json.loads((package / "chars.json").read_text())
    data = json.loads((package / "icons.json").read_text())
    icons, aliases, size = data["icons"], data["aliases"], data.get("width", 128)
    svgs = {}
    for e in emoji:
        key = spelling(e, names)
        if key is None:
            continue
        icon = names[key]
        while icon not in icons:
            icon = aliases[icon]["parent"]
        svgs[codepoints(e)] = (
            f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="0 0 {size} {size}">{icons[icon]["body"]}</svg>'
        )
    return svgs


def draw(svgs: dict[str, str], out: Path, chromium: str) -> None:
    """Draw every SVG as `out/<key>.png`, SIDE x SIDE with transparency."""
    out.mkdir(parents=True, exist_ok=True)
    keys = sorted(svgs)
    per_page = COLUMNS * ROWS
    for start in range(0, len(keys), per_page):
        page = keys[start : start + per_page]
        with tempfile.TemporaryDirectory() as folder:
            tags = []
            for index, key in enumerate(page):
                (Path(folder) / f"{index}.svg").write_text(svgs[key])
                left, top = index % COLUMNS * SIDE, index // COLUMNS * SIDE
                style = f"position:absolute;left:{left}px;top:{top}px"
                tags.append(f'<img src="{index}.svg" style="{style}" width="{SIDE}" height="{SIDE}">')
            html = Path(folder) / "page.html"
            html.write_text(f'<body style="margin:0;background:transparent">{"".join(tags)}</body>')
            shot = Path(folder) / "page.png"
            subprocess.run(
                [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                 "--default-background-color=00000000", "--allow-file-access-from-files",
                 f"--window-size={COLUMNS * SIDE},{ROWS * SIDE}", f"--screenshot={shot}", html.as_uri()],
                check=True, capture_output=True, timeout=120,
            )  # fmt: skip
            sheet = Image.open(shot).convert("RGBA")
        for index, key in enumerate(page):
            left, top = index % COLUMNS * SIDE, index // COLUMNS * SIDE
            sheet.crop((left, top, left + SIDE, top + SIDE)).save(out / f"{key}.png")


def copy_fluent(package: Path, emoji: list[str], out: Path) -> None:
    """Bring the pictures of `@lobehub/fluent-emoji-3d` to the same size and names."""
    out.mkdir(parents=True, exist_ok=True)
    files = {path.stem: path for path in (package / "assets").glob("*.webp")}
    for e in emoji:
        key = spelling(e, files)
        if key:
            Image.open(files[key]).convert("RGBA").resize((SIDE, SIDE), Image.Resampling.LANCZOS).save(
                out / f"{codepoints(e)}.png"
            )


def main() -> None:
    """Make the cut-outs of all three packages."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fluent", type=Path, required=True, help="unpacked @lobehub/fluent-emoji-3d")
    parser.add_argument("--noto", type=Path, required=True, help="unpacked @iconify-json/noto")
    parser.add_argument("--openmoji", type=Path, required=True, help="unpacked openmoji")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--chromium", default="chromium")
    args = parser.parse_args()
    emoji = [e for entry in read_table() for e in entry.emoji]
    copy_fluent(args.fluent, emoji, args.out / "fluent")
    draw(noto_svgs(args.noto, emoji), args.out / "noto", args.chromium)
    draw(openmoji_svgs(args.openmoji, emoji), args.out / "openmoji", args.chromium)


if __name__ == "__main__":
    main()

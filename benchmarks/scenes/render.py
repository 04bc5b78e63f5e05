"""Draw a composed scene: frames as uint8 arrays, how much of each cell an object covers, and real files.

Knows pixels; decides nothing (see `compose`). The same scene gives the same bytes on the same library versions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageFilter

from benchmarks.scenes.compose import COLOURS, TEXTURED, Placed, Scene

BACKDROP_SCALE = 1.25
PAN_SPEED = 8

Textures = Mapping[str, Sequence[np.ndarray]]
#: When a scene is looked at, 0 to 1.
Times = Sequence[float] | np.ndarray


def load_textures(folder: Path) -> dict[str, list[np.ndarray]]:
    """Photographic backgrounds: `folder/<kind>*.{png,jpg}` -> `[height, width, 3]` uint8, by kind."""
    textures: dict[str, list[np.ndarray]] = {}
    for kind in TEXTURED:
        files = sorted(path for path in folder.glob(f"{kind}*") if path.suffix in {".png", ".jpg"})
        if files:
            textures[kind] = [np.asarray(Image.open(path).convert("RGB")) for path in files]
    return textures


def smooth_noise(rng: np.random.Generator, side: int, cells: int) -> np.ndarray:
    """Noise in 0..1 with about `cells` blobs a side: `[side, side]` float32."""
    coarse = Image.fromarray((rng.random((cells, cells)) * 255).astype(np.uint8))
    return np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float32) / 255


def _mix(first: ArrayLike, second: ArrayLike, weight: np.ndarray) -> np.ndarray:
    return np.asarray(first, np.float32) * (1 - weight[..., None]) + np.asarray(second, np.float32) * weight[..., None]


def draw_background(scene: Scene, side: int, textures: Textures) -> np.ndarray:
    """The still backdrop, larger than the frame so that it can pan: `[side, side, 3]` uint8."""
    rng = np.random.default_rng([7, scene.seed])
    colour = np.array(COLOURS[scene.colour], np.float32)
    accent = np.array(list(COLOURS.values())[rng.integers(len(COLOURS))], np.float32)
    rows = np.linspace(0, 1, side, dtype=np.float32)[:, None] * np.ones((1, side), np.float32)
    canvas: np.ndarray
    kind = scene.background
    if kind in textures:
        source = textures[kind][int(rng.integers(len(textures[kind])))]
        height, width = source.shape[:2]
        crop = int(min(height, width) * rng.uniform(0.5, 1.0))
        top, left = rng.integers(height - crop + 1), rng.integers(width - crop + 1)
        image = Image.fromarray(source[top : top + crop, left : left + crop]).resize(
            (side, side), Image.Resampling.BICUBIC
        )
        canvas = np.asarray(image, np.float32)
        if kind == "grass":
            canvas = canvas.mean(-1, keepdims=True) * np.array([0.55, 1.0, 0.4]) * rng.uniform(0.9, 1.3)
        elif kind == "brick":
            canvas = canvas.mean(-1, keepdims=True) * np.array([1.15, 0.7, 0.55]) * rng.uniform(0.8, 1.2)
    elif kind == "sky":
        clouds = np.clip(smooth_noise(rng, side, 6) * 1.6 - 0.7, 0, 0.85)
        canvas = _mix(_mix((70, 130, 215), (180, 215, 245), rows), (250, 250, 252), clouds)
    elif kind == "night":
        canvas = _mix((6, 8, 30), (25, 25, 70), rows)
        stars = rng.random((side, side)) > 0.9985
        canvas[stars] = 235
    elif kind == "snow":
        canvas = _mix((225, 232, 242), (250, 250, 252), smooth_noise(rng, side, 5))
        flakes = Image.fromarray(((rng.random((side, side)) > 0.996) * 255).astype(np.uint8)).filter(
            ImageFilter.MaxFilter(3)
        )
        canvas = _mix(canvas * 0.9, (255, 255, 255), np.asarray(flakes, np.float32) / 255)
    elif kind == "stripes":
        period, angle = rng.uniform(0.08, 0.2), rng.uniform(0, np.pi)
        phase = (rows * np.sin(angle) + rows.T * np.cos(angle)) / period
        canvas = _mix(colour, accent if scene.colour != "white" else colour * 0.4, (phase % 1 > 0.5).astype(np.float32))
    elif kind == "checks":
        cells = int(rng.integers(6, 12))
        canvas = _mix((30, 30, 30), (235, 235, 235), (np.floor(rows * cells) + np.floor(rows.T * cells)) % 2)
    elif kind == "blurred":
        canvas = _mix(
            _mix(colour, accent, smooth_noise(rng, side, 4)), (235, 230, 220), smooth_noise(rng, side, 3) * 0.6
        )
    else:
        canvas = colour * np.ones((side, side, 1), np.float32) * (0.94 + 0.12 * rows[..., None])
    canvas = canvas + rng.normal(0, 2.5, canvas.shape)
    return np.clip(canvas, 0, 255).astype(np.uint8)


@lru_cache(maxsize=2048)
def load_cutout(path: Path) -> Image.Image:
    """The picture cropped to what is visible, at most 448 pixels a side."""
    image = Image.open(path).convert("RGBA")
    box = image.getchannel("A").point(lambda value: 255 if value > 24 else 0).getbbox()
    image = image.crop(box) if box else image
    image.thumbnail((448, 448), Image.Resampling.LANCZOS)
    return image


def _pan_pixels(share: float, time: float, spare: int) -> int:
    """Where the frame's edge lies on a backdrop with `spare` pixels to spare; halfway at half time."""
    return round(np.clip((0.5 + PAN_SPEED * share * (time - 0.5)) * spare, 0, spare))


def _paste(canvas: Image.Image, placed: Placed, mask: Image.Image) -> None:
    """Draw one object on the frame, and its alpha on `mask`, in place."""
    side = canvas.width
    image = load_cutout(placed.cutout.path)
    width, height = image.width * placed.squash, image.height
    scale = placed.size * side / max(width, height)
    image = image.resize((max(2, round(width * scale)), max(2, round(height * scale))), Image.Resampling.BICUBIC)
    if placed.flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    image = image.rotate(placed.angle_deg, Image.Resampling.BICUBIC, expand=True)
    corner = (round(placed.x * side - image.width / 2), round(placed.y * side - image.height / 2))
    canvas.paste(image, corner, image)
    mask.paste(image.getchannel("A"), corner, image.getchannel("A"))


def render(scene: Scene, times: Times, side: int, textures: Textures, cells: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Frames `[times, side, side, 3]` uint8, and the share of each cell that the main and the other object
    cover: `[times, 2, cells, cells]` float32."""
    backdrop = draw_background(scene, round(side * BACKDROP_SCALE), textures)
    frames, coverage = [], []
    for time in times:
        left, top = (_pan_pixels(share, time, backdrop.shape[0] - side) for share in scene.pan)
        canvas = Image.fromarray(backdrop[top : top + side, left : left + side].copy())
        masks = [Image.new("L", (side, side)), Image.new("L", (side, side))]
        if scene.other:
            _paste(canvas, scene.other, masks[1])
        _paste(canvas, scene.at(time), masks[0])
        if scene.blur > 0.4:
            canvas = canvas.filter(ImageFilter.GaussianBlur(scene.blur * side / 224))
        pixels = (np.asarray(canvas, np.float32) - 128) * scene.contrast + 128 * scene.brightness
        frames.append(np.clip(pixels, 0, 255).astype(np.uint8))
        coverage.append(
            [np.asarray(mask.resize((cells, cells), Image.Resampling.BOX), np.float32) / 255 for mask in masks]
        )
    return np.stack(frames), np.asarray(coverage, np.float32)


def write_mp4(path: Path, frames: np.ndarray, fps: int, crf: int = 24, preset: str = "slow") -> None:
    """Frames `[frames, height, width, 3]` uint8 as an H.264 file any player opens (yuv420p, even sides)."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "libx264", rate=Fraction(fps), options={"crf": str(crf), "preset": preset, "threads": "1"}
        )
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for array in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        container.mux(stream.encode())

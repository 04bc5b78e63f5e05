"""Draw a scene: frames as uint8 arrays, and which cells of a frame an object covers.

Knows pixels; decides nothing (see `compose`). The same scene gives the same bytes on the same library versions.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from benchmarks.exact.material import Material
from benchmarks.exact.scene import Actor, ExactScene, Look, Patch, Picture, Sign
from benchmarks.exact.words import TINTS
from benchmarks.scenes.render import Times

BACKDROP_SCALE = 1.16
SIGN_HEIGHT = 96
NOISE_SIDE = 512


def dye(image: Image.Image, colour: str) -> Image.Image:
    """A picture in shades of one colour; its transparency stays."""
    pixels = np.asarray(image, np.float32)
    light = pixels[..., :3] @ np.array([0.299, 0.587, 0.114], np.float32)
    seen = pixels[..., 3] > 24
    low, high = np.percentile(light[seen], [5, 95]) if seen.any() else (0.0, 255.0)
    # Contrast is squeezed, so that black fur turns dark red, not black.
    shade = 0.5 + 0.6 * np.clip((light - low) / max(high - low, 1.0), 0, 1)
    dyed = np.clip(shade[..., None] * np.array(TINTS[colour], np.float32), 0, 255)
    return Image.fromarray(np.concatenate([dyed, pixels[..., 3:]], axis=-1).astype(np.uint8), "RGBA")


@lru_cache(maxsize=1024)
def plate(sign: Sign, font: Path) -> Image.Image:
    """A sign's picture, RGBA."""
    face = ImageFont.truetype(str(font), round(SIGN_HEIGHT * 0.72))
    left, top, right, bottom = face.getbbox(sign.text)
    pad = SIGN_HEIGHT // 5
    size = (max(int(right - left), SIGN_HEIGHT // 2) + 2 * pad, SIGN_HEIGHT + pad)
    paper, ink = ((25, 40, 80), (250, 250, 245)) if sign.dark else ((248, 244, 230), (20, 20, 25))
    image = Image.new("RGBA", size, (0, 0, 0, 0))
    canvas = ImageDraw.Draw(image)
    canvas.rounded_rectangle((0, 0, size[0] - 1, size[1] - 1), pad, fill=paper, outline=ink, width=4)
    at = ((size[0] - (right - left)) / 2 - left, (size[1] - (bottom - top)) / 2 - top)
    canvas.text(at, sign.text, font=face, fill=ink)
    return image


class Artist:
    """Draws scenes with one material."""

    def __init__(self, material: Material) -> None:
        self.material = material
        # One field of noise, shifted from frame to frame, is much cheaper than fresh noise.
        self.grain = np.random.default_rng(5).standard_normal((NOISE_SIDE, NOISE_SIDE, 1)).astype(np.float32)

    def picture(self, actor: Actor) -> Image.Image:
        """An actor's picture before it is scaled."""
        if isinstance(actor.shows, Sign):
            return plate(actor.shows, self.material.font(actor.shows.font))
        image = self.material.cutout(actor.shows.key)
        return dye(image, actor.tint) if actor.tint else image

    def backdrop(self, scene: ExactScene, width: int, height: int) -> Image.Image:
        """The still background, larger than the frame so that it can pan."""
        camera = scene.camera
        photo = self.material.background(camera.background)
        wide, high = round(width * BACKDROP_SCALE), round(height * BACKDROP_SCALE)
        share = camera.crop[2] * min(photo.width / wide, photo.height / high)
        crop = (round(wide * share), round(high * share))
        left, top = (round(at * (whole - part)) for at, whole, part in zip(camera.crop, photo.size, crop, strict=False))
        photo = photo.crop((left, top, left + crop[0], top + crop[1]))
        if camera.mirror:
            photo = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return photo.resize((wide, high), Image.Resampling.BICUBIC)

    def scrap(self, patch: Patch, height: int) -> Image.Image:
        """A piece of clutter, RGBA."""
        photo, side = self.material.background(patch.background), max(8, round(patch.size * height))
        crop = min(photo.size) // 6
        left, top = (round(at * (whole - crop)) for at, whole in zip(patch.source, photo.size, strict=True))
        piece = photo.crop((left, top, left + crop, top + crop)).resize((side, side), Image.Resampling.BICUBIC)
        mask = Image.new("L", (side, side))
        shape = ImageDraw.Draw(mask)
        (shape.ellipse if patch.round else shape.rectangle)((2, 2, side - 3, side - 3), fill=215)
        piece.putalpha(mask.filter(ImageFilter.GaussianBlur(1.5)))
        return piece

    def frames(
        self,
        scene: ExactScene,
        times: Times,
        height: int,
        slots: Sequence[str | Look] = (),
        cells: int = 8,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Frames `[times, height, width, 3]` uint8, sides even, and the share of each cell covered by what has the
        name or the look of each of `slots`: `[times, slots, cells, cells]` float32."""
        width = round(height * scene.aspect / 2) * 2
        backdrop = self.backdrop(scene, width, height)
        spare = backdrop.width - width, backdrop.height - height
        scraps = [(self.scrap(patch, height), patch) for patch in scene.clutter]
        pictures = [self.picture(actor) for actor in scene.actors]
        drawn, coverage = [], np.zeros((len(times), len(slots), cells, cells), np.float32)
        for index, time in enumerate(times):
            left, top = (
                round(room * (0.5 + way * (time - 0.5))) for room, way in zip(spare, scene.camera.pan, strict=True)
            )
            canvas = backdrop.crop((left, top, left + width, top + height))
            for piece, patch in scraps:
                across, down = (round(at * height - piece.width / 2) for at in patch.at)
                canvas.paste(piece, (across, down), piece)
            masks = {slot: Image.new("L", (width, height)) for slot in slots}
            for actor, picture in zip(scene.actors, pictures, strict=True):
                if actor.seen(time):
                    _paste(canvas, masks, actor, picture, time)
            drawn.append(self._developed(canvas, scene, time, index))
            for slot, mask in enumerate(masks.values()):
                small = mask.resize((cells, cells), Image.Resampling.BOX)
                coverage[index, slot] = np.asarray(small, np.float32) / 255
        return np.stack(drawn), coverage

    def _developed(self, canvas: Image.Image, scene: ExactScene, time: float, index: int) -> np.ndarray:
        """Light, lens and grain."""
        camera = scene.camera
        if camera.blur > 0.2:
            canvas = canvas.filter(ImageFilter.GaussianBlur(camera.blur * canvas.height / 288))
        first, last = camera.light
        pixels = (np.asarray(canvas, np.float32) - 110) * camera.contrast + 110
        pixels *= first + (last - first) * time
        if camera.noise > 1:
            down, right = (index * 97 + scene.seed) % 251, (index * 61) % 241
            rows = (np.arange(pixels.shape[0]) + down) % NOISE_SIDE
            columns = (np.arange(pixels.shape[1]) + right) % NOISE_SIDE
            pixels += camera.noise * self.grain[rows][:, columns]
        return np.clip(pixels, 0, 255).astype(np.uint8)


def _paste(
    canvas: Image.Image, masks: dict[str | Look, Image.Image], actor: Actor, picture: Image.Image, time: float
) -> None:
    """Draw one actor on the frame, and its shape on the masks, in place: what it hides is covered no longer."""
    x, y, size = actor.at(time)
    scale = size * canvas.height / max(picture.size)
    image = picture.resize([max(2, round(side * scale)) for side in picture.size], Image.Resampling.BICUBIC)
    if actor.flip and isinstance(actor.shows, Picture):
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    image = image.rotate(actor.angle_deg, Image.Resampling.BICUBIC, expand=True)
    corner = (round(x * canvas.height - image.width / 2), round(y * canvas.height - image.height / 2))
    canvas.paste(image, corner, image)
    shape = image.getchannel("A")
    for slot, mask in masks.items():
        hit = slot in (actor.name, actor.look)
        mask.paste(255 if hit else 0, (*corner, corner[0] + image.width, corner[1] + image.height), shape)

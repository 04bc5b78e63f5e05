"""A few evenly spaced frames of a film of the sea, as backdrops."""

from __future__ import annotations

from pathlib import Path

import numpy as np

FRAMES = 6


def save_sea(video: Path, out: Path) -> None:
    """Write `OUT/sea_<n>.png`."""
    import av

    with av.open(str(video)) as container:
        images = [frame.to_image() for frame in container.decode(video=0)]
    for number, index in enumerate(np.linspace(0, len(images) - 1, FRAMES).astype(int)):
        images[index].save(out / f"sea_{number}.png")

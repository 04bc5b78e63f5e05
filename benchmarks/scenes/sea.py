"""Save a few evenly spaced frames of a film of the sea as backgrounds: `OUT/sea_<n>.png`.

python -m benchmarks.scenes.sea --video ocean.mp4 --out DIR
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

FRAMES = 6


def main() -> None:
    """Decode the film and save the frames."""
    import av

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--video", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    with av.open(str(args.video)) as container:
        images = [frame.to_image() for frame in container.decode(video=0)]
    for number, index in enumerate(np.linspace(0, len(images) - 1, FRAMES).astype(int)):
        images[index].save(args.out / f"sea_{number}.png")


if __name__ == "__main__":
    main()

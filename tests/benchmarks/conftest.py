"""Made-up material for composed scenes, and the model that is trained on real ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from safetensors.torch import load_file

import luvc.embedded
from benchmarks.embedded_model.data import Prompter
from benchmarks.embedded_model.model import CaptionModel
from benchmarks.exact.material import Material
from benchmarks.exact.words import all_names
from benchmarks.scenes.stamps import Cutout, split_cutouts
from luvc.embedded import assembly


@pytest.fixture(scope="session")
def material(tmp_path_factory) -> Material:
    """Made-up pictures in the shape of the real material: five blots for each name, twelve noisy photographs."""
    folder = tmp_path_factory.mktemp("material")
    for name in ("cutouts", "backgrounds", "fonts"):
        (folder / name).mkdir()
    rng = np.random.default_rng(0)
    cutouts = []
    for number, name in enumerate(all_names()[::2]):
        for copy in range(5):
            image = Image.new("RGBA", (40, 40))
            colour = tuple(int(value) for value in rng.integers(40, 255, 3))
            ImageDraw.Draw(image).ellipse((0, 4 * copy, 39, 39), fill=(*colour, 255))
            key = f"stamp-{number}_{copy}"
            image.crop(image.getbbox()).save(folder / "cutouts" / f"{key}.png")
            cutouts.append(Cutout(name, "stamp", folder / f"{key}.png"))
    train, _ = split_cutouts(cutouts)
    index = {
        "cutouts": {c.path.stem: (c.name, "train" if c in set(train) else "held_out") for c in cutouts},
        "backgrounds": {f"photo_{number}": "none" for number in range(12)},
        "fonts": dict.fromkeys(("Aileron", "OpenSans-Regular"), "none"),
    }
    for name in index["backgrounds"]:
        pixels = rng.integers(90, 130, (120, 160, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "backgrounds" / f"{name}.jpg")
    for name in index["fonts"]:
        (folder / "fonts" / f"{name}.ttf").write_bytes(ImageFont.load_default(20).font_bytes)
    (folder / "index.json").write_text(json.dumps(index))
    return Material(folder)


@pytest.fixture(scope="session")
def folder() -> Path:
    return luvc.embedded.assemble()


@pytest.fixture(scope="session")
def prompter(folder) -> Prompter:
    from transformers import AutoTokenizer

    return Prompter(AutoTokenizer.from_pretrained(folder))


@pytest.fixture(scope="session")
def trained() -> tuple[CaptionModel, dict[str, torch.Tensor]]:
    """The packaged trained part, and a model of a higher rank that starts from it."""
    part = load_file(assembly.TRAINED_PATH)
    model = CaptionModel(4 + next(value.shape[0] for name, value in part.items() if name.endswith(".A")), torch.float32)
    model.restore(part)
    return model, part

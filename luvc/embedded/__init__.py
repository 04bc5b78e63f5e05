"""The embedded model: a small, real vision-language model for the demo and the tests.

No weights of the two towers live in this repository. They come from two pinned Python packages;
`assemble` joins them with the small trained part beside this file into an ordinary transformers
checkpoint folder. Importing this package costs nothing: torch is imported when `assemble` is called.
"""

from __future__ import annotations

from pathlib import Path

MODEL_NAME = "luvc-demo"

__all__ = ["MODEL_NAME", "assemble", "config_path"]


def config_path() -> Path:
    """The model's `config.json`, readable without torch and without the weights installed."""
    return Path(__file__).with_name("config.json")


def assemble(folder: Path | None = None) -> Path:
    """Build the checkpoint folder, or return the one built before: see `luvc.embedded.assembly.build`."""
    from luvc.embedded.assembly import build

    return build(folder)

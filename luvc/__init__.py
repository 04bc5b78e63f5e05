"""LUVC: training-free compression of visual tokens, and an engine that turns it into time.

Importing this package is cheap: torch and transformers are imported only by `luvc.load`.
Knows nothing of Ray, files of videos, or decoders.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luvc.compression import Compression
from luvc.errors import LuvcError
from luvc.scheduling import schedule
from luvc.types import Answer, Clip, Completion, Request, TokenCounts

if TYPE_CHECKING:
    from luvc.encoder import Encoder
    from luvc.engine import Engine

__all__ = [
    "Answer",
    "Clip",
    "Completion",
    "Compression",
    "Engine",
    "LuvcError",
    "Request",
    "TokenCounts",
    "load",
    "load_encoder",
    "schedule",
]


def load(model: Any, compression: Any = "balanced", **options: Any) -> Engine:
    """Load a checkpoint and return an engine; see `luvc.loading.load`."""
    from luvc.loading import load as load_engine

    return load_engine(model, compression=compression, **options)


def load_encoder(model: Any, compression: Any = "balanced", **options: Any) -> Encoder:
    """Load the vision encoder of a checkpoint; see `luvc.loading.load_encoder`."""
    from luvc.loading import load_encoder as load

    return load(model, compression=compression, **options)


def __getattr__(name: str) -> Any:
    if name == "Engine":
        from luvc.engine import Engine

        return Engine
    raise AttributeError(f"module 'luvc' has no attribute {name!r}")

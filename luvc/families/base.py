"""What a model family must provide. Importing this does not import torch.

`Family` is the torch-free half, used by the planner; `Runtime` is one loaded model, used by the engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from luvc.compression import Compression
from luvc.scheduling import Schedule
from luvc.shapes import Grid, ModelShape

if TYPE_CHECKING:
    from torch import Tensor

    from luvc.decoder import Decoder
    from luvc.packing import PackedPrompts
    from luvc.preprocess import Normalisation


@dataclass(frozen=True)
class PromptLayout:
    """A prompt as token ids around the places of its visual tokens.

    Attributes:
        pieces: text ids; between `pieces[i]` and `pieces[i + 1]` stand the visual tokens of run i.
    """

    pieces: tuple[tuple[int, ...], ...]

    @property
    def runs(self) -> int:
        return len(self.pieces) - 1

    @property
    def text_tokens(self) -> int:
        return sum(len(piece) for piece in self.pieces)


@dataclass(frozen=True)
class Encoded:
    """Visual tokens of one clip, ready for the language model.

    Attributes:
        features: `[tokens, dim]`, frames in order, each frame row by row.
        row, column: `[tokens]` float, mean position of each token in its frame's original grid.
        time: `[tokens]` float, mean frame of each token; None where frames are never merged.
    """

    features: Tensor
    row: Tensor
    column: Tensor
    time: Tensor | None = None


@dataclass(frozen=True)
class ClipPlan:
    """One clip of a prompt: what is known before it is decoded.

    Attributes:
        schedule: its counts.
        image: it is a still.
        frame_interval_s: time between two frames; None when unknown.
    """

    schedule: Schedule
    image: bool = False
    frame_interval_s: float | None = None


@dataclass(frozen=True)
class Prompt:
    """One sequence to prefill: its token ids, its clips, and the clips' encodings once they exist."""

    layout: PromptLayout
    clips: tuple[ClipPlan, ...] = ()
    encoded: tuple[Encoded, ...] = ()


class Runtime(Protocol):
    """One loaded model of a family."""

    shape: ModelShape
    tower: Any  # None where the vision encoder was left out
    decoder: Decoder  # without a model where the language model was left out
    tokenizer: Any

    def check(self, compression: Compression) -> None:
        """Raise ConfigError for a compression that this family cannot do."""

    def layout(self, prompt: str, clips: Sequence[ClipPlan]) -> PromptLayout:
        """Token ids of a user prompt about some clips."""

    def encode(self, clips: Sequence[Tensor], schedules: Sequence[Schedule], tokens: int) -> list[Encoded]:
        """uint8 clips `[frames, height, width, 3]` on the device -> their visual tokens, merged.

        `tokens` bounds the encoder tokens of one pass.
        """

    def pack(self, prompts: Sequence[Prompt]) -> PackedPrompts:
        """Lay prompts end to end: embeddings, positions, places of visual tokens."""

    def next_position(self, prompt: Prompt) -> int:
        """Position of the first generated token; it counts the uncompressed length."""

    def decode_positions(self, positions: Sequence[int]) -> Tensor:
        """Positions of one decode step in the form the model's rotary embedding takes."""


class Family(Protocol):
    """The torch-free half of a model family."""

    name: str
    #: Modules of a loaded model that make visual tokens, by their names in `model.model`.
    encoder_modules: tuple[str, ...]

    def shape(self, config: Mapping[str, Any]) -> ModelShape:
        """Dimensions from a checkpoint's `config.json`. Raises ModelError for what is not supported."""

    def frame_size(
        self, shape: ModelShape, height: int, width: int, frames: int, max_frame_tokens: int | None = None
    ) -> tuple[int, int]:
        """Size `(height, width)` in pixels a frame is resized to, from its displayed size.

        `max_frame_tokens` bounds the visual tokens per frame where the model takes any size; it is the
        one knob of the plain down-scaling rival.
        """

    def fits(self, shape: ModelShape, height: int, width: int) -> bool:
        """Whether frames of this pixel size can be taken as they are; if so they are never resized again."""

    def grid(self, shape: ModelShape, frames: int, height: int, width: int) -> Grid:
        """Grid of visual tokens for `frames` frames of that (resized) pixel size."""

    def runtime(self, model: Any, tokenizer: Any, normalisation: Normalisation) -> Runtime:
        """Bind a loaded transformers model."""

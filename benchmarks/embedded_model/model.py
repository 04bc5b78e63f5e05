"""The trainable part on top of the frozen towers: projector, LoRA and the two frame-marker embeddings.

The frozen language model may run in bfloat16, what is trained is kept in float32. The projector is transformers'
own module, so that what is trained is what is loaded later.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from luvc.embedded import config_path
from luvc.embedded.assembly import LORA_PREFIX, PROJECTOR_PREFIX, SPECIAL_ROWS, VISION_LORA_PREFIX, open_gguf
from luvc.embedded.towers import LANGUAGE_PREFIX, read_language_model
from luvc.loading import cpu_has_bfloat16

if TYPE_CHECKING:
    from transformers import Cache

    from benchmarks.embedded_model.guide import Look, Shown

LORA_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
START_ID, END_ID, IMAGE_ID, EOS_ID = 3, 4, 5, 2
IGNORE = -100


def frozen_dtype(device: str) -> torch.dtype:
    """What frozen weights run in: bfloat16, but for CPUs that have no instructions for it and are far slower then."""
    return torch.bfloat16 if device != "cpu" or cpu_has_bfloat16() else torch.float32


class LoraLinear(nn.Module):
    """A frozen linear layer plus a trained low-rank term: `x W' + (x A') B'` (arXiv 2106.09685)."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base
        self.A = nn.Parameter(torch.randn(rank, base.in_features) / base.in_features**0.5)
        self.B = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[..., in]` -> `[..., out]`, in the dtype of `x`."""
        low = functional.linear(x, self.A.to(x.dtype))
        return self.base(x) + functional.linear(low, self.B.to(x.dtype))


@dataclass(frozen=True)
class Batch:
    """Sequences in rows.

    ids, labels: `[rows, length]` int64, labels IGNORE except on the answers; units: `[..., 1536]` float32, as many as
    the ids hold visual tokens, in reading order, None for text alone. Rows of several readings (`packing`) also have
    positions: `[rows, length]`; mask: `[rows, 1, length, length]` bool, who sees whom; shown: what all visual tokens
    show; looks: of each row, where words that are mentioned and answers that begin should look; kinds: of all answers.
    """

    ids: torch.Tensor
    labels: torch.Tensor
    units: torch.Tensor | None
    positions: torch.Tensor | None = None
    mask: torch.Tensor | None = None
    shown: Shown | None = None
    looks: list[tuple[list[Look], list[Look]]] | None = None
    kinds: Sequence[str] = ()

    def to(self, device: str) -> Batch:
        """The same on a device; looks stay, heads fetch them."""
        parts = (self.ids, self.labels, self.units, self.positions, self.mask)
        shown = self.shown and type(self.shown)(*(part.to(device) for part in self.shown))
        return Batch(*(None if part is None else part.to(device) for part in parts), shown, self.looks, self.kinds)  # type: ignore[arg-type, call-arg]

    def layout(self) -> dict[str, torch.Tensor]:
        """What the language model must be told of positions and of who sees whom: nothing for plain rows."""
        if self.positions is None or self.mask is None:
            return {}
        return {"position_ids": self.positions, "attention_mask": self.mask}


class CaptionModel(nn.Module):
    """Units and token ids to next-token losses."""

    def __init__(self, rank: int, dtype: torch.dtype) -> None:
        super().__init__()
        from transformers import InternVLConfig, LlamaForCausalLM
        from transformers.models.internvl.modeling_internvl import InternVLMultiModalProjector

        config = InternVLConfig(**json.loads(config_path().read_text()))
        text = config.text_config
        lm = LlamaForCausalLM(text)
        weights = read_language_model(open_gguf(), text.num_attention_heads, text.num_key_value_heads)
        lm.model.load_state_dict({name.removeprefix(LANGUAGE_PREFIX): value for name, value in weights.items()})
        lm.tie_weights()
        self.lm = lm.to(dtype).eval().requires_grad_(False)
        self.projector = InternVLMultiModalProjector(config)
        rows = self.lm.model.embed_tokens.weight.detach()
        self.special_rows = nn.Parameter(rows[[START_ID, END_ID]].float().clone())
        self.rank = rank
        #: What was trained of the vision tower, which is not run here: exported as it came.
        self.tower: dict[str, torch.Tensor] = {}
        for layer in self.lm.model.layers if rank else ():
            for name in LORA_MODULES:
                owner = layer.self_attn if hasattr(layer.self_attn, name) else layer.mlp
                setattr(owner, name, LoraLinear(getattr(owner, name), rank))

    def trainable(self) -> dict[str, nn.Parameter]:
        """The parameters that learn, by name."""
        return {name: value for name, value in self.named_parameters() if value.requires_grad}

    def embed(self, batch: Batch, visual: torch.Tensor | None = None) -> torch.Tensor:
        """Input embeddings `[rows, length, 576]`; visual tokens, projected or as given `[n, 576]`, in their places."""
        embeds = self.lm.model.embed_tokens(batch.ids)
        for row, token_id in enumerate((START_ID, END_ID)):
            at = (batch.ids == token_id)[..., None]
            embeds = torch.where(at, self.special_rows[row].to(embeds.dtype), embeds)
        if batch.units is None:
            return embeds
        visual = self.projector(batch.units) if visual is None else visual
        places = (batch.ids == IMAGE_ID)[..., None].expand_as(embeds)
        return embeds.masked_scatter(places, visual.to(embeds.dtype))

    def token_losses(
        self, batch: Batch, cache: Cache | None = None, visual: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Negative log-likelihood of every label, `[rows, length - 1]` float32, 0 where ignored.

        The batch follows what `cache` holds, which is left as it was; `visual`: as `embed` has it.

        Rows are padded on the right, so causal attention needs no mask, and only labelled positions go
        through the 49,152-way head.
        """
        past = {"past_key_values": copy.deepcopy(cache)} if cache is not None else {}
        out = self.lm.model(
            inputs_embeds=self.embed(batch, visual), use_cache=cache is not None, **past, **batch.layout()
        )
        hidden = out.last_hidden_state[:, :-1]
        labels = batch.labels[:, 1:]
        wanted = labels != IGNORE
        logits = self.lm.lm_head(hidden[wanted]).float()
        losses = torch.zeros(labels.shape, device=labels.device)
        losses[wanted] = functional.cross_entropy(logits, labels[wanted], reduction="none")
        return losses

    @torch.no_grad()
    def generate(self, ids: torch.Tensor, max_new_tokens: int, cache: Cache | None = None) -> list[list[int]]:
        """Greedy answers to `ids` `[rows, length]` (no padding), after what `cache` holds, which is left as it was."""
        cache, ids = copy.deepcopy(cache), ids.to(self.special_rows.device)
        answers: list[list[int]] = [[] for _ in range(len(ids))]
        finished = [False] * len(answers)
        for _ in range(max_new_tokens):
            out = self.lm.model(input_ids=ids, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            tokens = self.lm.lm_head(out.last_hidden_state[:, -1]).argmax(-1)
            for row, token in enumerate(tokens.tolist()):
                finished[row] |= token == EOS_ID
                if not finished[row]:
                    answers[row].append(token)
            if all(finished):
                break
            ids = tokens[:, None]
        return answers

    @torch.no_grad()
    def read(self, batch: Batch) -> Cache:
        """The keys and values of clips, to ask many questions of: the labels do not matter."""
        return self.lm.model(inputs_embeds=self.embed(batch), use_cache=True).past_key_values

    def export(self) -> dict[str, torch.Tensor]:
        """The trained part as `luvc.embedded.assembly.apply_trained` reads it, float16."""
        part = {PROJECTOR_PREFIX + name: value for name, value in self.projector.state_dict().items()}
        part[SPECIAL_ROWS] = self.special_rows
        part |= self.tower
        for name, value in self.trainable().items():
            if name.endswith((".A", ".B")):
                part[LORA_PREFIX + name.removeprefix("lm.model.layers.")] = value
        return {name: value.detach().half().cpu().contiguous() for name, value in part.items()}

    def restore(self, part: Mapping[str, torch.Tensor]) -> None:
        """Load what `export` wrote, of this rank or a lower one: what a higher rank adds counts for nothing at first.

        Raises:
            ValueError: it is not a part of this model, or of a higher rank.
        """
        self.tower = {name: value for name, value in part.items() if name.startswith(VISION_LORA_PREFIX)}
        own = self.export()
        if own.keys() != part.keys():
            raise ValueError(f"trained part does not fit: {sorted(own.keys() ^ part.keys())[:4]}")
        load_projector(part, self.projector)
        parameters = dict(self.named_parameters())
        with torch.no_grad():
            self.special_rows.copy_(part[SPECIAL_ROWS].float())
            for name, value in part.items():
                if name.startswith(LORA_PREFIX):
                    own_rank = parameters["lm.model.layers." + name.removeprefix(LORA_PREFIX)]
                    if name.endswith(".A"):
                        own_rank[: len(value)] = value.float()
                    else:
                        own_rank[:] = functional.pad(value.float(), (0, self.rank - value.shape[1]))


def load_projector(part: Mapping[str, torch.Tensor], projector: nn.Module) -> None:
    """Take the projector out of a trained part."""
    projector.load_state_dict({name: part[PROJECTOR_PREFIX + name].float() for name in projector.state_dict()})


def pad_rows(rows: Sequence[tuple[list[int], list[int]]], units: torch.Tensor | None) -> Batch:
    """`(prompt ids, answer ids)` pairs as one right-padded batch; the answer is followed by end-of-turn."""
    full = [prompt + answer + [EOS_ID] for prompt, answer in rows]
    length = max(map(len, full))
    ids = torch.full((len(rows), length), EOS_ID)
    labels = torch.full((len(rows), length), IGNORE)
    for row, ((prompt, _), tokens) in enumerate(zip(rows, full, strict=True)):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        labels[row, len(prompt) : len(tokens)] = torch.tensor(tokens[len(prompt) :])
    return Batch(ids, labels, units)

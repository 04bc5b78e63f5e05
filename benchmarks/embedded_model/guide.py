"""Where the language model should look, taught beside what it should say.

"Which way does the fox move?" is a lookup among hundreds of visual tokens. Answers alone teach it very slowly: as long
as no head finds the fox, nothing says which one should. Composed scenes know which units show the fox, so the heads of
a few early layers are told to look there from the word "fox", a third of them at its first frame, a third at its last,
a third at all of it (which way it moves is then a difference); and the heads of two later layers to look, from where
the answer begins, at the thing that it will name, or else at the words that the question is about, which have read
what is known of them by then ("where is the fox compared to the dog": a third at the fox, a third at the dog, a third
at both). Where a question has no word for its thing, the one that tells it from others looks ("largest", "corner",
"first"). The loss is the attention that goes elsewhere; nothing of it remains in the model but weights.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch

from benchmarks.embedded_model.units import TINT_WORDS, WORDS
from benchmarks.exact.compose import MOST
from benchmarks.exact.words import all_names, plural

#: Layers whose heads look from words to what they name, and from where an answer begins to what it will name.
MENTION_LAYERS, ANSWER_LAYERS = (3, 6, 9), (13, 16)
#: First frame, last frame, all frames: a third of the heads each.
VIEWS = 3
#: Numbers that are to be known of what is mentioned.
KNOWN = 8
_FAR = -1e9
_NAMES = frozenset(all_names())
_ROWS = {word: row for row, word in enumerate(WORDS)}
_SIGN_ROWS = torch.tensor([row for word, row in _ROWS.items() if word not in _NAMES and word.isalnum()])


class Mention(NamedTuple):
    """Token `at` of a text is the last of a word for what units show: a `word`, a `tint` (rows of their tables), a
    `sign`."""

    at: int
    what: str
    row: int


class Shown(NamedTuple):
    """What the visual tokens of a reading show: rows of WORDS and TINT_WORDS (-1: none, or unknown) `[n]`, their frames
    `[n]`, their centres `[n, 2]`, whether each is the first of its thing in its frame, bool `[n]`, and in how many
    units that thing is seen there, float32 `[n]`."""

    words: torch.Tensor
    tints: torch.Tensor
    frames: torch.Tensor
    places: torch.Tensor
    starts: torch.Tensor
    sizes: torch.Tensor

    def match(self, mention: Mention) -> torch.Tensor:
        """The tokens that show what is mentioned: bool `[n]`."""
        if mention.what == "word":
            return self.words == mention.row
        return self.tints == mention.row if mention.what == "tint" else torch.isin(self.words, _SIGN_ROWS)


def sizes(words: torch.Tensor, tints: torch.Tensor, frames: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
    """Of each unit's thing, in its frame, all `[n]`; things of one look are of one size."""
    _, alike, counts = torch.stack([words, tints, frames]).unique(dim=1, return_inverse=True, return_counts=True)
    things = torch.zeros(len(counts)).index_add_(0, alike, starts.float()).clamp(min=1)
    return (counts / things)[alike]


class Look(NamedTuple):
    """From position `at` of a row, heads should look at `wanted` (bool `[VIEWS, length]`), and then know `tint` (-1:
    none or several) and `known` `[KNOWN]`: where it was first and where last (x, y), when it was first and last seen
    (0 is the first frame, 1 the last), how many units show it in its fullest frame (0: one, 1: all 64;
    logarithmic), and how many of it there are at once (1: MOST). Of something that is not `seen` only that is to be
    known."""

    at: int
    wanted: torch.Tensor
    tint: int
    known: torch.Tensor
    seen: bool = True


def _forms() -> dict[str, tuple[str, int]]:
    forms = {}
    for name in _NAMES & _ROWS.keys():
        forms[name] = ("word", _ROWS[name])
        forms.setdefault(plural(name), ("word", _ROWS[name]))
    forms |= {tint: ("tint", row) for row, tint in enumerate(TINT_WORDS)}
    return {**forms, "sign": ("sign", 0)}


_FORMS = _forms()
_WORD = re.compile(rf"\b({'|'.join(sorted(map(re.escape, _FORMS), key=len, reverse=True))})\b")


def finder(tokenizer: Any) -> Callable[[str], tuple[Mention, ...]]:
    """A function from a text to what it mentions, by a fast tokenizer's offsets."""

    @lru_cache(maxsize=65536)
    def mentions(text: str) -> tuple[Mention, ...]:
        offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        found = []
        for match in _WORD.finditer(text):
            at = next(token for token, (_, end) in enumerate(offsets) if end >= match.end())
            found.append(Mention(at, *_FORMS[match.group(1)]))
        return tuple(found)

    return mentions


#: The word of a question, or of a fact, that tells its thing from others.
_ROLE = re.compile(r"\b(largest|corner|first|last)\b")


@lru_cache(maxsize=65536)
def role(tokenizer: Any, text: str) -> int | None:
    """The token that stands for the thing which a question is for: "largest", "corner", "first" or "last"."""
    match = _ROLE.search(text)
    if not match:
        return None
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return next(token for token, (_, end) in enumerate(offsets) if end >= match.end())


def answer_mention(at: int, kind: str, answer: str) -> Mention | None:
    """That an answer beginning behind token `at` names a thing or says what a sign says; numbers of things do not."""
    return Mention(at, "word", _ROWS[answer]) if answer in _ROWS and kind != "count" else None


def looks(mentions: Sequence[Mention], shown: Shown, positions: torch.Tensor, length: int) -> list[Look]:
    """What mentions ask for in a row of so many tokens; `positions` `[n]`: where its visual tokens are."""
    found = []
    for mention in mentions:
        match = shown.match(mention)
        if not match.any():
            if mention.what == "word":
                nothing = torch.zeros(VIEWS, length, dtype=torch.bool)
                found.append(Look(mention.at, nothing, -1, torch.zeros(KNOWN), seen=False))
            continue
        frames = shown.frames[match]
        views = [match & (shown.frames == frames.min()), match & (shown.frames == frames.max()), match]
        wanted = torch.zeros(VIEWS, length, dtype=torch.bool)
        for view, at in zip(wanted, views, strict=True):
            view[positions[at]] = True
        tints = shown.tints[match].unique()
        places = torch.cat([shown.places[view].mean(0) for view in views[:2]])
        when = torch.stack([frames.min(), frames.max()]) / shown.frames.max().clamp(min=1)
        much = (frames.bincount().max().log2() / 6)[None]
        many = (frames.bincount(shown.starts[match].float()).max() / MOST)[None]
        known = torch.cat([places, when, much, many])
        found.append(Look(mention.at, wanted, int(tints[0]) if len(tints) == 1 else -1, known))
    return found


def look_back(at: int, words: Sequence[int], length: int) -> Look:
    """From where an answer begins to the tokens `words` of its question: the first, the last, all."""
    wanted = torch.zeros(VIEWS, length, dtype=torch.bool)
    for view, chosen in zip(wanted, (words[:1], words[-1:], words), strict=True):
        view[list(chosen)] = True
    return Look(at, wanted, -1, torch.zeros(KNOWN))


class Guide:
    """An attention function for transformers that also adds up how far heads are from looking where they should.

    `wanted`: by layer, what each row's positions should look at; set before a forward pass, `losses` read after it.
    """

    def __init__(self) -> None:
        self.wanted: dict[int, list[list[Look]]] = {}
        self.losses: list[torch.Tensor] = []

    def ask(self, mentions: list[list[Look]], answers: list[list[Look]]) -> None:
        """Before a forward pass: what is to be looked at, a list for each row."""
        self.losses = []
        self.wanted = dict.fromkeys(MENTION_LAYERS, mentions) | dict.fromkeys(ANSWER_LAYERS, answers)

    def loss(self, like: torch.Tensor) -> torch.Tensor:
        """Mean over layers of the negative logarithm of the attention that lands right; 0 if nothing was asked."""
        return torch.stack(self.losses).mean() if self.losses else like.new_zeros(())

    def __call__(
        self,
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: Any,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, None]:
        """transformers' attention interface: `[rows, heads, length, dim]`."""
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        for row, looks in enumerate(self.wanted.get(module.layer_idx, ())):
            wanted = [look for look in looks if look.seen]
            if wanted:
                mask = None if attention_mask is None else attention_mask[row, 0]
                self.losses.append(self._row(query[row], key[row], mask, wanted))
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)

    def _row(
        self, query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None, wanted: list[Look]
    ) -> torch.Tensor:
        at = torch.tensor([look.at for look in wanted], device=query.device)
        views = torch.stack([look.wanted for look in wanted], 1).to(query.device)
        heads = len(query)
        scores = query[:, at] @ key.repeat_interleave(heads // len(key), 0).mT * query.shape[-1] ** -0.5
        if mask is not None:
            scores = scores.float().masked_fill(~mask[at], _FAR)
        right = views.repeat_interleave(heads // VIEWS, 0)
        return -torch.logsumexp(scores.log_softmax(-1).masked_fill(~right, _FAR), -1).clamp(min=-20).mean()

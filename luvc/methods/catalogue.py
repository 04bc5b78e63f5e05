"""Every method once: where it acts, what it does in a line, and where the idea comes from.

The table in docs/method.md is printed from here (`python -m luvc.methods.catalogue`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from luvc.methods.oim import merge_axis
from luvc.methods.select import SCORES
from luvc.methods.tome import merge_any
from luvc.preprocess import normalise


@dataclass(frozen=True)
class Method:
    """One row of the catalogue; `function` is the code that does it."""

    name: str
    setting: str
    where: str
    summary: str
    source: str
    function: Callable[..., Any]


CATALOGUE = (
    Method(
        *("OIM", "merge.method: oim", "vision encoder, from the first quarter on"),
        "merges the most similar adjacent units, the same number in every line of one axis after the other",
        *("LUVC 2512.09010; CubistMerge 2509.21764", merge_axis),
    ),
    Method(
        *("ToMe-like", "merge.method: tome", "vision encoder"),
        "merges the most similar units of a frame wherever they are; no grid is left",
        *("ToMe 2210.09461", merge_any),
    ),
    Method(
        *("SPU", "prune.method: spu", "language model, down to zero at the last layer"),
        "keeps the tokens that a low-pass filter over the clip's tokens explains least",
        *("LUVC 2512.09010; what is scored is measured", SCORES["spu"]),
    ),
    Method(
        *("SPU by magnitude", "prune: {axis: channel, cutoff: 0.25, residual: false}", "language model"),
        "keeps the tokens whose low-pass part along the channels is largest, as preset `paper`",
        *("LUVC 2512.09010 by its words", SCORES["spu"]),
    ),
    Method(
        *("SPU inverted", "prune.sign: low", "language model"),
        "keeps the tokens whose score is smallest: the control for the sign",
        *("control", SCORES["spu"]),
    ),
    Method(
        *("random", "prune.method: random", "language model"),
        "keeps a fixed random subset of the visual index",
        *("control", SCORES["random"]),
    ),
    Method(
        *("uniform", "prune.method: uniform", "language model"),
        "keeps evenly spread tokens",
        *("control", SCORES["uniform"]),
    ),
    Method(
        *("key norm", "prune.method: key_norm", "language model"),
        "keeps the tokens with the smallest attention keys",
        *("Devoto et al. 2406.11430", SCORES["key_norm"]),
    ),
    Method(
        *("adjacent frames", "prune.method: adjacent_frames, stages: [[0, keep]]", "behind the vision encoder"),
        "drops what looks like the same place one frame before",
        *("EVS (vLLM)", SCORES["adjacent_frames"]),
    ),
    Method(
        *("resize", "resize: keep", "before the vision encoder"),
        "scales the frames down",
        *("control; VTC-Bench 2510.07143", normalise),
    ),
)


def table() -> str:
    """The catalogue as a Markdown table."""
    rows = ["| method | setting under `compression` | where | what it does | source |", "|---|---|---|---|---|"]
    rows += [f"| {m.name} | `{m.setting}` | {m.where} | {m.summary} | {m.source} |" for m in CATALOGUE]
    return "\n".join(rows)


if __name__ == "__main__":
    print(table())  # noqa: T201 - a page generator

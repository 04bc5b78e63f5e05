"""What captions of composed clips say rightly: object, colour, motion, relation, counts and order, setting by setting.

    python -m benchmarks.exact.captions out/evaluate/answers.parquet

Reads the answers that `luvc evaluate` kept. References of composed clips are exact: what they say is looked for in the
caption, as whole words in the same order. What a caption says besides is not held against it.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks.exact.words import TINTS
from luvc.evaluation.answers import Row, read_all_parts

KINDS = ("object", "colour", "motion", "object and motion", "relation", "count", "order")

_THING = rf"an? (?:(?P<colour{{0}}>{'|'.join(TINTS)}) )?(?P<name{{0}}>.+?)"
_MOVER = re.compile(_THING.format("") + r" (?P<way>moves .+)")
_PAIR = re.compile(_THING.format("") + r" is (?P<where>above|below|to the \w+ of) " + _THING.format(2))


def facts(reference: str) -> list[tuple[str, list[str]]]:
    """(kind, phrases that have to be said, in this order) of an exact caption (`benchmarks.exact.compose.caption`)."""
    text = _plain(reference)
    found: list[tuple[str, list[str]]] = []
    mover, pair = _MOVER.fullmatch(text), _PAIR.fullmatch(text)
    if mover:
        found += [("object", [mover["name"]]), ("motion", [mover["way"]])]
        found.append(("object and motion", [mover["name"], mover["way"]]))
    elif pair:
        found += [("object", [pair["name"]]), ("object", [pair["name2"]])]
        found.append(("relation", [pair["name"], pair["where"], pair["name2"]]))
    elif ", then " in text:
        names = [_bare(part) for part in text.split(", then ")]
        found += [*(("object", [name]) for name in names), ("order", names)]
    else:
        parts = text.split(" and ")
        found += [("count" if part[0].isdigit() else "object", [_bare(part)]) for part in parts]
    for match in (mover, pair):
        for end in ("", "2"):
            colour = match.groupdict().get(f"colour{end}") if match else None
            if match and colour:
                found.append(("colour", [f"{colour} {match[f'name{end}']}"]))
    return found


def says(caption: str, phrases: Sequence[str]) -> bool:
    """Whether a caption has all phrases, as whole words and in their order."""
    pattern = ".*".join(rf"\b{re.escape(phrase)}\b" for phrase in phrases)
    return re.search(pattern, _plain(caption)) is not None


def by_setting(rows: Iterable[Row]) -> dict[str, dict[str, tuple[int, int]]]:
    """Setting -> kind -> (said rightly, asked) over all free texts with one reference."""
    counts: dict[str, dict[str, tuple[int, int]]] = {}
    for row in rows:
        if row["correct"] is None and len(row["references"]) == 1:
            own = counts.setdefault(row["setting"], {})
            for kind, phrases in facts(row["references"][0]):
                right, asked = own.get(kind, (0, 0))
                own[kind] = right + says(row["text"], phrases), asked + 1
    return counts


def table(counts: Mapping[str, Mapping[str, tuple[int, int]]]) -> str:
    """A Markdown table."""
    some = next(iter(counts.values()), {})
    kinds = [kind for kind in KINDS if kind in some]
    lines = ["| setting | " + " | ".join(f"{kind} ({some[kind][1]})" for kind in kinds) + " |"]
    lines.append("| --- " * (len(kinds) + 1) + "|")
    for setting, own in counts.items():
        cells = [f"{own[kind][0] / own[kind][1]:.0%}" if kind in own else "-" for kind in kinds]
        lines.append(f"| {setting} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).strip(" .")


def _bare(thing: str) -> str:
    return re.sub(r"^an? ", "", thing)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("answers", type=Path, help="of luvc evaluate; its parts are found, too")
    args = parser.parse_args(argv)
    print(table(by_setting(read_all_parts(args.answers)[1])))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

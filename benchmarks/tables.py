"""The tables of docs/results.md, from the reports that `luvc evaluate --results` wrote.

    python -m benchmarks.tables                 # all of them
    python -m benchmarks.tables evaluate        # one

A test holds the page against them, so that a figure cannot change in one place alone.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from luvc.evaluation.rivals import method_and_share

RESULTS = Path(__file__).parent / "results"

#: Reports whose settings stand in rows of their own.
SETTINGS = ("evaluate", "schedules")

#: Reports whose settings are methods by shares.
GRIDS = ("study",)


def settings_table(report: Mapping[str, Any]) -> list[str]:
    """One row a setting, the presets in bold."""
    head = ["setting", "tokens in, mean of layers", "questions", "accuracy", "lost accuracy (95 %)"]
    lines = _head([*head, "lost probability (95 %)", "moved", "changed", "speed"])
    for name, entry in {"off": report["uncompressed"], **report["presets"], **report["rivals"]}.items():
        cells = [f"**{name}**" if name in report["presets"] else name]
        cells += [f"{entry['merged_tokens']:.0f}, {entry['mean_layer_tokens']:.0f}", str(entry["questions"])]
        cells.append(f"{100 * entry['accuracy']:.1f} %")
        if name == "off":
            cells += ["-"] * 3
        else:
            cells += [_points(entry, "loss_points"), _points(entry, "probability_points_lost")]
            cells.append(f"{entry['probability_points_moved']:.1f}")
        lines.append(_row([*cells, f"{100 * entry['answers_changed']:.0f} %", f"{entry['speedup']:.2f}x"]))
    return lines


def grid_table(report: Mapping[str, Any]) -> list[str]:
    """Accuracy and speed, one row a method and one column a share."""
    cells: dict[str, dict[float, str]] = {}
    for name, entry in report["rivals"].items():
        place = method_and_share(name)
        if place:
            cells.setdefault(place[0], {})[place[1]] = f"{100 * entry['accuracy']:.1f} ({entry['speedup']:.2f}x)"
    shares = sorted({share for row in cells.values() for share in row}, reverse=True)
    lines = _head(["method", *(f"{share:.0%}" for share in shares)])
    return lines + [_row([method, *(row.get(share, "-") for share in shares)]) for method, row in cells.items()]


def tables(name: str) -> list[str]:
    """The lines of one report's table."""
    report = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return grid_table(report) if name in GRIDS else settings_table(report)


def _points(entry: Mapping[str, Any], key: str) -> str:
    return f"{entry[key]:+.1f} ({entry[f'{key}_lower95']:+.1f} to {entry[f'{key}_upper95']:+.1f})"


def _head(cells: Sequence[str]) -> list[str]:
    return [_row(cells), _row(["---"] * len(cells))]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [*SETTINGS, *GRIDS]
    parser.add_argument("reports", nargs="*", metavar="REPORT", help=", ".join(known))
    args = parser.parse_args(argv)
    for name in args.reports or known:
        if name not in known:
            parser.error(f"no report {name!r}; there are {', '.join(known)}")
        print(f"{name}\n\n" + "\n".join(tables(name)) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

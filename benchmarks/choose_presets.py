"""Which settings a study says the presets should be.

    python -m benchmarks.choose_presets benchmarks/results/evaluate.json

For each preset, by accuracy and by the probability of the right choice, the fastest setting within its limit, among
LUVC's own (OIM, SPU) and among all, rivals included; where none qualifies, the nearest. Prints the compression of the
first as YAML. Choosing among many settings by the questions they are measured with flatters the winner: measure it
again on others before believing its last tenth.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from luvc.evaluation.choice import ALLOWED_POINTS, MEASURES, choose, in_words, is_ours, settings_of


def lines(report: Mapping[str, Any]) -> list[str]:
    """What is printed."""
    settings = settings_of(report)
    ours = {name: entry for name, entry in settings.items() if is_ours(entry)}
    overall = report["uncompressed"]["overall"]
    out = [f"{report['questions']} questions, uncompressed {overall:.1%}, {len(settings)} settings"]
    for (preset, allowed), measure in product(ALLOWED_POINTS.items(), MEASURES):
        own = choose(ours, allowed, measure)
        out += ["", "of OIM and SPU: " + in_words(preset, own, ours, measure)]
        out.append("of all methods: " + in_words(preset, choose(settings, allowed, measure), settings, measure))
        if own.name is not None:
            out.append(yaml.safe_dump({preset: ours[own.name]["compression"]}, sort_keys=False).rstrip())
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="JSON that luvc evaluate --results wrote")
    args = parser.parse_args(argv)
    print("\n".join(lines(json.loads(args.study.read_text(encoding="utf-8")))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

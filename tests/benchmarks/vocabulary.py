"""Words that the tests of lessons show and ask for."""

from __future__ import annotations

from benchmarks.embedded_model import units
from benchmarks.exact.words import all_names

NAMES = [name for name in all_names() if name in units.WORDS][:28]
#: Those that are shown small, in a corner; the others are large.
SMALL = NAMES[24:]
TEXTS = [word for word in units.WORDS if word.isalnum() and word not in all_names() and word not in units.BACKDROPS][:6]

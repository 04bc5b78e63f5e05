"""What training runs leave in their folder: a log, files that are whole, the tokenizer."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Log:
    """One JSON object a line, and the same on the terminal; without a path, nothing."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.started = time.time()

    def write(self, **record: Any) -> None:
        """Append one record, with the time since the start."""
        if self.path is None:
            return
        record = {key: round(value, 4) if isinstance(value, float) else value for key, value in record.items()}
        record["elapsed_s"] = round(time.time() - self.started, 1)
        with self.path.open("a") as stream:
            stream.write(json.dumps(record) + "\n")
        print(json.dumps(record), flush=True)


class Means:
    """Running means by name."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, int]] = {}

    def add(self, **values: float) -> None:
        """One value more of each."""
        for name, value in values.items():
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = total + value, count + 1

    def take(self) -> dict[str, float]:
        """The means so far; starts anew."""
        sums, self._sums = self._sums, {}
        return {name: total / count for name, (total, count) in sums.items()}


def save_atomically(save: Callable[[Path], None], path: Path) -> None:
    """Write aside, then rename: a run that is killed leaves a whole file."""
    aside = path.with_suffix(".tmp")
    save(aside)
    os.replace(aside, path)


def load_tokenizer(run: Path) -> PreTrainedTokenizerBase:
    """The embedded model's tokenizer, written into the run's folder first."""
    from transformers import AutoTokenizer

    from luvc.embedded.assembly import open_gguf
    from luvc.embedded.tokenizer import write_tokenizer

    if not (run / "tokenizer").is_dir():
        write_tokenizer(open_gguf(), run / "tokenizer", 8192)
    return AutoTokenizer.from_pretrained(run / "tokenizer")

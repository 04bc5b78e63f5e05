"""Which visual tokens a score ranks first."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.embedded_model import data, kept, units
from benchmarks.embedded_model.sets import PHOTOGRAPH
from tests.benchmarks.weights import needs_weights


@pytest.fixture
def bank(tmp_path) -> data.FeatureBank:
    """Two clips: sixteen tokens of a cat on a bare photograph, in every frame at the same place."""
    labels = np.full((2, 8, 64, 2), units.UNCLEAR, np.int16)
    labels[..., 0] = units.WORDS.index(PHOTOGRAPH)
    labels[:, :, 10:12, 0] = units.WORDS.index("cat")
    rng = np.random.default_rng(0)
    stored = np.broadcast_to(rng.normal(size=1536), (2, 8, 64, 1536)).astype(np.float16)
    stored[:, :, 10:12] = rng.normal(size=1536)
    np.save(tmp_path / "exact_train.npy", stored)
    np.save(tmp_path / "exact_train.labels.npy", labels)
    (tmp_path / "exact_train.done").write_text("2")
    return data.FeatureBank("exact_train", tmp_path, tmp_path)


@needs_weights
def test_what_differs_from_the_backdrop_is_ranked_first(bank, trained, prompter):
    found, things = kept.measure(trained[0], prompter, bank, clips=1, layers=(0, 1))
    assert things == pytest.approx(2 / 64)
    assert {rule for rule, _, _ in found} == set(kept.RULES)
    default = next(name for name, rule in kept.RULES.items() if rule == kept.Prune())
    assert found[default, 0.25, 0] == [1.0]
    shown = kept.table(found, 0.25)
    assert shown.splitlines()[0] == "| 25% stay; before layer | 0 | 1 |"
    assert f"| {default} | 100% |" in shown

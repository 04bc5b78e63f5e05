"""The mean of trained parts."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.embedded_model.soup import main, mean


def test_the_mean_is_taken_number_by_number(tmp_path):
    one = {"a": torch.tensor([1.0, 2.0]).half(), "b": torch.zeros(2, 2).half()}
    other = {"a": torch.tensor([3.0, 2.0]).half(), "b": torch.ones(2, 2).half()}
    for name, part in (("one", one), ("other", other)):
        save_file(part, tmp_path / name)
    assert main([str(tmp_path / "one"), str(tmp_path / "other"), "--out", str(tmp_path / "mean")]) == 0
    found = load_file(tmp_path / "mean")
    assert found["a"].tolist() == [2.0, 2.0]
    assert found["b"].dtype == torch.float16
    assert found["b"].unique().tolist() == [0.5]


def test_parts_of_different_ranks_have_no_mean():
    with pytest.raises(ValueError, match="differ in a and 0 others"):
        mean([{"a": torch.zeros(2)}, {"a": torch.zeros(3)}])

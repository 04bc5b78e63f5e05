"""Prepared linear layers give the same values, and leave alone what is not theirs."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import luvc
from luvc import prepared
from luvc.engine import Budgets
from luvc.prepared import PreparedLinear, prepare
from luvc.types import Request
from tests.luvc import tiny as tiny_internvl
from tests.luvc import tiny_qwen


def needs_the_kernel():
    if not prepared.works():
        pytest.skip("this torch or CPU does not have it")


def test_values_are_those_of_linear():
    needs_the_kernel()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 96), nn.SiLU(), nn.Linear(96, 32, bias=False)).bfloat16()
    inputs = [torch.randn(*shape, 64).bfloat16() for shape in ((1,), (3, 7), (2, 40, 5))]
    expected = [model(x) for x in inputs]
    assert prepare(model) == 2
    assert isinstance(model[0], PreparedLinear)
    for x, wanted in zip(inputs, expected, strict=True):
        assert torch.allclose(model(x), wanted, atol=0.02, rtol=0.02)
    assert prepare(model) == 0, "once is enough"


def test_other_types_and_kinds_stay():
    class Own(nn.Linear):
        pass

    model = nn.ModuleList([nn.Linear(8, 8), Own(8, 8).bfloat16(), nn.Embedding(4, 8).bfloat16()])
    kinds = [type(part) for part in model]
    assert prepare(model) == 0
    assert [type(part) for part in model] == kinds


def test_without_the_operators_nothing_changes(monkeypatch):
    monkeypatch.setattr(prepared, "works", lambda: False)
    model = nn.Sequential(nn.Linear(8, 8).bfloat16())
    assert prepare(model) == 0
    assert type(model[0]) is nn.Linear


@pytest.mark.parametrize("tiny", [tiny_internvl, tiny_qwen], ids=["internvl", "qwen2_5_vl"])
@pytest.mark.parametrize("compression", ["off", {"merge": {"metric": "key"}, "prune": {"method": "key_norm"}}], ids=str)
def test_an_engine_computes_the_same_with_every_switch_that_looks_at_weights(tiny, compression):
    """Tokens of a random model in bfloat16 hang on the last bit, so features are compared, and that it answers."""
    needs_the_kernel()
    engine = luvc.load(
        copy.deepcopy(tiny.model()).bfloat16(), compression, processor=tiny.tokenizer(), budgets=Budgets()
    )
    request = Request("a", ["Describe."], tiny.clip(2, 0), max_new_tokens=4)
    clip, plans = torch.from_numpy(request.video), engine._plan(request).plans
    with torch.inference_mode():
        before = engine.runtime.encode([clip], plans, 4096)[0].features
        runtime = engine.runtime
        assert prepare(runtime.tower) > 0
        assert prepare(runtime.decoder.model) > 0
        after = runtime.encode([clip], plans, 4096)[0].features
    assert torch.allclose(before.float(), after.float(), atol=0.05, rtol=0.05)
    (done,) = engine.generate([request])
    assert done.error is None
    assert len(done.answers[0].token_ids) > 0

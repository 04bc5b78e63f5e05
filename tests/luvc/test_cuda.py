"""On a GPU: captured decode steps, every attention back end, and no waiting for the device where none is needed."""

from __future__ import annotations

import copy

import pytest
import torch

import luvc
from luvc import backends
from luvc.engine import Engine
from luvc.work import Budgets
from tests.luvc import tiny as tiny_internvl
from tests.luvc import tiny_qwen
from tests.luvc.batches import answers, requests

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(params=[tiny_internvl, tiny_qwen], ids=["internvl", "qwen2_5_vl"])
def tiny(request):
    return request.param


def on_gpu(tiny, compression, dtype=torch.float32, **options) -> Engine:
    model = copy.deepcopy(tiny.model()).to("cuda", dtype)
    engine = luvc.load(model, compression, processor=tiny.tokenizer())
    budgets = Budgets(prefill_tokens=300, kv_bytes=1 << 26, max_new_tokens=12)
    return Engine(engine.runtime, engine.compression, budgets, tuple(engine.eos_ids), **options)


@pytest.mark.parametrize("compression", ["off", "paper", "fast"])
def test_captured_steps_give_the_answers_of_ordinary_ones_and_of_the_cpu(tiny, compression):
    captured = on_gpu(tiny, compression)
    expected = answers(tiny.engine(compression), requests(tiny))
    assert answers(captured, requests(tiny)) == expected
    assert captured.graphs is not None
    assert captured.graphs.captured > 0
    assert answers(on_gpu(tiny, compression, decode_graphs=False), requests(tiny)) == expected


@pytest.mark.parametrize("name", list(backends.BACKENDS))
def test_every_back_end_answers_in_bfloat16(tiny, name):
    device = torch.device("cuda")
    if isinstance(reason := backends.tried(name, device, torch.bfloat16), str):
        pytest.skip(reason)
    engine = on_gpu(tiny, "fast", torch.bfloat16, backend=name)
    assert len(answers(engine, requests(tiny))) == len(requests(tiny))


def test_pruning_and_decoding_do_not_wait_for_the_device(tiny):
    engine = on_gpu(tiny, "fast")
    items = requests(tiny)
    answers(engine, items)  # warm: captures and pinned memory
    prefill = engine.runtime.decoder.prefill

    def watched(*arguments):
        torch.cuda.set_sync_debug_mode("error")
        try:
            return prefill(*arguments)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    engine.runtime.decoder.prefill = watched  # type: ignore[method-assign]
    answers(engine, items)

"""The encoder apart from the language model: the same answers, memory that is really left out, failures."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

import luvc
from luvc import Clip, Request
from luvc.encoder import Encoder, to_device
from luvc.engine import Budgets, Engine
from luvc.errors import ConfigError, OutOfMemory, RequestError
from luvc.failures import EngineFailure
from luvc.types import drive
from tests.luvc import tiny as tiny_internvl
from tests.luvc import tiny_qwen
from tests.luvc.batches import answers, requests


@pytest.fixture(params=[tiny_internvl, tiny_qwen], ids=["internvl", "qwen2_5_vl"])
def tiny(request):
    return request.param


def encoder(tiny, compression: object = "off", **options) -> Encoder:
    return luvc.load_encoder(copy.deepcopy(tiny.model()), compression, processor=tiny.tokenizer(), **options)


def decoder(tiny, compression: object = "off", **options) -> Engine:
    return luvc.load(
        copy.deepcopy(tiny.model()),
        compression,
        processor=tiny.tokenizer(),
        budgets=Budgets(max_new_tokens=12),
        part="decoder",
        **options,
    )


def encoded(maker: Encoder, items: Sequence[Request]) -> list[Request]:
    """The requests with encodings in place of their frames."""
    done = {each.id: each for each in drive(maker, items)}
    assert set(done) == {item.id for item in items}
    assert all(each.error is None for each in done.values()), done
    return [
        replace(
            item,
            video=None,
            clips=[
                Clip(None, clip.timestamps_s, clip.image, made)
                for clip, made in zip(item.media, done[item.id].encoded, strict=True)
            ],
        )
        for item in items
    ]


#: Along both axes, along time, without a grid, numbered anew, pruned.
COMPRESSIONS = [
    "off",
    "paper",
    {"merge": {"keep": 0.5, "positions": "compact"}},
    {"merge": {"method": "tome", "keep": 0.4}},
    {"resize": 0.5, "merge": {"keep": 0.5}, "prune": {"schedule": "ramp"}},
]


@pytest.mark.parametrize("compression", COMPRESSIONS, ids=str)
def test_answers_are_those_of_one_engine(tiny, compression):
    items = requests(tiny)
    together = tiny.engine(compression)
    expected = answers(together, items)
    assert answers(decoder(tiny, compression), encoded(encoder(tiny, compression), items)) == expected
    small = encoded(encoder(tiny, compression, encode_tokens=70), items)
    assert answers(decoder(tiny, compression), small) == expected
    assert answers(together, small) == expected, "an engine with an encoder takes encoded clips, too"


def test_answers_are_those_of_one_engine_when_frames_are_merged():
    compression = {"merge": {"steps": [[0.0, "time", 0.5], [1.0, "width", 0.75]]}}
    items = requests(tiny_qwen)
    made = encoded(encoder(tiny_qwen, compression), items)
    assert any(clip.encoded.time is not None for item in made for clip in item.media)
    expected = answers(tiny_qwen.engine(compression), items)
    assert answers(decoder(tiny_qwen, compression), made) == expected


def test_some_clips_may_come_encoded_and_some_as_frames(tiny):
    items = [Request("mixed", ["Compare."], clips=[Clip(tiny.clip(2, 1)), Clip(tiny.clip(3, 2))])]
    (made,) = encoded(encoder(tiny), items)
    mixed = replace(made, clips=[made.clips[0], items[0].clips[1]])
    assert answers(tiny.engine(), [mixed]) == answers(tiny.engine(), items)


def test_counts_are_the_planned_ones_and_times_the_engines_own(tiny):
    items = requests(tiny, 4)
    whole = {done.id: done for done in tiny.engine("paper").generate(items)}
    for done in decoder(tiny, "paper").generate(encoded(encoder(tiny, "paper"), items)):
        assert done.tokens == whole[done.id].tokens
        assert done.times.encode_s == 0.0
        assert done.times.prefill_s > 0
    for done in drive(encoder(tiny, "paper"), items):
        assert (done.times.encode_s > 0) == bool(done.encoded)
        assert sum(len(clip.features) for clip in done.encoded) == whole[done.id].tokens.merged


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_features_keep_their_type_and_every_bit(tiny, dtype):
    model = copy.deepcopy(tiny.model()).to(dtype)
    maker = luvc.load_encoder(model, "off", processor=tiny.tokenizer())
    seen = []
    through, maker.runtime.encode = maker.runtime.encode, lambda *args: seen.extend(through(*args)) or seen
    ((clip,),) = [done.encoded for done in drive(maker, [Request("a", ["?"], tiny.clip(2, 1))])]
    assert clip.dtype == str(dtype).removeprefix("torch.")
    back = to_device(clip, torch.device("cpu"))
    assert back.features.dtype == dtype
    assert torch.equal(back.features, seen[0].features)
    assert torch.equal(back.row, seen[0].row.float())


def test_each_part_leaves_the_other_out(tiny):
    whole = sum(weight.numel() for weight in tiny.model().parameters())
    model, text_only = copy.deepcopy(tiny.model()), copy.deepcopy(tiny.model())
    luvc.load_encoder(model, "off", processor=tiny.tokenizer())
    luvc.load(text_only, "off", processor=tiny.tokenizer(), part="decoder")
    parts = [sum(weight.numel() for weight in each.parameters()) for each in (model, text_only)]
    assert sum(parts) == whole
    assert all(0 < part < whole for part in parts)


def test_parts_of_a_checkpoint_on_disk(tiny, tmp_path):
    tiny.model().save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    items = requests(tiny, 3)
    maker = luvc.load_encoder(str(tmp_path), "paper", dtype="float32", device="cpu")
    taker = luvc.load(
        tmp_path, "paper", dtype="float32", device="cpu", part="decoder", budgets=Budgets(max_new_tokens=12)
    )
    whole = luvc.load(tmp_path, "paper", dtype="float32", device="cpu", budgets=Budgets(max_new_tokens=12))
    assert answers(taker, encoded(maker, items)) == answers(whole, items)
    with pytest.raises(ConfigError, match="part 'tower'"):
        luvc.load(tmp_path, part="tower")


def test_a_clip_that_cannot_be_encoded_costs_only_itself(tiny):
    bad = [
        Request("floats", ["?"], np.zeros((2, 32, 32, 3), np.float32)),
        Request("still", ["?"], tiny.clip(2, 1), image=True),
    ]
    done = {each.id: each for each in drive(encoder(tiny), [*bad, *requests(tiny, 3)])}
    assert {name for name, each in done.items() if each.error} == {"floats", "still"}
    assert all(isinstance(done[name].error, RequestError) for name in ("floats", "still"))
    assert done["text"].encoded == ()


def test_a_failure_in_a_pass_is_pinned_on_its_request(tiny):
    maker = encoder(tiny)
    through = maker.runtime.encode

    def encode(clips, plans, tokens):
        if any(len(clip) == 4 for clip in clips):
            raise ValueError("four frames are too many")
        return through(clips, plans, tokens)

    maker.runtime.encode = encode
    done = {each.id: each.error for each in drive(maker, requests(tiny))}
    assert {name for name, error in done.items() if error} == {"r3", "r7"}
    assert isinstance(done["r3"], EngineFailure)


def test_what_a_pass_held_is_let_go_before_less_is_tried(tiny):
    maker = encoder(tiny)
    through, held = maker.runtime.encode, []

    def encode(clips, plans, tokens):
        assert all(ref() is None for ref in held)
        work = torch.empty(8)
        held.append(weakref.ref(work))
        if len(clips) > 3:
            raise ValueError("too many at a time")
        return through(clips, plans, tokens)

    maker.runtime.encode = encode
    assert not [str(done.error) for done in drive(maker, requests(tiny)) if done.error]
    assert len(held) > 3


def test_out_of_memory_makes_passes_smaller_and_costs_nobody(tiny):
    maker = encoder(tiny, encode_tokens=4096)
    through, sizes = maker.runtime.encode, []

    def encode(clips, plans, tokens):
        sizes.append(tokens)
        if tokens > 512:
            raise torch.OutOfMemoryError("full")
        return through(clips, plans, tokens)

    maker.runtime.encode = encode
    items = requests(tiny)
    assert answers(decoder(tiny), encoded(maker, items)) == answers(tiny.engine(), items)
    assert sizes[:4] == [4096, 2048, 1024, 512]
    assert set(sizes[4:]) <= {512}, "the smaller pass stays"

    maker.runtime.encode = lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("full"))
    assert all(isinstance(done.error, OutOfMemory) for done in drive(maker, items[:2]))


def test_what_an_engine_cannot_take_is_said(tiny):
    (frames,) = decoder(tiny).generate([Request("frames", ["?"], tiny.clip(2, 1))])
    assert "no encoder" in str(frames.error)
    (other,) = encoded(encoder(tiny, "off"), [Request("other", ["?"], tiny.clip(2, 1))])
    (done,) = decoder(tiny, "paper").generate([other])
    assert "same model and compression" in str(done.error)

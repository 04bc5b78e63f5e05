"""The engine against transformers' `generate`, alone against in a batch, and its plan against what it does."""

from __future__ import annotations

import copy
import random

import pytest
import torch

import luvc
from luvc import Clip, Request
from luvc.compression import PRUNE_METHODS, Compression
from luvc.engine import Budgets, Engine
from luvc.errors import ConfigError
from luvc.methods.candidates import Candidates
from luvc.methods.select import select
from luvc.types import EngineLoad
from luvc.work import packed_tokens
from tests.luvc import tiny as tiny_internvl
from tests.luvc import tiny_qwen
from tests.luvc.batches import answers, requests

#: Every method and switch that changes which tokens survive, once.
COMPRESSIONS = [
    "off",
    "paper",
    "balanced",
    "fast",
    {"merge": {"keep": 0.5, "positions": "compact"}},
    {"merge": {"steps": [[0.0, "height", 0.5], [1.0, "width", 0.75]]}},
    {"merge": {"metric": "key", "proportional": True}},
    {"merge": {"unit": "patch", "keep": 0.5}},
    {"merge": {"method": "tome", "keep": 0.4}},
    {"merge": {"method": "tome", "metric": "key", "proportional": True}},
    {"resize": 0.3},
    {"resize": 0.5, "merge": {"keep": 0.5}, "prune": {"schedule": "ramp"}},
    {"prune": {"method": "random"}},
    {"prune": {"method": "key_norm"}},
    {"prune": {"method": "adjacent_frames", "stages": [[0.0, 0.5]]}},
    {"merge": {"keep": 0.5}, "prune": {"method": "adjacent_frames", "schedule": "ramp"}},
    {"prune": {"method": "uniform", "schedule": "ramp", "every": 2}},
    {"prune": {"axis": "sequence", "cutoff": 0.5}},
    {"prune": {"axis": "sequence", "filter": "fir", "residual": True}},
    {"prune": {"axis": "channel", "filter": "fir", "sign": "low", "schedule": "ramp", "first": 0.25}},
]


VARIANTS = [
    *((tiny_internvl, {"text": text, "feature_layer": layer}) for text in ("llama", "qwen2") for layer in (-1, -2, 2)),
    *((tiny_qwen, {"text": text, "seed": seed}) for text in ("qwen2_5_vl", "qwen2_vl") for seed in (0, 1)),
]


@pytest.mark.parametrize(("tiny", "options"), VARIANTS, ids=lambda value: str(value) if isinstance(value, dict) else "")
def test_off_is_generate_token_for_token(tiny, options):
    model = tiny.model(**options)
    items = requests(tiny, 10)
    got = answers(tiny.engine("off", **options), items)
    compared = 0
    for item in items:
        for prompt, ids in zip(item.prompts, got[item.id], strict=True):
            assert list(ids) == tiny.reference(model, item.media, prompt, 12), (item.id, prompt)
            compared += 1
    assert compared >= 20
    assert len({ids for each in got.values() for ids in each}) > 10, "the answers must depend on the picture"


@pytest.mark.parametrize("interval_s", [0.25, 1.0, 2.0, 7.0])
def test_the_time_between_frames_reaches_the_rotary_positions(interval_s):
    video = tiny_qwen.clip(6, 3)
    times = [index * interval_s for index in range(6)]
    (done,) = tiny_qwen.engine("off").generate([Request("v", ["Why?"], video, timestamps_s=times)])
    expected = tiny_qwen.reference(tiny_qwen.model(), [Clip(video, times)], "Why?", 12)
    assert list(done.answers[0].token_ids) == expected


def test_a_model_handed_to_the_engine_still_works_on_its_own(tiny):
    model = copy.deepcopy(tiny.model())
    clips = [Clip(tiny.clip(2, 5))]
    expected = tiny.reference(model, clips, "Describe.", 8)
    luvc.load(model, "balanced", processor=tiny.tokenizer())
    assert model.config._attn_implementation == "luvc"
    assert tiny.reference(model, clips, "Describe.", 8) == expected


@pytest.mark.parametrize("compression", COMPRESSIONS, ids=str)
def test_alone_equals_in_a_batch_in_any_order(tiny, compression):
    items = requests(tiny)
    together = answers(tiny.engine(compression), items)
    assert answers(tiny.engine(compression), items[::-1]) == together
    small = Budgets(prefill_tokens=90, encode_tokens=70, kv_bytes=40_000, max_new_tokens=12)
    assert answers(tiny.engine(compression, budgets=small), items) == together
    for item in items:
        assert answers(tiny.engine(compression), [item])[item.id] == together[item.id], item.id


@pytest.mark.parametrize("compression", ["off", "paper", "fast"])
def test_decode_steps_of_fixed_shapes_give_the_same_answers(tiny, compression):
    """What CUDA graphs capture on a GPU, uncaptured: slots in powers of two, free ones computed along."""
    items = requests(tiny)
    ordinary = tiny.engine(compression)
    budgets = Budgets(prefill_tokens=150, kv_bytes=1 << 20, max_new_tokens=12)
    fixed = Engine(ordinary.runtime, ordinary.compression, budgets, tuple(ordinary.eos_ids), decode_graphs=True)
    assert answers(fixed, items) == answers(ordinary, items)
    assert fixed.cache.slots & (fixed.cache.slots - 1) == 0
    assert answers(fixed, items[::-1]) == answers(ordinary, items), "a second round on memory that was used"


@pytest.mark.parametrize("compression", COMPRESSIONS, ids=str)
def test_planned_tokens_are_the_tokens_in_the_cache(tiny, compression, monkeypatch):
    engine = tiny.engine(compression)
    seen: list[list[list[int]]] = []
    prefill = engine.runtime.decoder.prefill

    def watched(packed, cache, prune):
        logits = prefill(packed, cache, prune)
        new = len(packed.lengths)
        seen.append([lengths[-new:] for lengths in cache.lengths])
        # What was written is what was planned: the keys of living entries are not zero, the rest is.
        for layer, lengths in enumerate(cache.lengths):
            for slot, length in enumerate(lengths):
                written = cache._keys[layer][slot].abs().sum(dim=(1, 2)) > 0
                assert written[:length].all()
        return logits

    monkeypatch.setattr(engine.runtime.decoder, "prefill", watched)
    for item in requests(tiny, 5):
        seen.clear()
        (done,) = engine.generate([item])
        (layers,) = seen
        for index, answer in enumerate(done.answers):
            actual = [layer[index] - answer.prompt_tokens for layer in layers]
            assert tuple(actual) == done.tokens.by_layer
        assert done.tokens.merged >= done.tokens.by_layer[0]


def test_planned_counts_are_actual_for_a_thousand_random_shapes_and_configurations():
    rng = random.Random(0)
    engine = tiny_qwen.engine("off")
    shape, runtime = engine.model_config, engine.runtime
    axes = ["height", "width", "time"]
    for _ in range(1000):
        steps = [[rng.random(), rng.choice(axes), rng.uniform(0.5, 1)] for _ in range(rng.randint(0, 4))]
        merge = {"unit": rng.choice(["fold", "patch"]), "steps": steps}
        if rng.random() < 0.3:
            merge = {"method": "tome", "keep": rng.uniform(0.05, 1)}
        prune = {"method": rng.choice(PRUNE_METHODS), "schedule": rng.choice(["ramp", "stages"])}
        compression = {"resize": rng.choice([1.0, rng.uniform(0.1, 1)]), "merge": merge, "prune": prune}
        frames, height, width = rng.randint(1, 5), rng.randint(1, 6), rng.randint(1, 6)
        clip = torch.randint(0, 256, (frames, height * 8, width * 8, 3), dtype=torch.uint8)
        plan = luvc.schedule(shape, (-(-frames // 2), height, width), compression)
        with torch.inference_mode():
            (encoded,) = runtime.encode([clip], [plan], rng.choice([16, 4096]))
        assert len(encoded.features) == len(encoded.row) == plan.merged_tokens, compression
        assert encoded.row.min() >= 0
        assert encoded.row.max() <= plan.grid.height - 1 + 1e-4
        assert encoded.column.min() >= 0
        assert encoded.column.max() <= plan.grid.width - 1 + 1e-4
        alive = encoded.features
        place, frame = torch.arange(len(alive)), len(alive) // plan.merged_grid.frames
        for wanted in plan.layer_tokens:
            layer = runtime.decoder.model.layers[0]
            candidates = Candidates(alive, place, (len(alive),), (plan.merged_tokens,), (frame,), layer)
            with torch.inference_mode():
                chosen = select(candidates, (wanted,), Compression.from_any(compression).prune)
            assert len(chosen) == wanted
            alive, place = alive[chosen], place[chosen]


def test_identity_configuration_is_exactly_off(tiny):
    identity = {"merge": {"keep": 1.0}, "prune": {"schedule": "stages", "stages": [[0.0, 1.0]]}}
    items = requests(tiny, 4)
    frames = [torch.from_numpy(clip.frames) for item in items for clip in item.media]
    features = []
    for compression in ("off", identity):
        engine = tiny.engine(compression)
        plans = [plan for item in items for plan in engine._plan(item).plans]
        with torch.inference_mode():
            features.append(torch.cat([e.features for e in engine.runtime.encode(frames, plans, 4096)]))
    assert torch.equal(*features)
    assert answers(tiny.engine(identity), items) == answers(tiny.engine("off"), items)


def test_no_visual_token_in_the_last_layer_and_decode_continues_from_the_uncompressed_length(tiny):
    engine = tiny.engine("paper")
    (item,) = [Request("v", ["Describe."], tiny.clip(3, 1))]
    engine.submit(item)
    engine.step()
    (sequence,) = engine._running
    text = sequence.layout.text_tokens
    assert engine.cache.lengths[-1][0] == text + 1  # prompt and one decode step, no visual token
    assert engine.cache.lengths[0][0] == text + sequence.job.plans[0].layer_tokens[0] + 1
    off = tiny.engine("off")
    off.submit(item)
    off.step()
    assert sequence.position == off._running[0].position
    if tiny is tiny_internvl:
        assert sequence.position == text + sequence.job.plans[0].visual_tokens + 1


def test_several_prompts_share_one_encoding(tiny, monkeypatch):
    engine = tiny.engine("paper")
    clips = []
    encode = engine.runtime.encode
    monkeypatch.setattr(engine.runtime, "encode", lambda c, *rest: clips.extend(c) or encode(c, *rest))
    (done,) = engine.generate([Request("v", ["One?", "Two?", "Three?"], tiny.clip(4, 3))])
    assert len(done.answers) == 3
    assert len(clips) == 1


def test_scored_tokens_have_the_models_own_probabilities():
    prompts, ids = ["Which?", "Where is it, then?"], list(range(250))
    engine = tiny_internvl.engine()
    clip = tiny_internvl.clip(2, 1)
    items = [Request("text", prompts, scored_tokens=[ids, []]), Request("v", prompts, clip, scored_tokens=[[7], ids])]
    (text, video) = sorted(engine.generate(items), key=lambda done: done.id)
    inputs = tiny_internvl.tokenizer()(
        "<|im_start|>user\nWhich?<|im_end|>\n<|im_start|>assistant\n", return_tensors="pt", add_special_tokens=False
    )
    inputs.pop("token_type_ids", None)
    with torch.inference_mode():
        expected = tiny_internvl.model()(**inputs).logits[0, -1].log_softmax(-1)
    assert torch.allclose(torch.tensor(text.answers[0].scored_logprobs), expected[ids], atol=1e-5)
    assert text.answers[1].scored_logprobs == ()
    assert len(video.answers[0].scored_logprobs) == 1
    (alone,) = engine.generate([Request("v", prompts[1:], clip, scored_tokens=[ids])])
    assert alone.answers[0].scored_logprobs == pytest.approx(video.answers[1].scored_logprobs, abs=1e-5)
    (refused,) = engine.generate([Request("v", prompts, clip, scored_tokens=[ids])])
    assert "scored_tokens for 1 prompts of 2" in str(refused.error)
    (outside,) = engine.generate([Request("v", ["One?"], clip, scored_tokens=[[99999]])])
    assert outside.error


def test_load_says_what_is_held_and_what_the_last_step_prefilled(tiny):
    engine = tiny.engine("paper", budgets=Budgets(prefill_tokens=5000, kv_bytes=1 << 26, max_new_tokens=3))
    load = engine.load()
    assert load.peak_bytes > 1 << 20
    assert load == EngineLoad(0, 0, 0, 5000, 0, 1 << 26, load.peak_bytes)
    engine.submit(Request("v", ["One?", "Two?"], tiny.clip(3, 1)))
    assert engine.load().waiting == 2
    engine.step()
    load = engine.load()
    assert (load.running, load.waiting) == (2, 0)
    assert load.prefill_tokens == packed_tokens(engine._running)
    assert 0 < load.kv_bytes == engine.cache.allocated_bytes <= load.kv_limit_bytes
    engine.step()
    assert engine.load().prefill_tokens == 0


def test_a_stream_is_pulled_only_as_room_allows(tiny):
    engine = tiny.engine("paper", budgets=Budgets(prefill_tokens=200, max_new_tokens=3))
    pulled = 0

    def stream():
        nonlocal pulled
        for index in range(200):
            pulled += 1
            yield Request(f"r{index}", ["Describe."], tiny.clip(2, index))

    done = 0
    for _ in engine.generate(stream()):
        done += 1
        assert pulled - done < 40
    assert done == 200
    assert engine.cache.active == 0


def test_merging_along_time_is_for_families_without_text_between_frames():
    steps = {"merge": {"steps": [[0.25, "time", 0.5], [0.5, "width", 0.5]]}}
    with pytest.raises(ConfigError, match="InternVL writes text between frames"):
        tiny_internvl.engine(steps)
    items = [Request(f"v{i}", ["Describe."], tiny_qwen.clip(2 + 2 * i, i)) for i in range(5)]
    engine = tiny_qwen.engine(steps, budgets=Budgets(encode_tokens=300, max_new_tokens=8))
    together = answers(engine, items)
    for item in items:
        (done,) = tiny_qwen.engine(steps, budgets=Budgets(max_new_tokens=8)).generate([item])
        assert [answer.token_ids for answer in done.answers] == together[item.id]
    plan = engine._plan(items[4]).plans[0]
    assert (plan.grid.frames, plan.merged_grid.frames) == (5, 3)
    assert plan.block_grids[0].frames == 5


def test_stage_times_add_up_to_busy_time(tiny):
    engine = tiny.engine("paper")
    times = [done.times for done in engine.generate(requests(tiny))]
    assert all(t.prefill_s > 0 for t in times)
    assert sum(t.encode_s > 0 for t in times) == len(times) - 1  # all but the text-only request

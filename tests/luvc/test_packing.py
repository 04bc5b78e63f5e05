"""Prompts about one clip share its prefix: fewer tokens in the prefill, the same answers."""

from __future__ import annotations

import pytest

from luvc import Request
from luvc.engine import Budgets
from luvc.families.base import PromptLayout
from luvc.packing import shared_tokens
from luvc.work import packed_tokens
from tests.luvc import tiny, tiny_qwen

PROMPTS = ["What is it?", "What is it doing?", "Why?", "What is it?"]


@pytest.mark.parametrize(
    ("leader", "follower", "tokens"),
    [
        (((1, 2), (3, 4, 5)), ((1, 2), (3, 4, 6)), 2 + 10 + 2),
        (((1, 2), (3,)), ((1, 2), (9,)), 2 + 10),
        (((1, 2), (3, 4)), ((1, 2), (3, 4)), 2 + 10 + 1),  # the last token stays the follower's own
        (((1, 2), (3, 4, 5)), ((1, 2), (3, 4)), 2 + 10 + 1),
        (((1,), (2,), (3,)), ((1,), (9,), (3,)), 0),  # text between the runs differs
        (((1, 2, 3),), ((1, 2, 3),), 0),  # text only
    ],
)
def test_what_two_prompts_share(leader, follower, tokens):
    assert shared_tokens(PromptLayout(leader), PromptLayout(follower), 10) == tokens


@pytest.mark.parametrize("module", [tiny, tiny_qwen], ids=["internvl", "qwen2_5_vl"])
@pytest.mark.parametrize(
    "compression", ["off", "paper", {"merge": {"keep": 0.5}, "prune": {}}, {"prune": {"axis": "sequence"}}], ids=str
)
def test_sharing_changes_the_work_and_not_the_answers(module, compression, monkeypatch):
    engine = module.engine(compression)
    lengths = []
    prefill = engine.runtime.decoder.prefill

    def watched(packed, cache, prune):
        lengths.append(packed.hidden.shape[1])
        return prefill(packed, cache, prune)

    monkeypatch.setattr(engine.runtime.decoder, "prefill", watched)
    video, other = module.clip(4, 3), module.clip(3, 2)
    together = {d.id: d for d in engine.generate([Request("a", PROMPTS, video), Request("b", PROMPTS[:2], other)])}
    whole = sum(done.tokens.merged + answer.prompt_tokens for done in together.values() for answer in done.answers)
    visual = 3 * together["a"].tokens.merged + together["b"].tokens.merged
    assert len(lengths) == 1
    assert lengths[0] < whole - visual
    for name, clip, prompts in (("a", video, PROMPTS), ("b", other, PROMPTS[:2])):
        for prompt, answer in zip(prompts, together[name].answers, strict=True):
            (alone,) = module.engine(compression).generate([Request("x", [prompt], clip)])
            assert alone.answers[0] == answer


def test_a_job_that_is_cut_by_the_budget_shares_within_each_batch():
    budget = Budgets(prefill_tokens=120, max_new_tokens=6)
    whole = tiny.engine("off", budgets=Budgets(max_new_tokens=6))
    (expected,) = whole.generate([Request("a", PROMPTS * 3, tiny.clip(3, 1))])
    (cut,) = tiny.engine("off", budgets=budget).generate([Request("a", PROMPTS * 3, tiny.clip(3, 1))])
    assert cut.answers == expected.answers


def test_prompts_about_one_clip_are_prefilled_together(monkeypatch):
    """A prefix that is left for the next prefill is computed again."""
    budgets = Budgets(prefill_tokens=300, max_new_tokens=2)
    engine = tiny.engine("off", budgets=budgets)
    items = [Request(str(seed), PROMPTS[:3], tiny.clip(2, seed)) for seed in range(5)]
    expected = {item.id: next(tiny.engine("off", budgets=budgets).generate([item])).answers for item in items}
    batches = []
    prefill = engine._prefill
    monkeypatch.setattr(engine, "_prefill", lambda admitted: batches.append(list(admitted)) or prefill(admitted))
    assert {done.id: done.answers for done in engine.generate(items)} == expected
    clips = [{slot.job.request.id for slot in batch} for batch in batches]
    assert sum(len(names) for names in clips) == 5, "no clip in two prefills"
    assert any(len(names) > 1 for names in clips)
    assert all(packed_tokens(batch) <= 300 for batch in batches)
    assert any(sum(slot.prefill_tokens for slot in batch) > 300 for batch in batches), "shared tokens count once"

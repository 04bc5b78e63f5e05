"""Drawing tokens: the right distribution, and the same draw wherever a sequence is computed."""

from __future__ import annotations

import pytest
import torch

from luvc.errors import RequestError
from luvc.sampling import check, draw, next_tokens
from luvc.types import Request, Sampling
from tests.luvc import tiny


def test_greedy_takes_the_likeliest():
    logits = torch.tensor([[0.1, 3.0, 2.0], [5.0, 1.0, 4.9]])
    assert next_tokens(logits, [Sampling()] * 2, [0.9, 0.9]).tolist() == [1, 0]


def test_frequencies_are_the_probabilities():
    probability = torch.tensor([0.5, 0.1, 0.3, 0.1])
    count = 4000
    draws = [draw(Sampling(seed=7), "clip", 0, step) for step in range(count)]
    tokens = next_tokens(probability.log().expand(count, -1), [Sampling(temperature=1.0)] * count, draws)
    frequency = tokens.bincount(minlength=4) / count
    assert torch.allclose(frequency, probability, atol=0.03)


def test_temperature_sharpens_and_top_p_cuts_off():
    probability = torch.tensor([0.5, 0.1, 0.3, 0.1])
    count = 2000
    draws = [step / count for step in range(count)]
    logits = probability.log().expand(count, -1)
    half = next_tokens(logits, [Sampling(temperature=0.5)] * count, draws).bincount(minlength=4) / count
    assert torch.allclose(half, probability**2 / (probability**2).sum(), atol=0.01)
    top = next_tokens(logits, [Sampling(temperature=1.0, top_p=0.7)] * count, draws).bincount(minlength=4) / count
    assert torch.allclose(top, torch.tensor([0.625, 0.0, 0.375, 0.0]), atol=0.01)
    one = next_tokens(logits, [Sampling(temperature=1.0, top_p=0.01)] * count, draws)
    assert one.unique().tolist() == [0]


def test_the_last_of_all_draws_stays_among_the_kept():
    logits = torch.randn(1, 1000, generator=torch.Generator().manual_seed(0))
    last = next_tokens(logits, [Sampling(temperature=1.0, top_p=0.5)], [1 - 2**-40])
    kept = logits.softmax(-1).sort(descending=True)
    alive = kept.indices[0, : int((kept.values.cumsum(-1) - kept.values < 0.5).sum())]
    assert last in alive


def test_greedy_and_drawn_sequences_share_a_batch():
    logits = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    assert next_tokens(logits, [Sampling(), Sampling(temperature=1.0)], [0.0, 0.99]).tolist() == [1, 0]


@pytest.mark.parametrize("wrong", [Sampling(temperature=-1), Sampling(temperature=float("nan")), Sampling(top_p=0)])
def test_impossible_settings_are_request_errors(wrong):
    with pytest.raises(RequestError, match="clip"):
        check(wrong, "clip")


def test_drawn_answers_are_the_same_alone_in_any_batch_and_the_next_night_and_differ_by_seed():
    def asked(seed: int) -> list[Request]:
        sampling = Sampling(temperature=1.5, top_p=0.95, seed=seed)
        return [Request(f"r{i}", ["Describe.", "What moves?"], tiny.clip(2, i), sampling=sampling) for i in range(5)]

    def answers(items: list[Request]) -> dict[str, list[tuple[int, ...]]]:
        return {done.id: [a.token_ids for a in done.answers] for done in tiny.engine("paper").generate(items)}

    together = answers(asked(1))
    assert answers(asked(1)[::-1]) == together
    for item in asked(1):
        assert answers([item])[item.id] == together[item.id]
    assert answers(asked(2)) != together
    assert len({tuple(map(tuple, each)) for each in together.values()}) > 1

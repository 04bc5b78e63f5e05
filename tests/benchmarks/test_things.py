"""Small parts of the lessons, each by itself: where things begin, where heads look back, what likelihoods are of."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.embedded_model import features, guide, things, units
from benchmarks.embedded_model.lessons import likelihoods
from benchmarks.embedded_model.model import EOS_ID, IGNORE
from benchmarks.embedded_model.run_files import load_tokenizer
from benchmarks.embedded_model.sets import PHOTOGRAPH, SETS
from tests.benchmarks.weights import needs_weights


def test_things_are_patches_that_touch():
    mask = np.zeros((8, 8), bool)
    mask[0, :3] = mask[1, 2] = mask[2, 3] = mask[7, 7] = True
    assert [patch.tolist() for patch in things.patches(mask)] == [[0, 1, 2, 10], [19], [63]]


def test_each_thing_starts_once():
    fox, bare = units.WORDS.index("fox"), units.WORDS.index(PHOTOGRAPH)
    found = np.full((2, 8, 8, 2), -1)
    found[..., 0] = bare
    found[0, 1:3, 2:4, 0] = found[0, 1, 6, 0] = fox
    found[0, 2, 4] = fox, 0
    first = things.starts(found.reshape(2, 64, 2), (1, 1)).reshape(2, 8, 8)
    assert np.argwhere(first).tolist() == [[0, 1, 2], [0, 1, 6], [0, 2, 4]]
    halves = units.pooled(torch.from_numpy(found.reshape(2, 64, 2)), (1, 2)).numpy()
    assert np.argwhere(things.starts(halves, (1, 2)).reshape(2, 8, 4)).tolist() == [[0, 1, 1], [0, 1, 3], [0, 2, 2]]


def test_an_answer_about_two_things_looks_back_at_both():
    views = guide.look_back(9, [3, 6], 12).wanted
    assert [view.nonzero()[:, 0].tolist() for view in views] == [[3], [6], [3, 6]]


def test_likelihoods_are_those_of_whole_answers():
    labels = torch.tensor([[IGNORE, 7, 8, EOS_ID, IGNORE], [9, EOS_ID, 4, EOS_ID, IGNORE]])
    losses = torch.where(labels == IGNORE, 0.0, 0.5)
    found = likelihoods(losses, labels, ["motion", "count", "read"])
    assert [kind for kind, _ in found] == ["motion", "count", "read"]
    assert [value for _, value in found] == pytest.approx([np.exp(-1), np.exp(-0.5), np.exp(-0.5)])
    assert likelihoods(losses, labels, ()) == []


def test_an_answer_of_no_kind_is_told():
    with pytest.raises(ValueError, match="zip"):
        likelihoods(torch.ones(1, 2), torch.tensor([[9, EOS_ID]]), ["motion", "count"])


def test_units_of_things_that_look_alike_share_their_size():
    """Two foxes of three units together, a dog of one, in the first frame; one fox of one in the second."""
    words = torch.tensor([5, 5, 5, 7, 5])
    tints, frames = torch.full((5,), -1), torch.tensor([0, 0, 0, 0, 1])
    starts = torch.tensor([True, False, True, True, True])
    assert guide.sizes(words, tints, frames, starts).tolist() == [1.5, 1.5, 1.5, 1, 1]


def test_what_is_not_seen_is_known_as_such():
    fox, dog = (units.WORDS.index(name) for name in ("fox", "dog"))
    ones = torch.ones(1)
    shown = guide.Shown(torch.tensor([fox]), -ones.long(), 0 * ones.long(), torch.zeros(1, 2), ones.bool(), ones)
    mentions = [guide.Mention(3, "word", fox), guide.Mention(5, "word", dog), guide.Mention(6, "tint", 0)]
    found = guide.looks(mentions, shown, torch.tensor([1]), 8)
    assert [(look.at, look.seen) for look in found] == [(3, True), (5, False)], "of colours nothing is said"
    assert not found[1].wanted.any()


@needs_weights
def test_a_question_has_a_word_for_its_thing(tmp_path):
    tokenizer = load_tokenizer(tmp_path)
    for text, word in (
        ("\nWhich object is the small one near the corner? Answer with one of: fox, corn.", " corner"),
        ("The largest object is the", " largest"),
        ("\nWhich object appears last? Answer with one of: first aid kit, dog.", " last"),
    ):
        at = guide.role(tokenizer, text)
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert at is not None
        assert tokenizer.decode(ids[at]) == word
    assert guide.role(tokenizer, "Which color is the corn?") is None


def test_labels_are_written_again_without_a_tower(material, tmp_path):
    entry = SETS["exact_train"]
    np.save(tmp_path / "exact_train.labels.npy", np.full((3, entry.frames, 64, 2), 99, np.int16))
    (tmp_path / "exact_train.done").write_text("2")
    features.label_again(entry, material.folder, tmp_path)
    found = np.load(tmp_path / "exact_train.labels.npy")
    for index, seed in enumerate(entry.seeds[:2]):
        assert np.array_equal(found[index], features.labelled(entry, material.folder, seed)[1])
    assert (found[2] == 99).all(), "only what is there"

"""The vision tower's adapters: what is trained is what a checkpoint gets, and training goes on where it stopped."""

from __future__ import annotations

import argparse
import copy
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from benchmarks.embedded_model import perceive
from benchmarks.embedded_model.features import Tower, check_tower, tower_key
from benchmarks.embedded_model.run_files import Log
from benchmarks.embedded_model.units import UnitTargets
from luvc.embedded import assembly
from luvc.embedded.towers import VISION_PREFIX, read_vision_tower
from tests.benchmarks.weights import needs_weights

pytestmark = needs_weights


def adapted(layers: int = 2) -> Tower:
    tower = Tower(torch.float32)
    tower.adapt(layers, 4)
    with torch.no_grad():
        for number, value in enumerate(tower.adapters.values()):
            value.copy_(0.05 * torch.randn(value.shape, generator=torch.Generator().manual_seed(number)))
    return tower


@pytest.fixture
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)


def test_what_is_trained_is_what_a_checkpoint_gets(frames):
    tower = adapted()
    part = tower.export()
    assert len(part) == 2 * 2 * 6
    weights = read_vision_tower(assembly.VISION_FILE.locate(), 16)
    before = {name: value.clone() for name, value in weights.items()}
    assembly.apply_trained(weights, part)
    changed = {name for name in weights if not torch.equal(weights[name], before[name])}
    assert len(changed) == 2 * 6
    assert {int(name.split("encoder.layer.")[1].split(".")[0]) for name in changed} == {8, 9}
    merged = Tower(torch.float32)
    merged.model.load_state_dict({name.removeprefix(VISION_PREFIX): value for name, value in weights.items()})
    again = Tower(torch.float32)
    again.restore(part)
    with torch.no_grad():
        plain, wanted = Tower(torch.float32).units(frames), tower.units(frames)
        for other in (merged, again):
            assert torch.allclose(other.units(frames), wanted, atol=2e-2)
    assert (plain - wanted).abs().max() > 0.5, "the adapters do something"


def test_adapters_of_another_tower_are_refused():
    tower = adapted()
    part = tower.export()
    part.pop(next(iter(part)))
    with pytest.raises(ValueError, match="adapters of another tower"):
        Tower(torch.float32).restore(part)


def test_the_trained_part_carries_them_along(trained, monkeypatch):
    model, _ = trained
    part = adapted().export()
    monkeypatch.setattr(model, "tower", part)
    exported = model.export()
    model.tower = {}
    model.restore(exported)
    assert model.tower.keys() == part.keys()
    assert all(torch.equal(exported[name], value) for name, value in part.items())


def test_training_goes_on_where_it_stopped(material, tmp_path, prompter, trained):
    """Frames are drawn, names are learned a little, and a second call takes over the state of the first."""
    args = argparse.Namespace(
        material=material.folder, run=tmp_path, minutes=1e-5, frames=2, held=3, tower_lr=1e-3, projector_lr=1e-3,
        seed=7, workers=0, device="cpu", drawn=0,
    )  # fmt: skip

    model, _ = trained

    def run(minutes: float) -> perceive.Eye:
        torch.manual_seed(0)
        tower = Tower(torch.float32)
        tower.adapt(1, 4)
        eye = perceive.Eye(
            tower, copy.deepcopy(model.projector), UnitTargets(model.lm.model.embed_tokens.weight, prompter.encode)
        )
        perceive.perceive(eye, argparse.Namespace(**{**vars(args), "minutes": minutes}), Log(tmp_path / "tower.jsonl"))
        return eye

    first = run(1e-5)
    state = torch.load(tmp_path / "tower.pt")
    assert state["step"] == 1
    part = load_file(tmp_path / "tower.safetensors")
    again = Tower(torch.float32)
    again.restore(part)
    assert any(value.abs().max() > 0 for name, value in again.adapters.items() if name.endswith(".B"))
    second = run(state["used_s"] / 60 + 1e-5)
    assert torch.load(tmp_path / "tower.pt")["step"] == 2
    assert any((first.tower.adapters[name] != value).any() for name, value in second.tower.adapters.items())
    records = [json.loads(line) for line in (tmp_path / "tower.jsonl").read_text().splitlines()]
    looks = [record for record in records if "of_four" in record]
    assert [record["step"] for record in looks] == [0, 1, 1, 2]
    assert looks[1] | {"elapsed_s": 0} == looks[2] | {"elapsed_s": 0}, "nothing is lost in between"
    assert all(0 <= record["of_four"] <= 1 and record["things_seen"] > 3 for record in looks)


def test_the_same_frames_come_again(material):
    first, again = (perceive.stream(material.folder, 0, 0) for _ in range(2))
    for _ in range(3):
        for one, other in zip(next(first), next(again), strict=True):
            assert np.array_equal(one, other)


def test_features_of_two_towers_are_never_mixed(tmp_path):
    tower, features = tmp_path / "tower.safetensors", tmp_path / "features"
    tower.write_bytes(b"one")
    features.mkdir()
    check_tower(features, tower)  # nothing there yet
    (features / "exact_stills.done").write_text("4")
    check_tower(features, None)  # from before towers were told apart
    with pytest.raises(ValueError, match="features of tower frozen"):
        check_tower(features, tower)
    (features / "tower.txt").write_text(tower_key(tower))
    check_tower(features, tower)
    tower.write_bytes(b"two")
    with pytest.raises(ValueError, match="take another folder"):
        check_tower(features, tower)

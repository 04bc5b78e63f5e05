"""Reading a compression from a configuration: presets, mappings, and errors that name the key."""

from __future__ import annotations

import json

import pytest

from luvc.compression import PRESETS, Compression, Merge, Prune, held
from luvc.errors import ConfigError


@pytest.mark.parametrize("name", list(PRESETS))
def test_presets_survive_a_round_trip_through_plain_data(name):
    preset = Compression.from_any(name)
    plain = json.loads(json.dumps(preset.as_mapping()))
    assert Compression.from_any(plain) == preset


def test_off_in_all_its_spellings():
    assert Compression.from_any("off").is_off
    assert Compression.from_any(None).is_off
    assert Compression.from_any(False).is_off  # YAML 1.1 reads a bare off as false
    assert Compression.from_any({}).is_off
    assert Compression.from_any({"preset": "balanced", "merge": False, "prune": None}).is_off


def test_a_mapping_can_start_from_a_preset():
    changed = Compression.from_any({"preset": "balanced", "merge": {"keep": 0.5}})
    assert changed.merge == Merge(keep=0.5)
    assert changed.prune == PRESETS["balanced"].prune
    assert changed.name == "balanced*"
    assert Compression.from_any({"merge": True}).merge == Merge()


def test_steps_and_stages_as_lists_or_mappings():
    as_lists = Compression.from_any({"merge": {"steps": [[0.5, "width", 0.5]]}, "prune": {"stages": [[0.5, 0.1]]}})
    as_mappings = Compression.from_any(
        {
            "merge": {"steps": [{"depth": 0.5, "axis": "width", "keep": 0.5}]},
            "prune": {"stages": [{"depth": 0.5, "keep": 0.1}]},
        }
    )
    assert as_lists == as_mappings


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("balancd", "did you mean 'balanced'"),
        ({"preset": "nope"}, "unknown preset"),
        ({"merg": {}}, "did you mean 'merge'"),
        ({"merge": {"keeep": 1}}, "did you mean 'keep'"),
        ({"merge": {"keep": 0}}, "compression.merge.keep"),
        ({"merge": {"keep": "half"}}, "compression.merge.keep"),
        ({"merge": {"first": 0.9, "last": 0.1}}, "first <= last"),
        ({"merge": {"steps": [[0.5, "depth", 0.5]]}}, "height, width or time"),
        ({"merge": {"method": "tome", "unit": "patch"}}, "oim for patches"),
        ({"resize": 0}, "compression.resize"),
        ({"resize": "small"}, "compression.resize"),
        ({"merge": {"steps": [[0.5, "width", 0.4]]}}, "disjoint"),
        ({"merge": {"steps": [[0.5, "width"]]}}, "needs the fields"),
        ({"merge": 3}, "expected a mapping"),
        ({"prune": {"method": "attention"}}, "one of spu"),
        ({"prune": {"stages": [[0.1, 0.2], [0.5, 0.9]]}}, "never rise"),
        ({"prune": {"stages": 0.5}}, "compression.prune.stages: expected a list"),
        ({"prune": {"stages": [[0, "half"]]}}, "keep is 'half'"),
        ({"prune": {"stages": [[0, float("nan")]]}}, "a number is needed"),
        ({"merge": {"steps": [[True, "width", 0.5]]}}, "depth is True"),
        ({"prune": {"every": float("inf")}}, "compression.prune.every: inf should be a int"),
        ({"prune": {"cutoff": float("nan")}}, "compression.prune.cutoff"),
        ({"prune": {"taps": 4}}, "odd"),
        ({"prune": {"cutoff": 0}}, "compression.prune.cutoff"),
        (7, "neither a preset name nor a mapping"),
    ],
)
def test_errors_name_the_key_and_say_what_is_allowed(given, words):
    with pytest.raises(ConfigError, match=words):
        Compression.from_any(given)


def test_automatic_steps_alternate_the_axes_and_multiply_to_the_ratio():
    for keep in (0.9, 0.5, 0.25, 0.1, 0.03):
        steps = Merge(keep=keep).resolved_steps()
        product = 1.0
        for step in steps:
            product *= step.keep
        assert product == pytest.approx(keep)
        assert [step.axis for step in steps[:2]] == ["width", "height"]
        assert steps[0].depth == 0.25
        assert steps[-1].depth == pytest.approx(0.5)
    assert Merge(keep=1.0).resolved_steps() == ()


def test_methods_are_known_to_the_selector():
    from luvc.compression import PRUNE_METHODS
    from luvc.methods.select import SCORES

    assert set(PRUNE_METHODS) == set(SCORES)
    assert Prune().method == "spu"


@pytest.mark.parametrize("layers", [1, 2, 12, 24, 30, 80])
@pytest.mark.parametrize("until", [0.75, 0.5, 0.97, 1.0])
def test_what_is_held_stays_until_its_depth_and_is_gone_in_the_last_layer(layers, until):
    prune = Prune(stages=held(0.3, until))
    keeps = [prune.keep_at(layer, layers) for layer in range(layers)]
    last = layers - 1
    assert all(keep == 0.3 for keep in keeps[: min(last, int(until * layers))])
    assert keeps == sorted(keeps, reverse=True)
    assert keeps[last] == 0.0

"""The configuration: every key of docs/design.md, and every mistake named so that it can be found."""

from __future__ import annotations

import pickle
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from luvc.compression import Merge
from luvc.errors import ConfigError
from pipeline import children
from pipeline.config import RunConfig, load_config, parse_config

ROOT = Path(__file__).parents[2]
MINIMAL = {"inputs": [{"path": "in"}], "output": {"path": "out"}}


def write(folder: Path, values: Any) -> Path:
    path = folder / "run.yaml"
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return path


def load(folder: Path, *overrides: str, **values: Any) -> RunConfig:
    return load_config(write(folder, {**MINIMAL, **values}), overrides)


def mistake(folder: Path, *overrides: str, **values: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load(folder, *overrides, **values)
    return str(caught.value)


def test_every_key_of_the_design(tmp_path: Path) -> None:
    design = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    text = design.split("```yaml")[1].split("```")[0]
    config = load_config(write(tmp_path, text))
    given = yaml.safe_load(text)

    def assert_known(mapping: dict[str, Any], values: Any) -> None:
        for key, value in mapping.items():
            got = getattr(values, key)
            if isinstance(value, dict) and key not in ("storage", "prompts"):
                assert_known(value, got)

    assert_known({key: value for key, value in given.items() if key not in ("inputs", "compression")}, config)
    assert config.prompts == (("caption", "Describe this video."),)
    assert config.compression.name == "balanced"
    assert config.sampling.frames == 8
    assert config.run.gpus_per_actor == "auto"
    assert config.decode.memory_bytes == 2 * 1024**3
    # The defaults are those of the design: a file that leaves them out is the same configuration.
    short = {key: given[key] for key in ("name", "inputs", "prompts", "output")}
    assert load_config(write(tmp_path, short)) == config


@pytest.mark.parametrize("name", ["demo", "nightly"])
def test_shipped_configurations_load(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(ROOT / "configs" / f"{name}.yaml")
    assert config.name == name


def test_paths_start_at_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA", "/data")
    monkeypatch.setenv("HOME", "/home/someone")
    config = load(tmp_path, inputs=[{"path": p} for p in ("clips/../more", "~/v", "${DATA}/x", "s3://b/$DATA")])
    assert [source.path for source in config.inputs] == [
        str(tmp_path / "more"),
        "/home/someone/v",
        "/data/x",
        "s3://b//data",
    ]
    assert config.output.path == str(tmp_path / "out")


def test_a_model_is_a_folder_or_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    assert load(tmp_path, "model.id=mine").model.id == str(tmp_path / "mine")
    assert load(tmp_path, "model.id=Qwen/Qwen2.5-VL-7B-Instruct").model.id == "Qwen/Qwen2.5-VL-7B-Instruct"


def test_prompts_in_any_form(tmp_path: Path) -> None:
    assert load(tmp_path, prompts="What?").prompts == (("prompt", "What?"),)
    assert load(tmp_path, prompts=["A?", "B?"]).prompts == (("prompt_1", "A?"), ("prompt_2", "B?"))
    config = load(tmp_path, prompts={"z": "Z?", "a": "A?"})
    assert [prompt.prompt_id for prompt in config.prompts] == ["z", "a"]
    assert "expected text" in mistake(tmp_path, prompts={"a": {"b": "c"}})
    assert "at least one" in mistake(tmp_path, prompts=[])


@pytest.mark.parametrize("text", ["off", "Off: no", "no"])
def test_yaml_1_1_does_not_turn_words_into_booleans(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, f"inputs: [{{path: a}}]\noutput: {{path: b}}\nprompts: {{no: yes, on: {text!r}}}\n")
    assert [prompt.prompt_id for prompt in load_config(path).prompts] == ["no", "on"]


@pytest.mark.parametrize(
    "value", ["off", "'off'", "null", "false", "none", "{preset: off}", "{merge: off, prune: off}"]
)
def test_compression_off_in_every_spelling(tmp_path: Path, value: str) -> None:
    path = write(tmp_path, f"inputs: [{{path: a}}]\noutput: {{path: b}}\ncompression: {value}\n")
    assert load_config(path).compression.is_off
    assert load(tmp_path, f"compression={value}").compression.is_off


def test_numbers_with_exponents(tmp_path: Path) -> None:
    assert load(tmp_path, "decode.memory_bytes=1e9", "run.heartbeat_s=5e-1").decode.memory_bytes == 10**9


def test_overrides(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        "compression.merge.keep=0.5",
        "inputs.0.path=s3://bucket/videos",
        "inputs.1.path=/more",
        "sampling={mode: fps, fps: 2}",
        "prompts.caption=What: is this?",
        "run.gpus_per_actor=0.5",
        "output.storage.key=abc",
        compression="balanced",
        prompts={"caption": "x"},
    )
    assert config.prompts[0].text == "What: is this?"
    assert config.compression.merge == Merge(keep=0.5)
    assert config.compression.prune is not None
    assert [source.path for source in config.inputs] == ["s3://bucket/videos", "/more"]
    assert (config.sampling.fps, config.sampling.max_frames) == (2.0, 64)
    assert config.run.gpus_per_actor == 0.5
    assert config.output.storage == {"key": "abc"}


MISTAKES = {
    "sampling.frame=3": ("--set sampling.frame", "did you mean 'frames'?"),
    "frames=3": ("unknown key 'frames'", "did you mean 'sampling.frames'?"),
    "inputs.0.pth=x": ("unknown key 'inputs.0.pth'", "did you mean 'path'?"),
    "compression.merg.keep=1": ("unknown key 'merg'", "did you mean 'merge'?"),
    "compression.merge.keeep=1": ("compression.merge: unknown key 'keeep'", "did you mean 'keep'?"),
    "compression=balancd": ("unknown preset 'balancd'", "did you mean 'balanced'?"),
    "run.actors=0": ("run.actors: 0 is not allowed", "greater than or equal to 1"),
    "run.gpus_per_actor=some": ("run.gpus_per_actor: 'some' is not allowed", ""),
    "decode.policy=lenient": ("decode.policy: 'lenient' is not allowed", "'strict' or 'tolerant'"),
    "sampling.mode=fps": ("sampling:", "mode fps needs fps"),
    "sampling={mode: count, fps: 1}": ("sampling:", "fps does not belong to mode count"),
    "clips.mode=windows": ("clips:", "mode windows needs window_s"),
    "name=a/b": ("name: 'a/b' is not allowed", ""),
    "output.path=$NOT_SET_ANYWHERE/x": ("output.path", "'NOT_SET_ANYWHERE' is not set"),
    "inputs=[]": ("inputs:", "at least 1 item"),
    "inputs.7.path=x": ("inputs.7: not an index", ""),
    "name.first=x": ("name is not a mapping", ""),
    "justakey": ("not of the form key=value", "--set sampling.frames=8"),
}


@pytest.mark.parametrize("override", MISTAKES)
def test_mistakes_name_the_key_and_the_way_out(tmp_path: Path, override: str) -> None:
    message = mistake(tmp_path, override, name="good")
    for part in MISTAKES[override]:
        assert part in message


def test_mistakes_in_the_file_name_the_file(tmp_path: Path) -> None:
    message = mistake(tmp_path, sampling={"frames": 0, "fsp": 1}, prices={"gpu_hour": 2})
    assert message.count(str(tmp_path / "run.yaml")) == 3
    assert "sampling.frames: 0 is not allowed" in message
    assert "unknown key 'prices.gpu_hour'" in message
    assert "did you mean 'gpu_hour_usd'?" in message


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a: [", "not valid YAML"),
        ("- a\n- b\n", "expected keys and values"),
        ("name: a\nname: b\n", "'name' stands twice"),
        ("", "'inputs' is missing"),
    ],
)
def test_files_that_are_not_configurations(tmp_path: Path, text: str, part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        load_config(write(tmp_path, text))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such configuration file"):
        load_config(tmp_path / "none.yaml")


def test_secrets_are_never_shown(tmp_path: Path) -> None:
    secret = {"key": "SECRET", "client_kwargs": {"aws_secret": "SECRET"}}
    config = load(tmp_path, inputs=[{"path": "s3://a", "storage": secret}], output={"path": "b", "storage": secret})
    assert config.inputs[0].storage["key"] == "SECRET"
    assert "SECRET" not in config.dump() + repr(config) + str(config.as_mapping())
    assert "SECRET" not in mistake(tmp_path, inputs=[{"path": "a", "storage": secret, "other": 1}])
    assert "SECRET" not in mistake(tmp_path, inputs=[{"path": "a", "storage": "SECRET"}])
    assert "SECRET" not in mistake(tmp_path, "output.storage.key=SECRET", "output.storage.key.x=SECRET")
    assert "SECRET" not in mistake(tmp_path, "output.storge.key=SECRET")


def test_storage_options_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "abc")
    config = load(tmp_path, inputs=[{"path": "s3://a", "storage": {"client_kwargs": {"key": "${MY_KEY}"}}}])
    assert config.inputs[0].storage == {"client_kwargs": {"key": "abc"}}


def test_dump_reads_back_and_hashes_the_same(tmp_path: Path) -> None:
    config = load(tmp_path, "compression=paper", "sampling={mode: key_frames}", "prompts={a: 'x: y', no: ü}")
    again = load_config(write(tmp_path, config.dump()))
    assert again == config
    assert again.config_hash == config.config_hash
    assert load(tmp_path).config_hash != config.config_hash


def test_a_configuration_is_frozen_and_pickles(tmp_path: Path) -> None:
    config = load(tmp_path, inputs=[{"path": "s3://a", "storage": {"key": "k"}}])
    with pytest.raises(ValueError, match="frozen"):
        config.name = "other"
    assert pickle.loads(pickle.dumps(config)) == config
    assert pickle.loads(pickle.dumps(config)).inputs[0].storage == {"key": "k"}


def test_loading_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; from pipeline.config import load_config; load_config(sys.argv[1]);"
        "print([m for m in ('torch', 'ray', 'av', 'transformers', 'pyarrow') if m in sys.modules])"
    )
    done = children.run([sys.executable, "-c", code, str(write(tmp_path, MINIMAL))], cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr


VLLM = {"compression": "off", "run": {"engine": "vllm"}}


def test_vllm_takes_options(tmp_path: Path) -> None:
    config = load(tmp_path, "run.engine_options.video_pruning_rate=0.5", **VLLM)
    assert config.run.engine_options == {"video_pruning_rate": 0.5}
    assert load_config(write(tmp_path, config.dump())) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"run": {"engine": "vllm"}}, "compression: balanced: vLLM runs models without it.*compression: off"),
        ({"run": {"engine_options": {"seed": 1}}}, "run.engine_options: luvc has none"),
        ({"run": {"engine": "fake", "engine_options": {"latency": 1}}}, "run.engine_options.latency: Extra inputs"),
        ({"run": {"engine": "fake", "engine_options": {"latency_s": -1}}}, "run.engine_options.latency_s: Input"),
        ({**VLLM, "model": {"device": "cuda"}}, "model.device, model.attention"),
        ({"compression": "off", "run": {"engine": "vllm", "engine_options": {"model": "x"}}}, "use model.id"),
        ({"compression": "off", "run": {"engine": "vllm", "engine_options": {"dtype": "x"}}}, "use model.dtype"),
    ],
)
def test_what_vllm_cannot_do_is_a_mistake(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    assert re.search(message, mistake(tmp_path, **values))


def test_a_preset_fills_in_what_is_not_set(tmp_path):
    def prices(**given):
        return parse_config({"inputs": [{"path": str(tmp_path)}], "output": {"path": "out"}, "prices": given}).prices

    listed = prices(preset="aws-p5")
    assert listed.gpu_hour_usd == pytest.approx(6.88)
    assert listed.cpu_hour_usd == 0.0
    assert listed.storage_writes_1000_usd == 0.005
    own = prices(preset="aws-p5", gpu_hour_usd=2.5, cpu_hour_usd=None)
    assert (own.gpu_hour_usd, own.cpu_hour_usd) == (2.5, 0.0)
    assert prices(preset="aws-m7g").cpu_hour_usd == pytest.approx(0.0408)
    assert prices().gpu_hour_usd is None
    with pytest.raises(ConfigError, match=r"aws-p55.*aws-g5") as caught:
        prices(preset="aws-p55")
    assert "prices" in str(caught.value)

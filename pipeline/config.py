"""One YAML file -> one validated, immutable `RunConfig`.

Sections live with the parts they configure (`plan`, `decode`, `luvc.Compression`); this module composes them,
applies `--set` overrides, and turns every mistake into a `ConfigError` that names file, key and value.
Knows nothing of Ray or torch, and never writes storage options: they carry credentials.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, ValidationError, field_serializer, field_validator, model_validator

from luvc.compression import Compression
from luvc.errors import ConfigError
from pipeline.config_text import apply_overrides, explain, read_yaml
from pipeline.decode.protocol import DecodeSettings
from pipeline.plan.clips import Clips
from pipeline.plan.prompts import DEFAULT_PROMPT, Prompt, normalise_prompts
from pipeline.plan.sampling import Sampling
from pipeline.plan.sources import InputSource
from pipeline.prices import PRESETS, S3_READS_1000_USD, S3_WRITES_1000_USD
from pipeline.section import Section, StorageOptions, Url, expand_text

#: Size of part files, unless `output.part_bytes` says otherwise.
PART_BYTES = 64 * 1024**2


class ModelSettings(Section):
    """The `model` section.

    Attributes:
        id: hub name, local folder, or `luvc-demo` (the embedded model).
        revision: branch, tag or commit on the hub.
        dtype: of weights and activations; auto: bfloat16 on a GPU or a CPU with instructions for it, else float32.
        device: auto: a GPU where there is one.
        trust_remote_code: run Python code that comes with a checkpoint. Off unless you read that code.
        attention: name of an attention back end; auto: the fastest that loads here.
    """

    id: str = Field(default="luvc-demo", min_length=1)
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"
    trust_remote_code: bool = False
    attention: str = "auto"

    @field_validator("id")
    @classmethod
    def _expand(cls, value: str) -> str:
        path = Path(expand_text(value)).expanduser()
        # A folder becomes absolute, as all paths do; anything else is a name on the hub.
        return str(path.absolute()) if path.is_dir() else expand_text(value)


class Generation(Section):
    """The `generation` section.

    Attributes:
        max_new_tokens: an answer ends there at the latest.
        temperature: 0 takes the likeliest token; above 0 tokens are drawn.
        top_p: only the smallest set of likeliest tokens with this much probability is drawn from.
        seed: with the unit and the prompt it decides every draw, so that a night can be repeated.
    """

    max_new_tokens: int = Field(default=64, ge=1)
    temperature: float = Field(default=0.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    seed: int = 0


class Encoders(Section):
    """The `run.encoders` section: the pool of vision encoders of `run.topology: split`.

    Attributes:
        actors: encoder actors; auto: the share of the GPUs that calibration gives them (`pipeline.run.pools`).
        gpus_per_actor: auto: 1 where the cluster has GPUs, else 0; fractions share a GPU.
        cpus_per_actor: CPUs an encoder actor reserves.
    """

    actors: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    gpus_per_actor: Literal["auto"] | Annotated[float, Field(ge=0)] = "auto"
    cpus_per_actor: float = Field(default=1.0, gt=0)


class FakeOptions(Section):
    """`run.engine_options` of the fake engine, for rehearsals.

    Attributes:
        latency_s: seconds a unit stays in the engine, and up to half as long again.
        decode: false leaves videos closed and gives the engine black frames.
    """

    latency_s: float = Field(default=0.0, ge=0)
    decode: bool = True


class RunSettings(Section):
    """The `run` section: the shape of the Ray job.

    Attributes:
        engine: "luvc"; "vllm", for models that luvc does not know and as the baseline; or "fake": answers without a
            model, to try everything else.
        engine_options: for vllm: arguments of `vllm.EngineArgs` (or `vllm.LLM`), such as `video_pruning_rate`; for
            fake: `latency_s` and `decode`, see `FakeOptions`.
        topology: fused: each actor holds the whole model; split: encoders and language models in actors of their own.
        encoders: of topology split: the encoders; `actors` and what belongs to them are then the language models.
        actors: engine actors, one model each; auto, in topology split: what calibration says.
        gpus_per_actor: auto: 1 where the cluster has GPUs, else 0.
        cpus_per_actor: CPUs an engine actor reserves.
        decode_cpus: CPUs a decode task reserves.
        in_flight_units: units on their way to an actor; bounds decoded frames in memory.
        prefill_tokens: token budget of one packed prefill, counted after merging; auto: what suits the device.
        kv_bytes: KV-cache budget of an actor.
        attempts: tries per unit inside one run, for errors that trying again can help.
        heartbeat_s: seconds between progress lines.
        no_progress_s: abort, naming the stuck stage, when nothing moved for so long.
        ray_address: auto: RAY_ADDRESS or a running cluster, else a local one; local; or an address.
    """

    engine: Literal["luvc", "vllm", "fake"] = "luvc"
    engine_options: dict[str, Any] = Field(default_factory=dict)
    topology: Literal["fused", "split"] = "fused"
    encoders: Encoders = Encoders()
    actors: Literal["auto"] | Annotated[int, Field(ge=1)] = 1
    gpus_per_actor: Literal["auto"] | Annotated[float, Field(ge=0)] = "auto"
    cpus_per_actor: float = Field(default=1.0, gt=0)
    decode_cpus: float = Field(default=1.0, gt=0)
    in_flight_units: int = Field(default=16, ge=1)
    prefill_tokens: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    kv_bytes: int = Field(default=2 * 1024**3, ge=1)
    attempts: int = Field(default=2, ge=1)
    heartbeat_s: float = Field(default=10.0, gt=0)
    no_progress_s: float = Field(default=900.0, gt=0)
    ray_address: str = "auto"

    @property
    def fake(self) -> FakeOptions:
        """Options of the fake engine."""
        return FakeOptions.model_validate(self.engine_options)

    @property
    def engines(self) -> int:
        """Actors with a language model; at least one while their number is not solved."""
        return 1 if self.actors == "auto" else self.actors

    @property
    def encoder_actors(self) -> int:
        """Actors with an encoder alone; at least one in topology split while their number is not solved."""
        if self.topology == "fused":
            return 0
        return 1 if self.encoders.actors == "auto" else self.encoders.actors

    @property
    def model_actors(self) -> int:
        """Actors that hold a model or a part of one."""
        return self.engines + self.encoder_actors

    @property
    def model_cpus(self) -> float:
        """CPUs these reserve."""
        return self.engines * self.cpus_per_actor + self.encoder_actors * self.encoders.cpus_per_actor


class QualitySettings(Section):
    """The `quality` section: some clips of every run are also answered without compression.

    Attributes:
        units: how many; auto: 20 where the same actor can do both (engine luvc, topology fused), else none. Nothing is
            done where there is nothing to compare: without compression, and with other engines.
        min_agreement: the run fails (exit code 4) when answers have fewer tokens in common with those without
            compression, 0 to 1; the mean over the clips.
        min_similarity: the same for the similarity of sentence embeddings (requirements/evaluate.txt), -1 to 1.
    """

    units: Literal["auto"] | Annotated[int, Field(ge=0)] = "auto"
    min_agreement: float | None = Field(default=None, ge=0, le=1)
    min_similarity: float | None = Field(default=None, ge=-1, le=1)


#: Clips of the quality slice where nobody says how many.
SLICE_UNITS = 20


class OutputSettings(Section):
    """The `output` section.

    Attributes:
        path: folder or URL; relative paths start at the current working directory.
        storage: options for fsspec; never written to any output.
        part_bytes, part_units: a part file is closed at whichever comes first. Bytes are those of the file; also what
            `luvc compact` aims at.
        partition: date: parts go into folders `dt=YYYY-MM-DD`, the day the run began (UTC).
        thumbnails: units shown with a picture in the report.
    """

    path: Url
    storage: StorageOptions = Field(default_factory=dict)
    part_bytes: int = Field(default=PART_BYTES, ge=1)
    part_units: int = Field(default=512, ge=1)
    partition: Literal["none", "date"] = "none"
    thumbnails: int = Field(default=24, ge=0)


class Prices(Section):
    """The `prices` section: US dollars; without them the report shows no cost.

    Attributes:
        preset: list prices of a common machine (`pipeline.prices`), for values that are not set here.
        gpu_hour_usd, cpu_hour_usd: one GPU, one CPU core, for an hour.
        storage_writes_1000_usd, storage_reads_1000_usd: a thousand PUT or LIST requests, a thousand GET requests.
    """

    preset: str | None = None
    gpu_hour_usd: float | None = Field(default=None, ge=0)
    cpu_hour_usd: float | None = Field(default=None, ge=0)
    storage_writes_1000_usd: float | None = Field(default=None, ge=0)
    storage_reads_1000_usd: float | None = Field(default=None, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: Any) -> Any:
        """Prices of the preset stand in the configuration that is kept: a later table does not change an old run."""
        if not isinstance(values, Mapping) or values.get("preset") is None:
            return values
        preset = PRESETS.get(values["preset"])
        if preset is None:
            raise ValueError(f"preset: no such machine {values['preset']!r}; there are {', '.join(PRESETS)}")
        listed = {
            "gpu_hour_usd": preset.gpu_hour_usd,
            "cpu_hour_usd": preset.cpu_hour_usd,
            "storage_writes_1000_usd": S3_WRITES_1000_USD,
            "storage_reads_1000_usd": S3_READS_1000_USD,
        }
        return listed | {key: value for key, value in values.items() if value is not None}


#: Options of vLLM that have a place of their own in a configuration.
_VLLM_ELSEWHERE = ("revision", "dtype", "trust_remote_code")


def _parse_compression(value: Any) -> Compression:
    if isinstance(value, Mapping):  # `merge: off` is as natural as `compression: off`
        parts = {key: None for key in ("merge", "prune") if value.get(key) in ("off", "none")}
        value = {**value, **parts}
    return Compression.from_any("off" if value == "none" else value)


class RunConfig(Section):
    """Everything one run depends on; attributes are the keys of the YAML (docs/design.md)."""

    name: str = Field(default="luvc", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    inputs: tuple[InputSource, ...] = Field(min_length=1)
    clips: Clips = Clips()
    sampling: Sampling = Sampling()
    prompts: Annotated[tuple[Prompt, ...], BeforeValidator(normalise_prompts)] = normalise_prompts(DEFAULT_PROMPT)
    model: ModelSettings = ModelSettings()
    compression: Annotated[Compression, BeforeValidator(_parse_compression)] = _parse_compression("balanced")
    generation: Generation = Generation()
    decode: DecodeSettings = DecodeSettings()
    run: RunSettings = RunSettings()
    quality: QualitySettings = QualitySettings()
    output: OutputSettings
    prices: Prices = Prices()

    @property
    def slice_units(self) -> int:
        """Units of a run that are also answered without compression."""
        if self.run.engine != "luvc" or self.run.topology != "fused" or self.compression.is_off:
            return 0
        return SLICE_UNITS if self.quality.units == "auto" else self.quality.units

    @model_validator(mode="after")
    def _topology_can(self) -> RunConfig:
        run = self.run
        if run.topology == "fused":
            if run.actors == "auto":
                raise ConfigError("run.actors: auto is for run.topology: split", "give a number")
            if run.encoders != Encoders():
                raise ConfigError("run.encoders: topology fused has no encoders apart", "set run.topology: split")
        elif run.engine != "luvc":
            raise ConfigError(
                f"run.topology: split: the engine {run.engine} has no encoder of its own", "set run.engine: luvc"
            )
        return self

    @model_validator(mode="after")
    def _slice_can(self) -> RunConfig:
        asked = self.quality
        thresholds = (asked.min_agreement, asked.min_similarity) != (None, None)
        if self.run.topology == "split" and (thresholds or asked.units not in ("auto", 0)):
            raise ConfigError(
                "quality: in run.topology: split no actor has both halves of the model, so none can answer without "
                "compression as well",
                "set quality.units: 0 and no thresholds, or run.topology: fused",
            )
        if asked.units == 0 and thresholds:
            raise ConfigError("quality.units: 0, but there is a threshold", "some units to measure it on, such as 20")
        return self

    @model_validator(mode="after")
    def _engine_can(self) -> RunConfig:
        options = self.run.engine_options
        if self.run.engine == "luvc" and options:
            raise ConfigError("run.engine_options: luvc has none", "they are for run.engine: vllm or fake")
        if self.run.engine == "fake":
            try:
                _ = self.run.fake
            except ValidationError as error:
                first = error.errors()[0]
                key = ".".join(("run.engine_options", *map(str, first["loc"])))
                raise ConfigError(f"{key}: {first['msg']}", f"fake has {', '.join(FakeOptions.model_fields)}") from None
        if self.run.engine != "vllm":
            return self
        if not self.compression.is_off:
            raise ConfigError(
                f"compression: {self.compression.name}: vLLM runs models without it",
                "set compression: off; vLLM's own pruning is run.engine_options.video_pruning_rate",
            )
        if (self.model.device, self.model.attention) != ("auto", "auto"):
            raise ConfigError("model.device, model.attention: vLLM chooses them itself", "leave both at auto")
        for key, place in {"model": "model.id", **{name: f"model.{name}" for name in _VLLM_ELSEWHERE}}.items():
            if key in options:
                raise ConfigError(f"run.engine_options.{key}: this has a place of its own", f"use {place}")
        return self

    @field_serializer("prompts")
    def _prompts_as_mapping(self, prompts: tuple[Prompt, ...]) -> dict[str, str]:
        return {prompt.prompt_id: prompt.text for prompt in prompts}

    @field_serializer("compression")
    def _compression_as_mapping(self, compression: Compression) -> dict[str, Any]:
        return compression.as_mapping()

    def as_mapping(self) -> dict[str, Any]:
        """Plain JSON-like data, defaults filled in, storage options left out."""
        mapping: dict[str, Any] = json.loads(json.dumps(self.model_dump()))
        return mapping

    def dump(self) -> str:
        """YAML of the whole configuration; `load_config` reads it back (without the storage options)."""
        return yaml.safe_dump(self.as_mapping(), sort_keys=False, allow_unicode=True, width=100)

    @property
    def config_hash(self) -> str:
        """16 hex digits that change when any setting other than storage options changes."""
        canonical = json.dumps(self.as_mapping(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a configuration file.

    Args:
        path: the YAML file.
        overrides: "key=value" pairs as given to `--set`; keys with dots (`inputs.0.path`), values in YAML.

    Raises:
        ConfigError: the file cannot be read, or a key or value in it or in an override is wrong.
    """
    values = apply_overrides(read_yaml(path), overrides)
    return parse_config(values, origin=str(path), overrides=overrides)


def parse_config(values: Any, origin: str = "configuration", overrides: Sequence[str] = ()) -> RunConfig:
    """Validate plain data; `origin` is named in errors. Raises ConfigError."""
    try:
        return RunConfig.model_validate(values)
    except ConfigError as error:  # from luvc.compression, which names its keys itself
        raise ConfigError(f"{origin}: {error.message}", error.hint) from None
    except ValidationError as error:
        raise explain(error, RunConfig, origin, overrides) from None

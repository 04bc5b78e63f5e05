"""Train the embedded model's projector and LoRA on stored features. Resumable; every step is a function of the seed.

    python -m benchmarks.embedded_model.train --material DIR --features DIR --run DIR --minutes 60 \
        [--device cuda --tokens 24000 --warm-frames 512]

Phase 1 (`warm`, minutes): the projector alone learns, unit by unit, to land on the word of what the unit shows, with
its colour and place (`units`). Phase 2 (`caption`): projector, LoRA and the two frame-marker embeddings learn the
answers by next-token loss, and heads where to look (`guide`): bags of a few units first, whole scenes later (`course`).
A clip is read once for all its questions. Writes
RUN/log.jsonl, RUN/state.pt and RUN/trained.safetensors.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from benchmarks.embedded_model.bags import Bags
from benchmarks.embedded_model.course import Course
from benchmarks.embedded_model.data import FeatureBank, Prompter, draw_units
from benchmarks.embedded_model.features import check_tower
from benchmarks.embedded_model.guide import finder
from benchmarks.embedded_model.lessons import GUIDE_WEIGHT, PROBE_WEIGHT, UNIT_WEIGHT, Lessons
from benchmarks.embedded_model.model import EOS_ID, Batch, CaptionModel, frozen_dtype, load_projector
from benchmarks.embedded_model.run_files import Log, Means, load_tokenizer, save_atomically
from benchmarks.embedded_model.team import ALONE, Team
from benchmarks.embedded_model.things import Things
from benchmarks.embedded_model.units import UnitTargets
from luvc.embedded.assembly import VISION_LORA_PREFIX

#: Sets, and how often each is drawn: questions most of all, captioned scenes so that they are not forgotten.
DEFAULT_SETS = {
    "exact_train": 0.22, "exact_stills": 0.4, "exact_parade": 0.25, "train_stills": 0.05, "train_clips": 0.04,
    "train_long": 0.04,
}  # fmt: skip
PROBE_LR = 1e-3
TEXT_TOKENS = 60
TEXT_QUESTIONS = (
    "What is the capital of Italy?", "Name three colors.", "Who wrote Hamlet?",
    "How many days are in a week?", "What do cows eat?", "Write one sentence about the sea.", "What is two plus two?",
    "Say hello.", "What is the opposite of hot?", "Give me a synonym for happy.", "What is a computer?",
    "Tell me a fact about elephants.", "Why is the sky blue?", "What is the largest planet?", "What is bread made of?",
    "Name a musical instrument.", "What is the boiling point of water?", "What season follows winter?", "Who are you?",
    "Translate 'good morning' to Spanish.", "What is photosynthesis?", "What language is spoken in Brazil?",
    "Finish: once upon a time",
)  # fmt: skip


def text_rows(model: CaptionModel, prompter: Prompter, path: Path) -> list[tuple[list[int], list[int]]]:
    """The untouched language model's own short answers, trained on a little so that it still talks."""
    if not path.is_file():
        answers = {}
        for question in TEXT_QUESTIONS:
            ids = torch.tensor([prompter.ids(question, 0, 0)])
            answer = model.generate(ids, TEXT_TOKENS)[0]
            if len(answer) < TEXT_TOKENS:  # else it was cut off, and must not be taught to end there
                answers[question] = prompter.tokenizer.decode(answer)
        path.write_text(json.dumps(answers, indent=1))
    return [(prompter.ids(q, 0, 0), list(prompter.encode(a))) for q, a in json.loads(path.read_text()).items()]


Units = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def warm_up(
    model: CaptionModel, banks: Sequence[FeatureBank], prompter: Prompter, args: argparse.Namespace, log: Log
) -> None:
    """Phase 1; skipped if its result is already in the run's folder, or if `perceive` has done its work."""
    path = args.run / "warm.safetensors"
    if args.tower:
        part = load_file(args.tower)
        model.tower = {name: value for name, value in part.items() if name.startswith(VISION_LORA_PREFIX)}
        load_projector(part, model.projector)
        return
    if path.is_file():
        model.projector.load_state_dict(load_file(path))
        return
    targets = UnitTargets(model.lm.model.embed_tokens.weight, prompter.encode)
    optimizer = torch.optim.AdamW(model.projector.parameters(), lr=args.warm_lr, weight_decay=0.05)
    totals = np.zeros(3)
    for step in range(args.warm_steps):
        units, found, where = draw_units(banks, np.random.default_rng([args.seed, 1, step]), args.warm_frames)
        loss, words_right, tints_right = targets.loss(model.projector(units), found, where)
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = (
                args.warm_lr * min(1.0, (step + 1) / 50) * (0.5 + 0.5 * math.cos(math.pi * step / args.warm_steps))
            )
        optimizer.step()
        totals += (float(loss.detach()), words_right, tints_right)
        if (step + 1) % 100 == 0:
            loss_mean, words_mean, tints_mean = totals / 100
            log.write(phase="warm", step=step + 1, loss=loss_mean, words_right=words_mean, tints_right=tints_mean)
            totals[:] = 0
    save_atomically(lambda aside: save_file(model.projector.state_dict(), aside), path)


def caption(
    lessons: Lessons,
    course: Course,
    banks: Sequence[FeatureBank],
    args: argparse.Namespace,
    log: Log,
    team: Team = ALONE,
) -> None:
    """Phase 2, until `--minutes` of this phase are used up; course and learning rate follow the time, not the steps."""
    model = lessons.model
    lora = [value for name, value in model.trainable().items() if name.endswith((".A", ".B"))]
    rest = [value for name, value in model.trainable().items() if not name.endswith((".A", ".B"))]
    groups = ((lora, args.lora_lr), (rest, args.projector_lr), (list(lessons.probe.parameters()), PROBE_LR))
    optimizer = torch.optim.AdamW([{"params": group, "lr": peak} for group, peak in groups], weight_decay=0.01)
    step, used_s = 0, 0.0
    state_path = args.run / "state.pt"
    if state_path.is_file():
        state = torch.load(state_path, map_location=args.device)
        step, used_s = state["step"], state["used_s"]
        with torch.no_grad():
            for name, value in model.trainable().items():
                value.copy_(state["trained"][name])
        lessons.probe.load_state_dict(state["probe"])
        optimizer.load_state_dict(state["optimizer"])
        log.write(phase="caption", resumed_at=step, used_s=used_s)

    def drawn(step: int, progress: float) -> tuple[Batch, bool, Units]:
        # Not what the run before this one has read already: batches are learned by heart the second time.
        rng = np.random.default_rng([args.seed, 2, step, round(1e6 * args.begin), team.rank])
        batch, imagined = course.batch(rng, args.begin + (1 - args.begin) * progress)
        # Few frames hold more things than a batch shows: the projector learns from others beside.
        return batch.to(args.device), imagined, draw_units(banks, rng, max(8, args.warm_frames // 4))

    def save() -> None:
        if not team.leads:
            return
        trained = {name: value.detach() for name, value in model.trainable().items()}
        state = {"step": step, "used_s": used_s, "trained": trained, "optimizer": optimizer.state_dict()}
        state["probe"] = lessons.probe.state_dict()
        save_atomically(lambda aside: torch.save(state, aside), state_path)
        save_atomically(lambda aside: save_file(model.export(), aside), args.run / "trained.safetensors")

    budget_s, answers_seen, means = args.minutes * 60, 0, Means()
    # The next step is drawn while this one is computed, which matters where a GPU waits for it.
    ahead = ThreadPoolExecutor(1)
    following = ahead.submit(drawn, step, used_s / budget_s if budget_s else 1.0)
    while (used_s := team.agree(used_s)) < budget_s:
        begun = time.perf_counter()
        batch, imagined, (units, found, where) = following.result()
        progress = min(1.0, used_s / budget_s)
        following = ahead.submit(drawn, step + 1, progress)
        scale = min(1.0, (step + 1) / 40) * (0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * progress)))
        for group, (_, peak) in zip(optimizer.param_groups, groups, strict=True):
            group["lr"] = peak * scale
        rng = np.random.default_rng([args.seed, 3, step, team.rank])
        losses = lessons.losses(batch, rng, imagined)
        unit_loss, words_right, _ = lessons.targets.loss(model.projector(units), found, where)
        optimizer.zero_grad()
        (losses.total() + UNIT_WEIGHT * unit_loss).backward()
        team.average([*lora, *rest, *lessons.probe.parameters()])
        torch.nn.utils.clip_grad_norm_([*lora, *rest], 1.0)
        optimizer.step()
        step += 1
        answers_seen += team.size * int((batch.labels == EOS_ID).sum())
        used_s += time.perf_counter() - begun
        means.add(words_right=words_right)
        if batch.units is not None:
            read = "imagined" if imagined else "real"
            means.add(**{read: float(losses.answers.detach()), "guide": float(losses.guide.detach()) / GUIDE_WEIGHT})
            means.add(probe=float(losses.probe.detach()) / PROBE_WEIGHT)
            for kind, likely in losses.likely:
                means.add(**{f"{kind}, {read}": likely})
        if step % 25 == 0:
            lr = args.lora_lr * scale
            log.write(phase="caption", step=step, answers=answers_seen, used_s=used_s, lr=lr, **means.take())
        if step % 100 == 0:
            save()
    ahead.shutdown(cancel_futures=True)
    save()


def main() -> None:
    """Train, or go on with, one run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--features", type=Path, required=True, help="folder made by benchmarks.embedded_model.features"
    )
    parser.add_argument("--material", type=Path, required=True, help="folder made by benchmarks.exact.material")
    parser.add_argument("--run", type=Path, required=True, help="folder of this run; an unfinished run goes on")
    parser.add_argument("--sets", nargs="+", default=list(DEFAULT_SETS))
    parser.add_argument(
        "--shares", nargs="+", type=float, default=list(DEFAULT_SETS.values()), help="how often each set is drawn"
    )
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--start", type=Path, help="go on from this trained part, of this rank or a lower one")
    parser.add_argument("--tower", type=Path, help="what `perceive` trained, and the features were made with")
    parser.add_argument("--warm-steps", type=int, default=4000)
    parser.add_argument("--warm-lr", type=float, default=1e-3)
    parser.add_argument("--minutes", type=float, default=45.0, help="of the caption phase")
    parser.add_argument(
        "--begin", type=float, default=0.0, help="share of the course that was read before, by the run of --start"
    )
    parser.add_argument("--lora-lr", type=float, default=2e-3)
    parser.add_argument("--projector-lr", type=float, default=5e-4)
    parser.add_argument("--tokens", type=int, default=420, help="sequence tokens in a batch")
    parser.add_argument("--warm-frames", type=int, default=32, help="frames of a warm-up batch")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    if not 0 <= args.begin < 1:
        parser.error("--begin: a share, from 0 to below 1")
    if len(args.shares) != len(args.sets):
        parser.error("--shares: one number for each of --sets")

    check_tower(args.features, args.tower)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.run.mkdir(parents=True, exist_ok=True)
    team = Team.join()
    log = Log(args.run / "log.jsonl" if team.leads else None)
    with team.leader_first():
        tokenizer = load_tokenizer(args.run)
    prompter = Prompter(tokenizer)
    banks = [FeatureBank(name, args.features, args.material, args.device) for name in args.sets]
    model = CaptionModel(args.rank, frozen_dtype(args.device))
    if args.start:
        model.restore(load_file(args.start))
    model.to(args.device)
    settings = {
        key: str(value) if isinstance(value, Path) else value
        for key, value in vars(args).items()
        if key not in ("features", "material", "run", "start", "tower")
    }
    log.write(phase="start", trained_parameters=sum(p.numel() for p in model.trainable().values()), **settings)
    with team.leader_first():
        warm_up(model, banks, prompter, args, log)
        texts = text_rows(model, prompter, args.run / "text.json")
    things = Things([bank for bank in banks if bank.count])
    if not things.enough:
        log.write(phase="start", warning="too few things for bags: whole scenes from the first step on")
    bags = Bags(things) if things.enough else None
    course = Course(banks, args.shares, bags, prompter, finder(tokenizer), texts, args.tokens)
    lessons = Lessons(model, UnitTargets(model.lm.model.embed_tokens.weight, prompter.encode)).to(args.device)
    caption(lessons, course, banks, args, log, team)
    team.leave()


if __name__ == "__main__":
    main()

"""Teach the vision tower and the projector to say what units show, on frames drawn as they are needed. Resumable.

    python -m benchmarks.embedded_model.perceive --material DIR --run DIR --minutes 60 \
        [--device cuda --frames 64 --workers 16]

The tower is DINOv2's, which knows pictures but not these: low-rank terms on its last layers, and the projector, learn
what composed scenes know of every unit (`units`). No language model runs, no frame of a run is seen twice. Writes
RUN/tower.safetensors for `features --tower` and `train --tower`, RUN/tower.pt to go on from, and RUN/tower.jsonl.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from benchmarks.embedded_model.data import BACKDROP_SHARE, Prompter, add_noise
from benchmarks.embedded_model.features import Tower, drawn
from benchmarks.embedded_model.model import CaptionModel, frozen_dtype, load_projector
from benchmarks.embedded_model.run_files import Log, Means, load_tokenizer, save_atomically
from benchmarks.embedded_model.sets import SETS, SceneSet
from benchmarks.embedded_model.team import ALONE, Team
from benchmarks.embedded_model.things import SIDE, patches
from benchmarks.embedded_model.units import BACKDROP_ROWS, UnitTargets, places
from luvc.embedded.assembly import PROJECTOR_PREFIX

#: What is drawn, how often: stills hold most things; of clips one frame.
SOURCES = {"exact_stills_large": 0.7, "exact_large": 0.3}
#: Scenes of a set that nothing here is trained on: every so-manyth, so many.
HELD_SET, HELD_EVERY, HELD = "exact_stills", 20, 120
#: Units that show a thing whole, or most of it.
LARGE = 4


@dataclass(frozen=True)
class Perception:
    """How often names are right, on things of frames not trained on.

    units: of single units; things: by the vote of a thing's units; of_four: whether the name finds its thing among
    three others, and large_of_four: the same for things of at least LARGE units.
    """

    things_seen: int
    units: float
    things: float
    of_four: float
    large_of_four: float


def frames_of(name: str, team: Team = ALONE) -> SceneSet:
    """A set, each of whose scenes is seen once; of a team each process has its part."""
    entry = SETS[name]
    part = entry.count // team.size
    return replace(entry, frames=1, first_seed=entry.seeds[team.rank * part], count=part)


def stream(material: Path, first: int, workers: int, team: Team = ALONE) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Frames and labels without end, the same for the same number of the first."""
    entries = {name: frames_of(name, team) for name in SOURCES}
    shares = np.array(list(SOURCES.values()))
    drawers: dict[str, Iterator[tuple[np.ndarray, np.ndarray]]] = {}
    # As many of each as would have been drawn before.
    done = dict(zip(SOURCES, (first * shares).astype(int).tolist(), strict=True))
    rng = np.random.default_rng([5, first, team.rank])
    while True:
        name = str(rng.choice(list(SOURCES), p=shares))
        if name not in drawers:
            drawers[name] = drawn(entries[name], material, done[name] % entries[name].count, workers)
        item = next(drawers[name], None)
        if item is None:
            done[name] = 0
            del drawers[name]
            continue
        yield item


class Eye:
    """Tower, projector and targets."""

    def __init__(self, tower: Tower, projector: nn.Module, targets: UnitTargets) -> None:
        self.tower, self.projector, self.targets = tower, projector, targets
        self.places = places((1, 1)).to(tower.device)

    def loss(self, frames: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> tuple[torch.Tensor, float]:
        """Of frames `[n, 224, 224, 3]` with labels `[n, 64, 2]`, and how many units' words are right."""
        found = torch.from_numpy(labels).long()
        words = found[..., 0]
        few = torch.from_numpy(rng.random(words.shape) < BACKDROP_SHARE)
        taught = (words >= 0) & (~torch.isin(words, BACKDROP_ROWS) | few)
        units = add_noise(self.tower.units(frames), rng)[taught.to(self.tower.device)]
        at = self.places.expand(len(frames), -1, -1)[taught.to(self.tower.device)]
        loss, right, _ = self.targets.loss(self.projector(units), found[taught].to(self.tower.device), at)
        return loss, right

    @torch.no_grad()
    def perception(self, held: list[tuple[np.ndarray, np.ndarray]], at_once: int) -> Perception:
        """On frames that were drawn for it."""
        names = functional.normalize(self.targets.words - self.targets.words.mean(0), dim=-1)
        votes, wanted, sizes, units_right = [], [], [], []
        for first in range(0, len(held), at_once):
            group = held[first : first + at_once]
            seen = self.projector(self.tower.units(np.concatenate([frames for frames, _ in group])))
            seen = seen - self.places @ self.targets.axes - self.targets.words.mean(0)
            likely = (functional.normalize(seen, dim=-1) @ names.T).cpu()
            for frame, labels in zip(likely, (labels[0] for _, labels in group), strict=True):
                for word in set(labels[:, 0].tolist()) - {-1, *BACKDROP_ROWS.tolist()}:
                    for at in patches((labels[:, 0] == word).reshape(SIDE, SIDE)):
                        votes.append(frame[at].sum(0))
                        wanted.append(word)
                        sizes.append(len(at))
                        units_right += (frame[at].argmax(-1) == word).tolist()
        vote, word = torch.stack(votes), torch.tensor(wanted)
        others = torch.from_numpy(np.random.default_rng(0).integers(len(word), size=(len(word), 3)))
        own = vote.gather(1, word[:, None])
        best = ((own > vote[others, word[:, None]]) | (word[others] == word[:, None])).all(1)
        large = torch.tensor(sizes) >= LARGE
        figures = (np.mean(units_right), (vote.argmax(-1) == word).float().mean(), best.float().mean())
        return Perception(
            len(word),
            *(round(float(value), 3) for value in (*figures, best[large].float().mean() if large.any() else 0)),
        )


def perceive(eye: Eye, args: argparse.Namespace, log: Log, team: Team = ALONE) -> None:
    """Train until `--minutes` are used up; the learning rate follows the time."""
    parts = [(list(eye.tower.adapters.values()), args.tower_lr), (list(eye.projector.parameters()), args.projector_lr)]
    optimizer = torch.optim.AdamW([{"params": group, "lr": peak} for group, peak in parts], weight_decay=0.05)
    state_path, step, used_s = args.run / "tower.pt", 0, 0.0
    if state_path.is_file():
        state = torch.load(state_path, map_location=args.device)
        step, used_s = state["step"], state["used_s"]
        eye.projector.load_state_dict(state["projector"])
        eye.tower.restore(state["adapters"])
        optimizer.load_state_dict(state["optimizer"])
        log.write(phase="perceive", resumed_at=step, used_s=used_s)
    entry = frames_of(HELD_SET)
    seeds = entry.seeds[::HELD_EVERY][: args.held]
    alone = [replace(entry, first_seed=seed, count=1) for seed in seeds] if team.leads else []
    held = [next(drawn(one, args.material, 0, 0)) for one in alone]

    def save() -> None:
        if not team.leads:
            return
        state = {"step": step, "used_s": used_s, "optimizer": optimizer.state_dict()}
        state |= {"projector": eye.projector.state_dict(), "adapters": eye.tower.export(dtype=torch.float32)}
        save_atomically(lambda aside: torch.save(state, aside), state_path)
        projector = {PROJECTOR_PREFIX + name: value.half().cpu() for name, value in eye.projector.state_dict().items()}
        part = projector | eye.tower.export()
        save_atomically(lambda aside: save_file(part, aside), args.run / "tower.safetensors")

    def look() -> None:
        if team.leads:
            frames = step * args.frames * team.size
            log.write(phase="perceive", step=step, frames=frames, **vars(eye.perception(held, args.frames)))

    look()
    budget_s, means = args.minutes * 60, Means()
    frames = stream(args.material, args.drawn + step * args.frames, args.workers, team)
    while (used_s := team.agree(used_s)) < budget_s:
        begun = time.perf_counter()
        group = [next(frames) for _ in range(args.frames)]
        progress = min(1.0, used_s / budget_s)
        scale = min(1.0, (step + 1) / 20) * (0.05 + 0.95 * (0.5 + 0.5 * math.cos(math.pi * progress)))
        for group_of, (_, peak) in zip(optimizer.param_groups, parts, strict=True):
            group_of["lr"] = peak * scale
        rng = np.random.default_rng([args.seed, 4, step, team.rank])
        shown, labels = (np.concatenate(part) for part in zip(*group, strict=True))
        loss, words_right = eye.loss(shown, labels, rng)
        optimizer.zero_grad()
        loss.backward()
        team.average(value for group, _ in parts for value in group)
        optimizer.step()
        step += 1
        used_s += time.perf_counter() - begun
        means.add(loss=float(loss.detach()), words_right=words_right)
        if step % 50 == 0:
            log.write(phase="perceive", step=step, used_s=used_s, lr=args.tower_lr * scale, **means.take())
        if step % 250 == 0:
            save()
            look()
    save()
    look()


def main() -> None:
    """Train, or go on with, one run's tower."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--material", type=Path, required=True, help="folder made by benchmarks.exact.material")
    parser.add_argument("--run", type=Path, required=True, help="folder of this run; an unfinished run goes on")
    parser.add_argument(
        "--start", type=Path, help="go on from the projector, and adapters if any, of this trained part"
    )
    parser.add_argument(
        "--drawn", type=int, default=0, help="frames that the run of --start has seen: others are drawn"
    )
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--layers", type=int, default=4, help="of the tower, counted from the one that is read")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--frames", type=int, default=8, help="in a batch")
    parser.add_argument("--held", type=int, default=HELD, help="frames that are looked at only")
    parser.add_argument("--tower-lr", type=float, default=1e-3)
    parser.add_argument("--projector-lr", type=float, default=5e-4)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--workers", type=int, default=0, help="processes that draw; 0: none beside this one")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.run.mkdir(parents=True, exist_ok=True)
    team = Team.join()
    with team.leader_first():
        prompter = Prompter(load_tokenizer(args.run))
    model = CaptionModel(0, frozen_dtype(args.device)).to(args.device)
    tower = Tower(device=args.device)
    tower.adapt(args.layers, args.rank)
    if args.start:
        part = load_file(args.start)
        load_projector(part, model.projector)
        tower.restore(part)
    eye = Eye(tower, model.projector, UnitTargets(model.lm.model.embed_tokens.weight, prompter.encode))
    perceive(eye, args, Log(args.run / "tower.jsonl" if team.leads else None), team)
    team.leave()


if __name__ == "__main__":
    main()
